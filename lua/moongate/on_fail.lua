-- moongate.on_fail - policies that have overrun their budgets too often are taken out, as they have declared.
--
-- The core counts (hook.c). Here a policy's functions are replaced, in the
-- entries that all lists of hooks share: nobody asks for each call.
local C = require "moongate.seam"
local declared = require "moongate.declared"
local hook = require "moongate.hook"
local hooks = require "moongate.hooks"
local policy = require "moongate.policy"
local state = require "moongate.state"
local works = require "moongate.works"

local on_fail = {}

local ACCESS = C.MG_PHASE_ACCESS
local applied = {}                                      -- policies that are out
local refused = setmetatable({}, { __mode = "k" })      -- req -> it was answered for a policy that is out

local function skip() end

local function go_on(req, next) return next(req) end

local function shut() return false end

-- ---- Open: as if it were not there. ----

local function open(p)
  for name, entry in pairs(p.entries) do entry.fn = name == "handle" and go_on or skip end
end

-- ---- Closed: nothing passes where it should have looked. ----

-- An exchange that was past `access` already fails. One without a route, or that was refused here, goes on to its page.
local function fail_under_way(text)
  return function(req)
    if not refused[req] and req.route then error(text, 0) end
  end
end

local harmless = { request = true, error = true, log = true, init = true, exit = true, peer = true }

local function has(list, p)
  for _, other in ipairs(list) do
    if other == p then return true end
  end
end

local function close_route(number, entry)
  local route = state.routes[number]
  local lists = {}
  for phase, list in pairs(route.hooks) do lists[phase] = list end
  lists[ACCESS] = { entry }
  route.hooks = lists
  C.mg_route_want(state.generation, number, ACCESS)
  local key = works.key(number, ACCESS)
  if works[key] then works[key] = hooks.build(ACCESS, lists[ACCESS], route) end
end

local function closed(p)
  local text = ("policy %s is taken out: it has overrun its budgets too often"):format(p.label)
  local fail = fail_under_way(text)
  for name, entry in pairs(p.entries) do
    entry.fn = harmless[name] and skip or (name == "connect" or name == "client_hello") and shut or fail
  end
  local refusing = hook.new("access", function(req)
    refused[req] = true
    C.mg_view_refuse(req[2].view, 503, text, #text)
  end, p.label, nil, nil)
  local everywhere = has(declared.uses, p)
  for number, r in pairs(declared.by_number) do
    if everywhere or has(r.policies, p) then close_route(number, refusing) end
  end
end

--- Takes out the policies of which the core says so.
function on_fail.apply()
  for _, p in ipairs(policy.all()) do
    if not applied[p] and C.mg_policy_is_out(state.generation, p.number) then
      applied[p] = true
      if p.on_fail == "open" then open(p) else closed(p) end
    end
  end
end

return on_fail

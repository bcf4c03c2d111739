-- moongate.hooks - the phases: how each calls its hooks and what it makes of what they return.
--
-- Of each list of hooks a function work(slot, pointer) is made (works.lua). Its
-- text is written out, hook by hook, and loaded anew for each list: LuaJIT
-- compiles a function for what it does first, so lists that shared one would
-- spoil it for each other. at.hook is the one at work.
local ffi = require "ffi"
local C = require "moongate.seam"
local answer = require "moongate.answer"
local body = require "moongate.filter"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local handle = require "moongate.handle"
local hook = require "moongate.hook"
local message = require "moongate.message"
local peer = require "moongate.peer"
local request = require "moongate.request"
local response = require "moongate.response"
local wait, text = fiber.wait, ffi.string

local hooks = {}

-- ---- What the texts call. ----

local tools = {
  live = exchange.live, open = exchange.open, close = exchange.close, current = fiber.current,
  at = hook.at, view_of = exchange.view_of, apply = answer.apply, request_of = request.of, response_of = response.of,
  candidates = peer.candidates,
}

function tools.attempt_peer(x, req)
  local view = x.view
  req.headers[2] = true
  return peer.of(view.peer)
end

function tools.attempt_done(x, req)
  req.headers[2] = false
end

function tools.error_of(x)
  local view = x.view
  local reason = view.failure_text
  return { status = view.status, reason = reason.ptr ~= nil and text(reason.ptr, reason.len) or nil }
end

function tools.failure_of(x)
  local view = x.view
  local reason = view.failure_text
  return {
    peer = view.peer ~= nil and peer.of(view.peer) or nil, number = view.tries,
    status = view.failure == C.MG_FAIL_STATUS and view.status or nil,
    reason = reason.ptr ~= nil and text(reason.ptr, reason.len) or nil,
  }
end

local function hedge_with(view, entry, given)
  local other, after = nil, nil
  if type(given) == "table" then other, after = given.hedge, given.after end
  if other ~= nil and not peer.is(other) or type(after) ~= "number" or not (after >= 0 and after <= 1e9) then
    error(("balance of policy %s returned a peer, and with it what is no hedge; return peer, "
      .. "{ hedge = another peer, after = seconds }"):format(entry.label), 0)
  end
  if other then C.mg_balance_hedge(view, other[1], after) end
end

--- True if the core took the choice.
function tools.pick(view, entry, picked, hedge)
  if not peer.is(picked) then
    error(("balance of policy %s returned a %s; return one of the peers it was given, or nothing")
      :format(entry.label, type(picked)), 0)
  end
  if C.mg_balance_pick(view, picked[1]) ~= 0 then return false end
  if hedge ~= nil then hedge_with(view, entry, hedge) end
  return true
end

function tools.verdict(x, entry, again)
  if type(again) ~= "boolean" then
    error(("retry of policy %s returned a %s; return true, false or nothing"):format(entry.label, type(again)), 0)
  end
  C.mg_retry_verdict(x.view, again)
end

-- ---- The texts: what comes before the hooks, and each hook. ----

local frame = [[
local list, tools, route = ...
local apply, request_of, response_of, candidates = tools.apply, tools.request_of, tools.response_of, tools.candidates
local attempt_peer, attempt_done = tools.attempt_peer, tools.attempt_done
local error_of, failure_of = tools.error_of, tools.failure_of
local pick, verdict = tools.pick, tools.verdict
local live, open, close, current, at = tools.live, tools.open, tools.close, tools.current, tools.at
return function(%s)
  %s
  local req = x.req or request_of(x)
  local entry, status, body, headers
  %s
end
]]

local function answering(phase, before, arguments)
  return {
    before = before,
    hook = ([[
  entry = list[@]
  at.hook = $
  status, body, headers = entry.fn(%s)
  if status ~= nil then return apply(x, entry, %q, status, body, headers) end
]]):format(arguments, phase),
  }
end

local texts = {
  [C.MG_PHASE_REQUEST] = answering("request", "", "req"),
  [C.MG_PHASE_ACCESS] = answering("access", "", "req"),
  [C.MG_PHASE_ATTEMPT] = { before = "local peer = attempt_peer(x, req)", hook = [[
  entry = list[@]
  at.hook = $
  status, body, headers = entry.fn(req, peer)
  if status ~= nil then
    attempt_done(x, req)
    return apply(x, entry, "attempt", status, body, headers)
  end
]], after = "attempt_done(x, req)" },
  [C.MG_PHASE_ERROR] = answering("error", "local err = error_of(x)", "req, err"),
  [C.MG_PHASE_RESPONSE] = answering("response", "if x.responded then return end x.responded = true",
    "req, x.res or response_of(x)"),
  -- Without a peer there is nothing to balance: the core answers.
  [C.MG_PHASE_BALANCE] = { before = "local peers = candidates(x.view) if not peers[1] then return end", hook = [[
  entry = list[@]
  at.hook = $
  status, body = entry.fn(req, peers)
  if status ~= nil and pick(x.view, entry, status, body) then return end
]] },
  [C.MG_PHASE_RETRY] = { before = "local failure = failure_of(x)", hook = [[
  entry = list[@]
  at.hook = $
  status = entry.fn(req, failure)
  if status ~= nil then return verdict(x, entry, status) end
]] },
  [C.MG_PHASE_LOG] = { before = "local res = x.res or response_of(x)", hook = [[
  entry = list[@]
  at.hook = $
  entry.fn(req, res)
]], after = "if not x.fibers then return close(slot) end" },
}

-- What every work begins with.
local begin = [[
  local x, f = live[slot] or open(slot, pointer), current()
  f.owner, x.route = x, route
]]

-- A balancer that looks at the peers alone: an exchange that Lua does not know yet stays unknown.
local peers_only = [[
local entry, tools = ...
local live, current, at, view_of = tools.live, tools.current, tools.at, tools.view_of
local candidates, pick = tools.candidates, tools.pick
return function(slot, pointer)
  local x = live[slot] or false
  local view = x and x.view or view_of(pointer)
  current().owner = x
  local peers = candidates(view)
  if peers[1] then
    at.hook = %d
    local picked, hedge = entry.pick(peers)
    if picked ~= nil then pick(view, entry, picked, hedge) end
  end
  return not x
end
]]

--- The work of a phase that has these hooks.
---@param route? table
---@param inner? boolean it will be called by the work of another phase, in whose fiber it runs, as work(x, f)
---@return function
function hooks.build(phase, list, route, inner)
  if phase == C.MG_PHASE_BALANCE and #list == 1 and list[1].pick then
    return assert(loadstring(peers_only:format(list[1].number), "=moongate.hooks"))(list[1], tools)
  end
  local t, pieces = texts[phase], {}
  for i = 1, #list do pieces[i] = t.hook:gsub("@", tostring(i)):gsub("%$", tostring(list[i].number)) end
  local source = frame:format(inner and "x, f" or "slot, pointer", inner and "" or begin,
    t.before .. "\n" .. table.concat(pieces) .. (t.after or ""))
  return assert(loadstring(source, "=moongate.hooks"))(list, tools, route or false)
end

local producing = hook.new("body", nil, "the answer's function", true)

local function produce(slot, pointer)
  local x = exchange.begin(slot, pointer)
  local view, fn = x.view, x.producer
  hook.at.hook = producing.number
  if not fn then return end
  while true do
    local chunk = fn()
    if chunk == nil then break end
    if type(chunk) ~= "string" then
      error(("the function that makes the body returned a %s; return a string, or nil at the end")
        :format(type(chunk)), 0)
    end
    if #chunk > 0 and wait(C.mg_answer_write(view, chunk, #chunk)) < 0 then return end
  end
  C.mg_answer_end(view)
end

--- The works of a route by phase, made when its first exchange comes.
---@return table<integer, fun(slot: integer, pointer: number)>
function hooks.prepare(route)
  local lists, works = route.hooks, {}
  for phase in pairs(texts) do works[phase] = hooks.build(phase, lists[phase] or {}, route) end
  works[C.MG_PHASE_HANDLE] = handle.build(lists[C.MG_PHASE_HANDLE] or {},
    hooks.build(C.MG_PHASE_RESPONSE, lists[C.MG_PHASE_RESPONSE] or {}, route, true), route)
  works[C.MG_PHASE_REQUEST_BODY] = body.request(lists[C.MG_PHASE_REQUEST_BODY] or {}, route)
  works[C.MG_PHASE_RESPONSE_BODY] = body.response(lists[C.MG_PHASE_RESPONSE_BODY] or {}, route)
  works[C.MG_PHASE_CLIENT_MESSAGE] = message.build(lists[C.MG_PHASE_CLIENT_MESSAGE] or {}, "client", route)
  works[C.MG_PHASE_ORIGIN_MESSAGE] = message.build(lists[C.MG_PHASE_ORIGIN_MESSAGE] or {}, "origin", route)
  works[C.MG_PHASE_PRODUCE] = produce
  return works
end

return hooks

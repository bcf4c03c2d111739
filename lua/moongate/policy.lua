-- moongate.policy - policies made alike, and the lists of hooks that an exchange runs.
local C = require "moongate.seam"
local hook = require "moongate.hook"
local problem = require "moongate.problem"
local state = require "moongate.state"

local policy = {}

-- The phases of an exchange. `turned` ones run in reverse order, as an onion does; so does the way `back`.
local phases = {
  request = { number = C.MG_PHASE_REQUEST },
  access = { number = C.MG_PHASE_ACCESS },
  handle = { number = C.MG_PHASE_HANDLE },
  request_body = { number = C.MG_PHASE_REQUEST_BODY },
  balance = { number = C.MG_PHASE_BALANCE },
  attempt = { number = C.MG_PHASE_ATTEMPT },
  retry = { number = C.MG_PHASE_RETRY },
  error = { number = C.MG_PHASE_ERROR },
  response = { number = C.MG_PHASE_RESPONSE, turned = true },
  response_body = { number = C.MG_PHASE_RESPONSE_BODY, turned = true },
  message = { number = C.MG_PHASE_CLIENT_MESSAGE, back = C.MG_PHASE_ORIGIN_MESSAGE },
  log = { number = C.MG_PHASE_LOG, turned = true },
}

-- In the order in which an exchange meets them.
policy.order = {
  "init", "connect", "client_hello", "request", "access", "handle", "request_body", "balance", "attempt", "retry",
  "response", "response_body", "message", "error", "log", "peer", "exit",
}

local keys = { name = true, on_fail = true }
local on_fails = { open = C.MG_ON_FAIL_OPEN, closed = C.MG_ON_FAIL_CLOSED }
for _, name in ipairs(policy.order) do keys[name] = true end

local everyone = {}              -- in the order of declaration
local made = setmetatable({}, { __mode = "k" })      -- the user's table or function -> policy

local function read_hooks(given, fail)
  local hooks, first = {}, nil
  for key, value in pairs(given) do
    if not keys[key] then
      fail(("unknown key %s%s"):format(problem.show(key), problem.remedy(key, keys)))
    end
    if key == "name" then
      if type(value) ~= "string" or value == "" then
        fail("name must be a string that is not empty, got " .. problem.show(value))
      end
    elseif key == "on_fail" then
      if not on_fails[value] then fail('on_fail must be "open" or "closed", got ' .. problem.show(value)) end
    elseif type(value) ~= "function" then
      fail(("%s must be a function, got %s"):format(key, problem.show(value)))
    else
      hooks[key] = value
    end
  end
  for _, name in ipairs(policy.order) do first = first or hooks[name] end
  if not first then
    fail("it has no hook; a policy has a function under one of: " .. table.concat(policy.order, ", "))
  end
  return hooks, first
end

--- The policy that `value` stands for: a table of hooks, or a function, short for { handle = function }.
---@param fail fun(text: string) raises
---@return { label: string, hooks: table<string, function>, given: table }
function policy.make(value, fail)
  if type(value) ~= "function" and type(value) ~= "table" then
    fail("must be a policy (a table of hooks, or a function(req, next)), got " .. problem.show(value))
  end
  if made[value] then return made[value] end

  local given = type(value) == "function" and { handle = value } or value
  local hooks, first = read_hooks(given, fail)
  local p = {
    given = given, hooks = hooks, label = given.name or problem.place_of_function(first), on_fail = given.on_fail,
    entries = {},       -- by phase: one for all routes
  }
  p.number = C.mg_declare_policy(state.generation, p.label, #p.label, on_fails[p.on_fail] or C.MG_ON_FAIL_NONE)
  everyone[#everyone + 1] = p
  made[value] = p
  return p
end

--- What a policy of one route may not have.
function policy.check_for_route(p, fail)
  if p.hooks.request then
    fail("a request hook runs before a route is found, so it counts only in gate.use; access is the route's own")
  end
  for _, name in ipairs { "connect", "client_hello" } do
    if p.hooks[name] then
      fail(("a %s hook runs before there is a request, so it counts only in gate.use"):format(name))
    end
  end
end

local function entry(p, name)
  local e = p.entries[name]
  if not e then
    e = hook.new(name, p.hooks[name], p.label, nil, p)
    e.policy = p.given
    p.entries[name] = e
  end
  return e
end

--- All policies that were declared.
function policy.all()
  return everyone
end

local function reverse(list)
  local n = #list
  for i = 1, math.floor(n / 2) do list[i], list[n + 1 - i] = list[n + 1 - i], list[i] end
end

--- The hooks of a route, or of the exchange without one: lists by phase number, in the order of running.
---@param uses table[] gate.use's policies
---@param own table[] the route's
---@param inmost? table<string, table> an entry within all others, by the phase's name
---@return table hooks, integer wants a bit for each phase that has some
function policy.hooks(uses, own, inmost)
  local hooks, wants = {}, 0
  for name, phase in pairs(phases) do
    local list = {}
    if name ~= "request" then
      for _, p in ipairs(uses) do
        if p.hooks[name] then list[#list + 1] = entry(p, name) end
      end
      for _, p in ipairs(own) do
        if p.hooks[name] then list[#list + 1] = entry(p, name) end
      end
      if inmost and inmost[name] then list[#list + 1] = inmost[name] end
      if phase.turned then reverse(list) end
    end
    if #list > 0 then
      hooks[phase.number] = list
      wants = wants + 2 ^ phase.number
      if phase.back then
        local back = { unpack(list) }
        reverse(back)
        hooks[phase.back] = back
        wants = wants + 2 ^ phase.back
      end
    end
  end
  return hooks, wants
end

--- Appends to `list` the hook `name` of each policy, once a policy.
function policy.collect(list, name, policies)
  for _, p in ipairs(policies) do
    local known = not p.hooks[name]
    for _, e in ipairs(list) do known = known or e.policy == p.given end
    if not known then list[#list + 1] = entry(p, name) end
  end
end

--- "access, response": the phases of a policy, in order.
function policy.phases_text(p)
  local names = {}
  for _, name in ipairs(policy.order) do
    if p.hooks[name] then names[#names + 1] = name end
  end
  return table.concat(names, ", ")
end

return policy

-- moongate.simulated - a VM in which a script is tried out: what `moongate sim` does to it before and after the load.
--
-- The script is loaded as always. Unless its policies are wanted, what it declares is reduced to the way to one
-- upstream: no policies, one route. In place of the upstream's balancer stands the one that is to be tried. Chance
-- comes from the run's seed, and what would reach out of the simulation fails.
local buffer = require "string.buffer"
local ffi = require "ffi"
local C = require "moongate.seam"
local balance = require "moongate.balance"
local declared = require "moongate.declared"
local problem = require "moongate.problem"

ffi.cdef [[
  void mg_simulation_balance(mg_upstream *u, int balance);
  uint32_t mg_simulation_turn(void);
  int setenv(const char *name, const char *value, int overwrite);
]]

local setup                 -- what the desk has said: { upstream, balance, scenario, zones, policies, seed }
local chosen                -- the record of the upstream

local function outside()
  error("a simulation has no network: what reaches out of it fails; let the scenario stand for it", 2)
end

-- The upstream that is meant.
local function find_upstream(script)
  local name, names = setup.upstream, {}
  for _, u in ipairs(declared.upstreams) do names[u.name] = true end
  if not name then
    if #declared.upstreams == 1 then return declared.upstreams[1] end
    if #declared.upstreams == 0 then problem.raise(script, "it declares no upstream") end
    local list = {}
    for i, u in ipairs(declared.upstreams) do list[i] = u.name end
    problem.raise(script, "it declares several upstreams; choose one with --upstream: " .. table.concat(list, ", "))
  end
  local u = declared.upstreams[name]
  if not u then
    problem.raise(script, ("there is no upstream %s%s"):format(problem.show(name), problem.remedy(name, names)))
  end
  return u
end

local function load_scenario(path)
  local chunk, why = loadfile(path)
  if not chunk then error(why, 0) end
  return chunk()
end

-- What is to be tried: a function, a table of them, or the name of one in C.
local function find_balancer()
  local given = setup.balance
  if given.kind == "scenario" then
    return load_scenario(setup.scenario).balance[given.key]
  elseif given.kind == "code" then
    return assert(loadstring("return require 'balance." .. given.text, "=--balance"))()
  end
  return given.text
end

local function put_balancer(u, value)
  local label = setup.balance.label
  local function fail(expected, remedy)
    error(("--balance %s: it must be %s%s"):format(label, expected, remedy or ""), 0)
  end
  if balance.built_in[value] then
    C.mg_simulation_balance(u.pointer, balance.built_in[value])
    u.balance, u.response, u.log = nil, nil, nil
    return
  end
  local found, expected, remedy = balance.find(value)
  if not found then fail(expected, remedy) end
  local hooks = type(found) == "table" and found or { balance = found }
  u.balance, u.response, u.log = hooks.balance, hooks.response, hooks.log
end

-- Only the way to the upstream stays.
local function reduce(u)
  local attempts = 0
  for _, r in ipairs(declared.routes) do
    if r.upstream == u.name or r.upstream == u.object then attempts = math.max(attempts, r.attempts) end
  end
  for i = #declared.uses, 1, -1 do declared.uses[i] = nil end
  for i = #declared.routes, 1, -1 do declared.routes[i] = nil end
  declared.routes[1] = {
    pattern = "/*", methods = {}, policies = {}, upstream = u.name, limits = {}, attempts = attempts, place = u.place,
  }
end

-- A simulated server has no page and no protocol of its own: any check asks whether it answers.
local function simplify_checks()
  local probe = require "moongate.probe"
  local check = probe.check
  function probe.check(record, options, fail)
    local simple = { path = "/", method = "GET", headers = {}, expected = { status = { [200] = true }, headers = {} } }
    for _, key in ipairs { "interval", "jitter", "timeout", "rise", "fall" } do simple[key] = options[key] end
    return check(record, simple, fail)
  end
end

local function prepare(text)
  setup = buffer.decode(text)
  local gate, worker = require "moongate", C.mg_simulation_turn()
  math.randomseed(setup.seed * 64 + worker)
  gate.connect, gate.resolve, gate.watch = outside, outside, outside
  simplify_checks()
  if setup.zones then C.setenv("ZONE", setup.zones[worker % #setup.zones + 1], 1) end

  local finish = require "moongate.finish"
  package.loaded["moongate.finish"] = function(script)
    chosen = find_upstream(script)
    if setup.balance.kind ~= "script" then put_balancer(chosen, find_balancer()) end
    if not setup.policies then reduce(chosen) end
    return finish(script)
  end
end

local function describe()
  local peers = {}
  for i, p in ipairs(chosen.peers) do peers[i] = { address = p.address, weight = p.weight, zone = p.zone } end
  return buffer.encode { upstream = chosen.name, balancer = chosen.balancer, place = chosen.place, peers = peers }
end

--- prepare: before the script is loaded, with what moongate.simulate has set up; describe: afterwards.
---@param word string
---@param text string
return function(word, text)
  if word == "prepare" then return prepare(text) end
  return describe()
end

-- moongate.balance - balancers by name, and what those that are written in Lua share.
--
-- The name X of one that is not built in stands for what require "balance.X" gives,
-- called with no options. A balancer is a function(req, peers), or a table with
-- one as `balance` and hooks beside it for requests that go to its upstream.
local C = require "moongate.seam"
local problem = require "moongate.problem"

local balance = {}

--- Those in C, which stand at an upstream only: within another balancer the files of the same names take their part.
balance.built_in = { round_robin = C.MG_BALANCE_ROUND_ROBIN, least_conn = C.MG_BALANCE_LEAST_CONN }

-- The ready-made ones, for messages: the files of scripts/balance.
local ready = {}
for name in ([[canary ewma header_hash least_conn maglev p2c random rendezvous ring round_robin slow_start source_hash
  sticky tiers zone]]):gmatch "%S+" do
  ready[name] = true
end

local hooks = { balance = true, response = true, log = true }

local EXPECTED = "a function(req, peers), or the name of a balancer"
local TABLE = "a function(req, peers), the name of a balancer, or a table of functions with balance in it"

local function load_named(name)
  local module = "balance." .. name
  if not name:find "^[%w_]+$" or not package.loaded[module] and not package.searchpath(module, package.path) then
    return nil, EXPECTED, problem.remedy(name, ready)
  end
  local make = require(module)
  if type(make) ~= "function" then
    return nil, ("the name of a balancer (%s returned a %s, not a function of its options)"):format(module, type(make))
  end
  return balance.find(make {})
end

local function check_table(given)
  for key, fn in pairs(given) do
    if not hooks[key] then
      return nil, TABLE, (" with %s%s"):format(problem.show(key), problem.remedy(key, hooks))
    elseif type(fn) ~= "function" then
      return nil, TABLE, (", whose %s is %s"):format(key, problem.show(fn))
    end
  end
  if not given.balance then return nil, TABLE, " without balance" end
  return given
end

--- The balancer that `value` stands for: a function, or a table of functions; or nil, what was expected, and more on
--- what is wrong.
---@return function|table|nil balancer, string? expected, string? remedy
function balance.find(value)
  if type(value) == "string" then return load_named(value) end
  if type(value) == "function" then return value end
  if type(value) == "table" then return check_table(value) end
  return nil, EXPECTED
end

--- The same for one that works within another: a function.
---@return function? balancer, string? expected, string? remedy
function balance.find_inner(value)
  local found, expected, remedy = balance.find(value)
  if type(found) == "table" then
    return nil, "a balancer without hooks beside it", "; let that one stand outside, with the other within"
  end
  return found, expected, remedy
end

--- A function that gives what `make` made of a table, which it made once: for lists of peers, which stay the same
--- tables until a peer comes, goes or changes its health.
---@param make fun(list: table): any not nil
---@return fun(list: table): any
function balance.memoize(make)
  local made = setmetatable({}, { __mode = "k" })
  return function(list)
    local value = made[list]
    if value == nil then
      value = make(list)
      made[list] = value
    end
    return value
  end
end

--- The sum of the weights of a list of peers.
---@type fun(peers: table): number
balance.weight_of = balance.memoize(function(peers)
  local sum = 0
  for _, peer in ipairs(peers) do sum = sum + peer.weight end
  return sum
end)

--- Is this peer in the list?
---@param peers moongate.Peer[]
---@param peer moongate.Peer
---@return boolean
function balance.contains(peers, peer)
  for i = 1, #peers do
    if peers[i] == peer then return true end
  end
  return false
end

local by_peers = setmetatable({}, { __mode = "k" })   -- balancer -> the function of peers alone that it was made of

--- A balancer that looks at the peers alone and never waits. When no other hook needs the exchange, Lua is not even
--- told of it, which saves most of what a balancer costs.
---@param pick fun(peers: table): moongate.Peer?
---@return fun(req: any, peers: table): moongate.Peer?
function balance.peers_only(pick)
  local function balancer(_, peers, ...) return pick(peers, ...) end
  by_peers[balancer] = pick
  return balancer
end

--- The function that such a balancer was made of; nil of any other.
function balance.of_peers(balancer)
  return by_peers[balancer]
end

local function split(list, key)
  local parts = {}
  for _, peer in ipairs(list) do
    local k = key(peer)
    if k ~= nil then
      local part = parts[k]
      if not part then
        part = {}
        parts[k] = part
      end
      part[#part + 1] = peer
    end
  end
  return parts
end

--- A function that splits a list of peers into lists by what `key` says of each; those for which it says nil are left
--- out. They have `all` and `declared` as the list that a balancer is called with has.
---@param key fun(peer: moongate.Peer): any what it is called with must not change: zone, meta
---@return fun(peers: table): table<any, table>
function balance.partition(key)
  local parts_of = balance.memoize(function(all)
    local parts, declared = split(all, key), split(all.declared, key)
    for k, part in pairs(parts) do part.all, part.declared = part, declared[k] end
    return parts
  end)
  return function(peers)
    local all = peers.all
    local whole = parts_of(all)
    if peers == all then return whole end
    local parts = split(peers, key)
    for k, part in pairs(parts) do
      local of = whole[k] or part
      part.all, part.declared = of, of.declared or part
    end
    return parts
  end
end

return balance

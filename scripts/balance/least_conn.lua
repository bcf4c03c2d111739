-- balance.least_conn - the peer with the least in flight for its weight, over all workers.
--
--   balance = require "balance.least_conn" {}
--
-- The name "least_conn" at an upstream stands for the one in C. This is the same
-- in Lua: to be read, to be changed, and to stand within other balancers.
--
-- It is to requests what joining the shortest queue is to customers (Winston,
-- "Optimality of the shortest line discipline", J. Applied Probability 14, 1977).
-- Of several it takes any, or all workers would run to the same one.

local gate = require "moongate"

local random = math.random

---@param given {}?
---@return fun(req, peers): table? peer
return function(given)
  gate.options("balance.least_conn", given, {})

  return gate.peers_only(function(peers)
    local n = #peers
    local at, best, least = random(n), nil, math.huge
    for _ = 1, n do
      local peer = peers[at]
      local load = (peer.active + 1) / peer.weight
      if load < least then best, least = peer, load end
      at = at < n and at + 1 or 1
    end
    return best
  end)
end

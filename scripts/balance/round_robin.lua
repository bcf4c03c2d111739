-- balance.round_robin - in turn, by weight, and smoothly: 5, 1, 1 goes a a b a c a a.
--
--   balance = require "balance.round_robin" {}
--
-- The name "round_robin" at an upstream stands for the one in C, whose turns all
-- workers share. This is the same in Lua, for each worker: to be read, to be
-- changed, and to stand within other balancers.
--
-- Everybody gains their weight, the richest is picked and pays what all have
-- gained. As nginx does it (ngx_http_upstream_round_robin.c).

local gate = require "moongate"

---@param given {}?
---@return fun(req, peers): table? peer
return function(given)
  gate.options("balance.round_robin", given, {})
  local purses_of = gate.memoize(function() return {} end)

  return gate.peers_only(function(peers)
    local purses, best, sum = purses_of(peers.all), peers[1], 0
    for i = 1, #peers do
      local peer = peers[i]
      sum = sum + peer.weight
      purses[peer] = (purses[peer] or 0) + peer.weight
      if purses[peer] > purses[best] then best = peer end
    end
    purses[best] = purses[best] - sum
    return best
  end)
end

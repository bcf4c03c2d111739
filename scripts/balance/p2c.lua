-- balance.p2c - the power of two choices: of two peers picked by chance, the one with less in flight.
--
--   gate.upstream("app", { peers = { ... }, balance = "p2c" })
--
-- Nearly as even as asking all of them (the fullest of n is log log n above the
-- mean, where one choice is log n / log log n), at the cost of two, and no crowd
-- runs to the one that was idle a moment ago. Azar, Broder, Karlin and Upfal,
-- "Balanced allocations", 1994; Mitzenmacher, "The power of two choices in
-- randomized load balancing", IEEE Trans. Parallel and Distributed Systems 12, 2001.
--
-- A peer with twice the weight is drawn twice as often, and may have twice as much in flight.

local gate = require "moongate"

---@param given {}?
---@return fun(req, peers): table? peer
return function(given)
  gate.options("balance.p2c", given, {})
  local draw = require "balance.random" {}

  return gate.peers_only(function(peers)
    local one = draw(nil, peers)
    local other = draw(nil, peers, one)
    if other.active / other.weight < one.active / one.weight then return other end
    return one
  end)
end

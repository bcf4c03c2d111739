-- balance.rendezvous - the same key goes to the same peer, without a table: the highest bid wins.
--
--   gate.upstream("cache", { peers = { ... }, balance = require "balance.rendezvous" {
--     key = function(req) return req.headers["x-tenant"] end } })
--
-- By name the key is the client's address. A key of nil leaves the choice to the
-- upstream. Each peer draws a number from the key and its own address, and the
-- highest wins: when one goes only its own keys move, and evenly to all others;
-- another try goes to the second highest. It asks every peer, so with hundreds
-- of them balance.maglev is faster. Thaler and Ravishankar, "Using name-based
-- mappings to increase hit rates", IEEE/ACM Trans. Networking 6, 1998; weights by
-- the logarithm: Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005.

local gate = require "moongate"

local hash, log = gate.hash, math.log

---@param given { key: (fun(req): string?)? }?
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.rendezvous", given, {
    key = { "function", default = function(req) return req.client.ip end },
  })
  local key_of = options.key

  return function(req, peers)
    local key = key_of(req)
    if not key then return end
    local best, most = nil, -1
    for i = 1, #peers do
      local peer = peers[i]
      local bid = -peer.weight / log(hash(key, peer.hash))
      if bid > most then best, most = peer, bid end
    end
    return best
  end
end

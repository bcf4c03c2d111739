-- balance.ewma - peak EWMA: of two peers picked by chance, the one that is likely to answer first.
--
--   gate.upstream("app", { peers = { ... }, balance = "ewma" })
--
-- What a peer costs is its latency times what it has in flight. The latency is a
-- moving average that leaps up with the first slow answer and fades over ten
-- seconds (peer.peak, over all workers), so a peer that stumbles is left alone at
-- once, and one that has recovered is tried again: an average that only
-- requests can change would starve it for ever. As in Twitter's Finagle
-- (finagle-core, loadbalancer/PeakEwma.scala).
--
-- A peer that answers errors quickly looks cheap here.

local gate = require "moongate"

local UNKNOWN = 1e6     -- more than any latency: with one request on its way, wait for what it tells

local function cost(peer)
  local latency, active = peer.peak, peer.active
  if latency == 0 and active > 0 then return (UNKNOWN + active) / peer.weight end
  return latency * (active + 1) / peer.weight
end

---@param given {}?
---@return fun(req, peers): table? peer
return function(given)
  gate.options("balance.ewma", given, {})
  local draw = require "balance.random" {}

  return gate.peers_only(function(peers)
    local one = draw(nil, peers)
    local other = draw(nil, peers, one)
    if cost(other) < cost(one) then return other end
    return one
  end)
end

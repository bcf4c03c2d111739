-- balance.zone - peers of this gateway's own zone first; others when they are too few, or too busy.
--
--   gate.upstream("app", { balance = require "balance.zone" { zone = os.getenv "ZONE", full = 50 }, peers = {
--     { "10.0.0.1:80", zone = "a" }, { "10.0.1.1:80", zone = "b" } } })
--
-- Traffic between zones is slow and has its price. All requests stay as long as
-- the zone has `spare` (1.4) times less than it needs left: with half of its
-- weight healthy, 70 % stay and 30 % spill over. With `full`, one also spills over
-- when the zone has as many requests in flight for each unit of weight. Another
-- try follows the same rule. Thresholds as in Envoy's manual ("Locality weighted
-- load balancing").

local gate = require "moongate"

local random, weight_of = math.random, gate.weight_of

local function load_of(peers)
  local sum = 0
  for i = 1, #peers do sum = sum + peers[i].active end
  return sum / weight_of(peers)
end

---@param given { zone: string, spare: number?, full: number?, balance: any }
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.zone", given, {
    zone = { "string", needed = true },
    spare = { "number", min = 1, default = 1.4 },
    full = { "number", above = 0 },
    balance = { "balancer", default = "p2c" },
  })
  local parts_of = gate.partition(function(peer) return peer.zone == options.zone and "near" or "far" end)

  return function(req, peers)
    local parts = parts_of(peers)
    local near, far = parts.near, parts.far
    if not near or not far then return options.balance(req, near or far) end
    if random() >= options.spare * weight_of(near.all) / weight_of(near.declared) then
      return options.balance(req, far)
    end
    if options.full and load_of(near.all) >= options.full then return options.balance(req, far) end
    return options.balance(req, near)
  end
end

-- balance.tiers - priorities: the first tier serves, the others stand by.
--
--   gate.upstream("app", { balance = require "balance.tiers" { balance = "least_conn" }, peers = {
--     "10.0.0.1:80", "10.0.0.2:80", { "10.1.0.1:80", meta = { tier = 2 } } } })
--
-- A peer's tier is its meta.tier, or what discovery says, or 1; `tier` may say otherwise.
-- The lowest is the first. As long as most of a tier is healthy all requests go
-- there. It is taken to have `spare` times what it needs (1.4), so when less than
-- 1 / 1.4 = 71 % of its weight is left, what is too much goes to the next tier, and
-- so on. With spare = math.huge the next one waits until none is left. Another try
-- follows the same rule. As Envoy does it ("Priority levels" and its
-- overprovisioning factor in its manual).

local gate = require "moongate"

local random, weight_of = math.random, gate.weight_of

local function sorted_keys(parts)
  local keys = {}
  for key in pairs(parts) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

local function declared_tier(peer)
  return peer.meta and peer.meta.tier or peer.tier or 1
end

---@param given { tier: (fun(peer): number)?, spare: number?, balance: any }?
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.tiers", given, {
    tier = { "function", default = declared_tier },
    spare = { "number", min = 1, max = math.huge, default = 1.4 },
    balance = { "balancer", default = "p2c" },
  })
  local tiers_of, order_of = gate.partition(options.tier), gate.memoize(sorted_keys)

  return function(req, peers)
    local tiers = tiers_of(peers)
    local order, at = order_of(tiers), random()
    for i = 1, #order do
      local tier = tiers[order[i]]
      at = at - options.spare * weight_of(tier.all) / weight_of(tier.declared)
      if at < 0 then return options.balance(req, tier) end
    end
    return options.balance(req, tiers[order[1]])        -- not enough anywhere: then where it should be
  end
end

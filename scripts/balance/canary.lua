-- balance.canary - a share of the requests goes to the peers that run what is new.
--
--   gate.upstream("app", { balance = require "balance.canary" { share = 0.05 }, peers = {
--     "10.0.0.1:80", "10.0.0.2:80", { "10.0.0.3:80", meta = { canary = true } } } })
--
-- Which ones these are says meta.canary, or `canary`, a function. With `key` it is
-- a share of users instead, each of whom sees one version only, and who stay
-- when the share grows: key = function(req) return req.cookies.user end. When
-- either side has nobody left, also for another try, the other one serves. See
-- Sato, "CanaryRelease", martinfowler.com, 2014.

local gate = require "moongate"

local SEED = 1          -- so that users fall otherwise than by balancers that hash the same key

local function declared_canary(peer)
  return peer.meta and peer.meta.canary
end

---@param given { share: number, canary: (fun(peer): boolean)?, key: (fun(req): string?)?, balance: any }
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.canary", given, {
    share = { "number", min = 0, max = 1, needed = true },
    canary = { "function", default = declared_canary },
    key = { "function" },
    balance = { "balancer", default = "p2c" },
  })
  local parts_of = gate.partition(function(peer) return options.canary(peer) and "canary" or "stable" end)

  return function(req, peers)
    local parts = parts_of(peers)
    local key = options.key and options.key(req)
    local at = key and gate.hash(key, SEED) or math.random()
    local part = at < options.share and parts.canary or parts.stable or parts.canary
    return options.balance(req, part)
  end
end

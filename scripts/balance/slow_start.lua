-- balance.slow_start - a peer that has just come gets its share little by little.
--
--   gate.upstream("app", { peers = { ... },
--     balance = require "balance.slow_start" { window = 30, balance = "least_conn" } })
--
-- New processes have cold caches and code that is not compiled yet, and the least
-- loaded peer is just the one that has come. So when the balancer within picks a
-- peer whose peer.since is less than `window` seconds ago, that stands only with
-- a chance of ((now - since) / window) ^ (1 / aggression), at least `least`; else
-- it picks again without that one. Peers that have come together count as warm
-- to each other. The curve is Envoy's ("Slow start mode" in its manual).

local gate = require "moongate"

local random, max, min = math.random, math.max, math.min

local ends_of = gate.memoize(function(peers)
  local oldest, newest = math.huge, 0
  for _, peer in ipairs(peers) do
    oldest, newest = min(oldest, peer.since), max(newest, peer.since)
  end
  return { oldest = oldest, newest = newest }
end)

local function without(peers, one)
  local list = { all = peers.all, declared = peers.declared }
  for _, peer in ipairs(peers) do
    if peer ~= one then list[#list + 1] = peer end
  end
  return list
end

---@param given { window: number?, least: number?, aggression: number?, balance: any }?
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.slow_start", given, {
    window = { "seconds", above = 0, default = 30 },
    least = { "number", above = 0, default = 0.1 },
    aggression = { "number", above = 0, default = 1 },
    balance = { "balancer", default = "p2c" },
  })
  local window, inner = options.window, options.balance

  local function warmth(since, now)
    return max(options.least, min(1, max(0, now - since) / window) ^ (1 / options.aggression))
  end

  return function(req, peers)
    local ends, now = ends_of(peers), gate.now()
    if now - ends.newest >= window then return inner(req, peers) end

    local most, list = warmth(ends.oldest, now), peers
    for _ = 2, #peers do
      local peer = inner(req, list)
      if not peer or random() * most < warmth(peer.since, now) then return peer end
      list = without(list, peer)
    end
    return inner(req, list)
  end
end

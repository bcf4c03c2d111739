-- limit.rate - so many requests a second for each client, in all workers, or all gateways, together.
--
--   local rate = require "limit.rate" { rate = 10, burst = 20 }                     -- 10 a second, 20 at once
--   local rate = require "limit.rate" { rate = 1000, per = 3600, window = true }    -- 1,000 in any hour
--   gate.route { "/search", policies = { rate }, upstream = search }
--
-- `by` says what counts as one client: a function(req), the client's address if absent; requests for which it gives
-- nil pass. Who is over the limit gets 429, with Retry-After. Every response tells what is left in RateLimit, unless
-- `fields` is false.
--
-- Without `window` it is a token bucket: it holds `burst` (as many as `rate` if not given), and refills by `rate` every
-- `per` seconds. With it, no more than `rate` are let through in any `per` seconds, by a sliding window.
-- `store = "redis://..."` counts for a fleet; `store`, `on_fail`, `size`: limit/counts.lua.

local gate = require "moongate"
local counts = require "limit.counts"

local function client_address(req)
  return req.client.ip
end

---@param given { rate: number, per: number?, burst: number?, window: boolean?, by: (fun(req): string?)?,
---  fields: boolean?, name: string?, store: string?, on_fail: string?, size: number|string? }
---@return table policy
return function(given)
  local options = gate.options("limit.rate", given, counts.shape {
    rate = { "number", above = 0, needed = true },
    per = { "seconds", above = 0, default = 1 },
    burst = { "count", min = 1 },
    window = { "boolean", default = false },
    by = { "function", default = client_address },
    fields = { "boolean", default = true },
    name = { "string", default = "limit.rate" },       -- policies that share it share their counts
  })
  if options.window and options.burst then error("limit.rate: burst is a token bucket's; window has none", 2) end
  local store = counts.open("limit.rate", options)
  local rate, per = options.rate, options.per
  local step = per / rate
  local burst = options.burst or math.max(1, math.ceil(rate))
  local most, seconds = burst, burst * step
  if options.window then most, seconds = rate, per end
  local policy, left_of = counts.fields(options.name, most, seconds)

  local function ask(client)
    if options.window then return store:window(client, 1, rate, per) end
    return store:bucket(client, 1, step, seconds)
  end

  local function access(req)
    local client = options.by(req)
    if not client then return end
    local wait, left = ask(client)
    if not wait then return counts.failed(options) end
    if wait > 0 then
      return 429, "too many requests\n", {
        ["retry-after"] = ("%d"):format(math.ceil(wait)),
        ["ratelimit-policy"] = policy, ratelimit = left_of(left, wait),
      }
    end
    if options.fields then req.ctx[store] = left end
  end

  local function response(req, res)
    local left = req.ctx[store]
    if not left then return end
    res.headers["ratelimit-policy"] = policy
    res.headers.ratelimit = left_of(left, options.window and per or (burst - left) * step)
  end

  return { name = "limit.rate", access = access, response = options.fields and response or nil }
end

-- limit.quota - so many requests, or bytes, for each client in an hour, a day or a month.
--
--   local quota = require "limit.quota" { most = 10000, per = "day", by = user_of }
--   local traffic = require "limit.quota" { most = "5G", per = "month", count = "bytes", by = user_of }
--
-- `by` is a function(req) that tells clients apart; requests for which it gives nil pass. Periods begin at the full
-- hour, at midnight, on the first of the month, UTC; `per` may also be seconds. Who has used it up gets 429, with
-- Retry-After. Bytes are those of the response's bodies, counted when it has ended, so the last one may go over. Counts
-- in shared memory last as long as the gateway and its upgrades; those that must outlive it belong in Redis: `store`,
-- `on_fail`, `size` as in limit/counts.lua.

local gate = require "moongate"
local counts = require "limit.counts"

local lengths = { hour = 3600, day = 86400 }

-- Unix time at which the period ends that `now` lies in.
local function end_of(per, now)
  if per == "month" then
    local at = os.date("!*t", now)
    local noon = { year = at.year, month = at.month + 1, day = 1, hour = 12 }
    -- os.time reads local time: what it is off by at noon is taken off again.
    local stamp = os.time(noon)
    local utc = os.date("!*t", stamp)
    utc.isdst = os.date("*t", stamp).isdst
    return stamp + os.difftime(stamp, os.time(utc)) - 12 * 3600
  end
  return (math.floor(now / per) + 1) * per
end

---@param given { most: number|string, per: string|number, by: fun(req): string?, count: string?, fields: boolean?,
---  name: string?, store: string?, on_fail: string?, size: number|string? }
---@return table policy
return function(given)
  local options = gate.options("limit.quota", given, counts.shape {
    most = { "size", min = 1, needed = true },
    per = { "any", needed = true },
    by = { "function", needed = true },
    count = { { "requests", "bytes" }, default = "requests" },
    fields = { "boolean", default = true },
    name = { "string", default = "limit.quota" },
  })
  local per = lengths[options.per] or options.per
  if per ~= "month" and not (type(per) == "number" and per >= 1) then
    error(('limit.quota: per must be "hour", "day", "month" or seconds, got "%s"'):format(tostring(options.per)), 2)
  end
  local store = counts.open("limit.quota", options)
  local most, bytes = options.most, options.count == "bytes"
  local policy, left_of = counts.fields(options.name, most, per == "month" and 30 * 86400 or per)

  local function access(req)
    local client = options.by(req)
    if not client then return end
    local ends = end_of(per, gate.time())
    local wait, left = store:period(client, bytes and 0 or 1, bytes and most - 1 or most, ends)
    if not wait then return counts.failed(options) end
    if wait > 0 then
      return 429, "the quota is used up\n", {
        ["retry-after"] = ("%d"):format(math.ceil(wait)), ["ratelimit-policy"] = policy, ratelimit = left_of(0, wait),
      }
    end
    req.ctx[store] = { client = client, left = bytes and left + 1 or left, ends = ends }
  end

  local function response(req, res)
    local known = req.ctx[store]
    if not known then return end
    res.headers["ratelimit-policy"] = policy
    res.headers.ratelimit = left_of(known.left, known.ends - gate.time())
  end

  local function log(req, res)
    local known = req.ctx[store]
    if known and res then store:period(known.client, res.bytes, most, known.ends, true) end
  end

  return {
    name = "limit.quota", access = access, response = options.fields and response or nil, log = bytes and log or nil,
  }
end

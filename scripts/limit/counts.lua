-- limit.counts - where the policies of limit/ keep their counts: no policy itself.
--
-- In memory that all workers of this gateway share, or, with `store = "redis://:password@host:6379/0"` (rediss:// for
-- TLS, or "unix:/path"), in Redis, for a fleet of gateways that count together. Every step is atomic: a compare and
-- swap in shared memory, a script in Redis, whose clock counts then.
--
-- When the store can't be asked, `on_fail` decides: "open" lets requests pass uncounted, "closed" answers 503. The log
-- says so once, and once more when it answers again; meanwhile Redis is asked no oftener than once a second, so that
-- requests do not wait for its timeout.
--
-- What a step gives: the seconds to wait until it would pass (0: it has, and is counted) and how many more would pass
-- now; or nil, when the store can't be asked.

local gate = require "moongate"
local redis = require "store.redis"

local SLACK = 1e-6          -- seconds: what is lost in sums of fractions
local SWAPS_MOST = 1000     -- by other workers, before a step is given up
local HOLD_OFF = 1

local floor, max, ceil = math.floor, math.max, math.ceil

---@class limit.Counts
local counts = {}

-- ---- Shared memory. ----

local memory = {}
memory.__index = memory

-- The generic cell rate algorithm (ITU-T I.371): what is kept is the time at which the bucket is full again.
-- `step`: seconds that one takes to come back; `most`: seconds for all of them. With `force` it is taken in any case.
function memory:bucket(key, cost, step, most, force)
  local dict, now = self.dict, gate.now()
  for _ = 1, SWAPS_MOST do
    local old = dict:get(key)
    local from = old and old > now and old or now
    local to = from + cost * step
    local over = to - now - most
    if over > SLACK and not force then return over, floor((most - from + now) / step + SLACK) end
    local ok, reason = dict:swap(key, old, to, to - now)
    if ok then return force and max(over, 0) or 0, floor((most - to + now) / step + SLACK) end
    if reason ~= "changed" then return nil, reason end
  end
  return nil, "other workers change it all the time"
end

-- How long until `cost` more fit, when the window before had `before` and this one `here`, and `part` of it is over.
local function wait_for_window(before, here, part, cost, limit, seconds)
  if cost > limit then return seconds * 2 end
  if here + cost <= limit then return (1 - (limit - cost - here) / before - part) * seconds end
  return (1 - part + 1 - (limit - cost) / here) * seconds
end

-- A sliding window, approximated by two fixed ones: the one before counts by the share that the sliding one covers.
function memory:window(key, cost, limit, seconds)
  local at = gate.time() / seconds
  local index = floor(at)
  local part = at - index
  local dict, name = self.dict, key .. "\0" .. index
  local before = dict:get(key .. "\0" .. index - 1) or 0
  local here, reason = dict:incr(name, cost, 0, 2 * seconds)
  if not here then return nil, reason end
  local left = limit - before * (1 - part) - here
  if left > -SLACK then return 0, floor(left + SLACK) end
  dict:incr(name, -cost, 0, 2 * seconds)
  return wait_for_window(before, here - cost, part, cost, limit, seconds), max(0, floor(left + cost + SLACK))
end

-- A count that begins anew at `ends` (Unix time). With `force` it counts in any case.
function memory:period(key, cost, limit, ends, force)
  local dict, name, wait = self.dict, key .. "\0" .. ends, max(ends - gate.time(), 1e-3)
  local sum, reason = dict:incr(name, cost, 0, wait)
  if not sum then return nil, reason end
  if sum <= limit or force then return sum <= limit and 0 or wait, max(0, limit - sum) end
  dict:incr(name, -cost, 0, wait)
  return wait, max(0, limit - sum + cost)
end

-- The request counts until it ends.
function memory:hold(req, key, most)
  local count, reason = self.dict:count(req, key, most)
  if count then return 0, most - count end
  if reason == "full" then return 1, 0 end
  return nil, reason
end

-- ---- Redis. ----

-- Each script is the function of the same name above.
local NOW = "local t = redis.call('TIME') local now = t[1] + t[2] / 1e6 "

local scripts = {
  bucket = NOW .. [[
    local cost, step, most, force = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
    local from = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
    local to = from + cost * step
    local over = to - now - most
    if over > 1e-6 and not force then
      return { tostring(over), math.floor((most - from + now) / step + 1e-6) }
    end
    redis.call('SET', KEYS[1], string.format('%.6f', to), 'PX', math.max(1, math.ceil((to - now) * 1000)))
    return { tostring(force and math.max(over, 0) or 0), math.floor((most - to + now) / step + 1e-6) }
  ]],
  window = NOW .. [[
    local cost, limit, seconds = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
    local index = math.floor(now / seconds)
    local part = now / seconds - index
    local name = KEYS[1] .. ':' .. index % 2
    local kept = redis.call('HMGET', KEYS[1], 'index', 'here', 'before')
    local last, here, before = tonumber(kept[1] or index), tonumber(kept[2] or 0), tonumber(kept[3] or 0)
    if last < index then
      before = last == index - 1 and here or 0
      here = 0
    end
    local left = limit - before * (1 - part) - here - cost
    if left <= -1e-6 then
      local wait = seconds * 2
      if here + cost <= limit then wait = (1 - (limit - cost - here) / before - part) * seconds
      elseif cost <= limit then wait = (2 - part - (limit - cost) / here) * seconds end
      return { tostring(wait), math.max(0, math.floor(left + cost + 1e-6)) }
    end
    redis.call('HSET', KEYS[1], 'index', index, 'here', here + cost, 'before', before)
    redis.call('PEXPIRE', KEYS[1], math.ceil(seconds * 2000))
    return { '0', math.floor(left + 1e-6) }
  ]],
  period = NOW .. [[
    local cost, limit, ends, force = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
    local name, wait = KEYS[1] .. ':' .. ARGV[3], math.max(ends - now, 0.001)
    local sum = tonumber(redis.call('GET', name) or 0) + cost
    if sum > limit and not force then return { tostring(wait), math.max(0, limit - sum + cost) } end
    redis.call('SET', name, string.format('%.17g', sum), 'PX', math.ceil(wait * 1000))
    return { sum <= limit and '0' or tostring(wait), math.max(0, limit - sum) }
  ]],
  -- Members are requests, by when they stop to count if nobody renews them.
  hold = NOW .. [[
    local most, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    local count = redis.call('ZCARD', KEYS[1])
    if count >= most then return { '1', 0 } end
    redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
    redis.call('PEXPIRE', KEYS[1], math.ceil(lease * 1000))
    return { '0', most - count - 1 }
  ]],
  renew = NOW .. [[
    redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[2]), ARGV[1])
    redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[2]) * 1000))
    return { '0', 0 }
  ]],
}
local digests = {}
for name, script in pairs(scripts) do digests[name] = gate.crypto.hex(gate.crypto.sha1(script)) end

local fleet = {}
fleet.__index = fleet

-- Tells once that the store can't be asked, and once that it can again.
local function note(self, reason)
  if reason then
    self.next_try = gate.now() + HOLD_OFF
    if not self.away then
      gate.log.warn(("%s: %s: %s; requests %s till it answers"):format(self.who, self.shown, reason,
        self.on_fail == "open" and "pass uncounted" or "are answered with 503"))
    end
  elseif self.away then
    gate.log.info(("%s: %s answers again"):format(self.who, self.shown))
  end
  self.away = reason ~= nil
end

local function run(self, script, key, ...)
  if self.away and gate.now() < self.next_try then return nil, "away" end
  key = self.prefix .. key
  local reply, reason = self.db:command("EVALSHA", digests[script], 1, key, ...)
  if not reply and reason:match "^NOSCRIPT" then
    reply, reason = self.db:command("EVAL", scripts[script], 1, key, ...)
  end
  note(self, not reply and reason or nil)
  if not reply then return nil, reason end
  return tonumber(reply[1]), reply[2]
end

function fleet:bucket(key, cost, step, most, force)
  return run(self, "bucket", key, cost, step, most, force and 1 or 0)
end

function fleet:window(key, cost, limit, seconds)
  return run(self, "window", key, cost, limit, seconds)
end

function fleet:period(key, cost, limit, ends, force)
  return run(self, "period", key, cost, limit, ends, force and 1 or 0)
end

function fleet:hold(req, key, most)
  local id = req.id
  local wait, left = run(self, "hold", key, id, most, self.lease)
  if wait ~= 0 then return wait, left end
  if not next(self.held) then self:renew_later() end
  self.held[id] = key
  return 0, left
end

--- In the log phase of what has called hold: the request counts no longer.
function fleet:give(req)
  local key = self.held[req.id]
  if not key then return end
  self.held[req.id] = nil
  if not next(self.held) then self.timer:stop() end
  if not self.away then self.db:command("ZREM", self.prefix .. key, req.id) end
end

function memory:give() end      -- the core does it

-- As long as there are any, and no longer: an idle gateway asks nobody.
function fleet:renew_later()
  self.timer = gate.after(self.lease / 3, function()
    local ids = {}
    for id in pairs(self.held) do ids[#ids + 1] = id end
    for _, id in ipairs(ids) do
      if self.held[id] then run(self, "renew", self.held[id], id, self.lease) end
    end
    if next(self.held) then self:renew_later() end
  end)
end

-- ---- Which of them. ----

local function client_of(url)
  if url:sub(1, 5) == "unix:" then return redis(url) {}, url end
  local scheme, rest = url:match "^(rediss?)://(.+)$"
  if not scheme then return nil end
  local user, password, at = rest:match "^([^:@/]*):([^@/]*)@(.+)$"
  local host, database = (at or rest):match "^([^/]+)/?(%d*)$"
  if not host then return nil end
  if not host:match ":%d+$" then host = host .. ":6379" end
  local db = redis(host) {
    user = user and user ~= "" and gate.unescape(user) or nil, password = password and gate.unescape(password),
    database = tonumber(database), tls = scheme == "rediss" or nil,
  }
  return db, scheme .. "://" .. host
end

local shape = {
  store = { "string" },
  on_fail = { { "open", "closed" }, default = "open" },
  size = { "size", min = 65536, default = 2 ^ 22 },      -- of the shared memory
}

--- The options of a policy that counts, with the store's own: a shape for gate.options.
---@param own table
---@return table
function counts.shape(own)
  for key, row in pairs(shape) do own[key] = row end
  return own
end

--- Opens the store that checked options name.
---@param who string the policy, for messages
---@param options { store: string?, name: string, size: number, on_fail: string, lease: number? }
---@return limit.Counts
function counts.open(who, options)
  if not options.store then return setmetatable({ dict = gate.shared(options.name, options.size) }, memory) end
  local db, shown = client_of(options.store)
  if not db then
    error(('%s: store must be like "redis://:password@10.0.0.1:6379/0", got "%s"'):format(who, options.store), 3)
  end
  return setmetatable({
    who = who, db = db, shown = shown, prefix = options.name .. ":", on_fail = options.on_fail, away = false,
    next_try = 0, lease = options.lease, held = {},
  }, fleet)
end

--- What to answer when a step gave nil.
---@return integer? status, string? body
function counts.failed(options)
  if options.on_fail == "closed" then return 503, "limits can't be checked now\n" end
end

--- What a client is told of a limit (draft-ietf-httpapi-ratelimit-headers-10): RateLimit-Policy, RateLimit.
---@param name string
---@param quota number
---@param seconds number
---@return string policy, fun(left: number, wait: number): string
function counts.fields(name, quota, seconds)
  local quoted = '"' .. name:gsub('[%c"\\\128-\255]', "_") .. '"'
  return ("%s;q=%d;w=%d"):format(quoted, quota, ceil(seconds)), function(left, wait)
    return ("%s;r=%d;t=%d"):format(quoted, left, ceil(wait))
  end
end

return counts

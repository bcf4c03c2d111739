-- cache - stores responses in memory that all workers share, and answers with them (RFC 9111, RFC 5861).
--
--   local cache = require "cache" { size = "256M" }
--   gate.route { "/*", policies = { auth, cache }, upstream = app }
--
-- Put it last in the list: policies before it see every request, and see stored responses as they see those of the
-- origin. How the origin's Cache-Control, Expires, Vary and ETag decide is told in cache.md; so are purging, tags, and
-- what is never stored: what is private, sets cookies, or was asked for with Authorization.
--
-- size ("64M"): of the memory; the least recently used responses go first. max_body ("1M"): longer ones pass by.
-- ttl (0): seconds for responses that say nothing of it. heuristic (0.1): the part of the time since Last-Modified that
-- they count as fresh instead, at most max_heuristic (86400). stale_while_revalidate, stale_if_error (0): seconds for
-- responses that do not say. wait (5): seconds that a request waits for another one that asks the origin for the same.
-- key: a function(req) in place of scheme, host, path and query. bypass: a function(req); true: as if there were none.
-- client_control (true): Cache-Control in requests counts. control_fields: response fields that count in place of
-- Cache-Control, like "cdn-cache-control". set_cookie ("refuse", or "strip"). tags: response fields with tags. purge:
-- networks of clients that may send PURGE. status (true): Cache-Status in responses. name ("cache"): policies with the
-- same name share what they store.

local gate = require "moongate"
local origin = require "cache.origin"
local purge = require "cache.purge"
local rules = require "cache.rules"
local serve = require "cache.serve"

local NO_CACHE, NO_STALE = rules.NO_CACHE, rules.NO_STALE
local ANYTHING = math.huge
local WITH_CONTROL = 1                  -- found.asks: the request has Cache-Control or Pragma
local HIT_WORDS_MOST = 4096
local POLL_FIRST, POLL_MOST = 0.001, 0.02

local shape = {
  name = { "string", default = "cache" }, size = { "size", default = 64 * 2 ^ 20, min = 2 ^ 20 },
  max_body = { "size", default = 2 ^ 20 },
  ttl = { "seconds", default = 0 }, heuristic = { "number", default = 0.1, min = 0, max = 1 },
  max_heuristic = { "seconds", default = 86400 },
  stale_while_revalidate = { "seconds", default = 0 }, stale_if_error = { "seconds", default = 0 },
  wait = { "seconds", default = 5 }, key = { "function" }, bypass = { "function" },
  client_control = { "boolean", default = true }, set_cookie = { { "refuse", "strip" }, default = "refuse" },
  control_fields = { "strings", default = {} },
  tags = { "strings", default = { "cache-tag", "surrogate-key" } }, purge = { "strings" },
  status = { "boolean", default = true },
}

local no_control = {}

-- What the request says to caches (RFC 9111 5.2.1, 5.4).
local function control_of(req)
  local value = req.headers["cache-control"]
  if value then return rules.directives(value) end
  return (req.headers.pragma or ""):lower():find "no%-cache" and { ["no-cache"] = true } or no_control
end

-- "fresh" or "stale" if it may be used as it is, "refresh" if it may be once while another one is asked for; nil.
local function use_of(found, control)
  local times, age = found.times, gate.now() - found.times.born
  local most = rules.seconds(control["max-age"])
  if bit.band(times.flags, NO_CACHE) ~= 0 or control["no-cache"] then return nil end
  local left = times.fresh - age
  local least = rules.seconds(control["min-fresh"]) or 0
  if left > 0 and left >= least and age <= (most or ANYTHING) then return "fresh" end
  if bit.band(times.flags, NO_STALE) ~= 0 then return nil end
  local stale = control["max-stale"]
  if stale and (most == nil or age <= most) and -left <= (stale == true and ANYTHING or rules.seconds(stale)) then
    return "stale"
  end
  if left <= 0 and -left < times.while_revalidate and not (most or control["min-fresh"]) then return "refresh" end
end

---@class cache.Options
---@field size? number|string
---@field max_body? number|string
---@field ttl? number
---@field heuristic? number
---@field max_heuristic? number
---@field stale_while_revalidate? number
---@field stale_if_error? number
---@field wait? number
---@field key? fun(req: moongate.Request): string
---@field bypass? fun(req: moongate.Request): boolean
---@field client_control? boolean
---@field control_fields? string[]
---@field set_cookie? "refuse"|"strip"
---@field tags? string[]
---@field purge? string[]
---@field status? boolean
---@field name? string

---@param given cache.Options?
---@return table policy
return function(given)
  local options = gate.options("cache", given or {}, shape)
  local store = gate.cache(options.name, options.size)
  local key_of, bypass, told = options.key, options.bypass, options.status
  local purger = options.purge and purge.by_request(store, options)
  local hit_words, words = {}, 0        -- Cache-Status of hits, by the seconds they have left
  local requests = gate.counter("cache_requests", {
    help = "Requests to caches, by what became of them: hit, stale, revalidated, miss, pass.", labels = { "result" },
  })

  local function note(res, text)
    if told then res.headers:add("cache-status", "moongate; " .. text) end
    return res
  end

  local function note_hit(res, found)
    local left = math.floor(found.times.fresh - (gate.now() - found.times.born))
    requests:inc(left >= 0 and "hit" or "stale")
    if not told then return res end
    local text = hit_words[left]
    if not text then
      if words == HIT_WORDS_MOST then hit_words, words = {}, 0 end
      text, words = ("hit; ttl=%d"):format(left), words + 1
      hit_words[left] = text
    end
    return note(res, text)
  end

  local function answer(req, found)
    local asks, res = found.asks
    if asks == 0 or asks == WITH_CONTROL then
      res = store:answer(req, found)
    else
      res = serve.answer(store, req, found, req.headers)
    end
    return note_hit(res, found)
  end

  -- All who wait in a worker for one key look together.
  local await = gate.coalesce(function(key, ends)
    local pause = POLL_FIRST
    repeat
      gate.sleep(pause)
      pause = math.min(pause * 1.5, POLL_MOST)
    until not store:claimed(key) or gate.now() >= ends
  end)

  -- One of many asks the origin for all: this one, or another, whose response it gets then.
  local function take_turn(req, key, control)
    local ends = gate.now() + options.wait
    while gate.now() < ends do
      local claimed, why = store:claim(key, options.wait, req)
      if claimed or why ~= "busy" then return nil end
      await(key, ends)
      local found = store:find(req, key_of and key)
      if found and use_of(found, control) then return found end
    end
  end

  local function ask(req, next, key, found, why, control)
    local asks_part = req.headers.range or req.headers["if-match"] or req.headers["if-unmodified-since"]
    if options.wait > 0 and req.method == "GET" and not control["no-cache"]
      and (found or not (asks_part or req.headers["if-none-match"] or req.headers["if-modified-since"])) then
      local ready = take_turn(req, key, control)
      if ready then return answer(req, ready) end
      if found then found = store:find(req, key_of and key) end
    end
    return origin.ask(store, options, req, next, {
      key = key, found = found, why = why, control = control, note = note,
      count = function(result) requests:inc(result) end,
    })
  end

  local function unfit(req, next)
    requests:inc "pass"
    if purger and req.method == "PURGE" then return purger(req) end
    return purge.after(store, req, next, key_of)
  end

  local function handle(req, next)
    if bypass and bypass(req) then
      requests:inc "pass"
      return note(next(req), "fwd=bypass")
    end
    local own_key = key_of and key_of(req)
    local found, why = store:find(req, own_key)
    if found and found.asks == 0 and bit.band(found.times.flags, NO_CACHE) == 0
      and gate.now() - found.times.born < found.times.fresh then
      return answer(req, found)
    end
    if why == "unfit" then return unfit(req, next) end

    local control = options.client_control and control_of(req) or no_control
    local use = found and use_of(found, control)
    if req.headers["if-match"] or req.headers["if-unmodified-since"] then use = nil end
    if use == "fresh" or use == "stale" then return answer(req, found) end
    local key = own_key or store:key(req)
    if use == "refresh" then
      origin.refresh(store, options, req, key, found)
      return answer(req, found)
    end
    if control["only-if-cached"] then return 504, "not in the cache\n" end
    local fwd = why == "variant" and "vary-miss" or found and (control["no-cache"] and "request" or "stale")
    return ask(req, next, key, found, fwd or "uri-miss", control)
  end

  return { name = "cache", handle = handle }
end

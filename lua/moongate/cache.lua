-- moongate.cache - gate.cache: responses stored in memory that all workers share.
--
-- What is stored, and when that may be used, is for a policy to decide: scripts/cache.lua
-- is one. cache[1] is the core's pointer.
local ffi = require "ffi"
local C = require "moongate.seam"
local core = require "moongate.core"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local reason_of = require "moongate.reason"
local response = require "moongate.response"
local schema = require "moongate.schema"
local text = ffi.string
local response_of = response.of

local FOUND = C.MG_CACHE_FOUND
local misses = {
  [C.MG_CACHE_MISS] = "miss", [C.MG_CACHE_OTHER_VARIANT] = "variant", [C.MG_CACHE_UNFIT] = "unfit",
  [C.MG_CACHE_CROWDED] = "crowded",
}
local STEPS_MOST = 16           -- of a purge, without a pause

local out, pointer = ffi.new "mg_cached *[1]", ffi.new "mg_cache *[1]"
local slice, cursor, stats = ffi.new "mg_slice", ffi.new "uint32_t[1]", ffi.new "mg_cache_stats"

---@class moongate.Cache
local cache = {}
local meta = { __index = cache }

local function over()
  error("this request is over", 3)
end

--- The key of a request where a policy has none of its own: scheme, host, port, path and query, as they came.
---@return string
function cache:key(req)
  local code = C.mg_cache_key(req[1] or over(), slice)
  if code < 0 then error(reason_of(code), 2) end
  return text(slice.ptr, slice.len)
end

--- What is stored under this key, or under cache:key, and was chosen by request fields like these.
---@param key? string
---@return moongate.Cached? found good until the request ends; its `times` may be assigned
---@return string? why "miss"; "variant": only other ones are there; "unfit": neither GET nor HEAD, or with a body or
--- Upgrade; "crowded": too many long bodies are being read
function cache:find(req, key)
  local code = C.mg_cache_find(req[1] or over(), self[1], key, key and #key or 0, out)
  if code == FOUND then return out[0] end
  if code < 0 then error(reason_of(code), 2) end
  return nil, misses[code]
end

--- The fields of what was found: in their order, and by name in lower case.
---@return { [1]: string, [2]: string }[] list, table<string, string> joined
function cache:fields(found)
  local list, joined = {}, {}
  for name, value in text(found.head.ptr, found.head.len):gmatch "([^:\n]+):([^\n]*)\n" do
    list[#list + 1] = { name, value }
    local lower = name:lower()
    joined[lower] = joined[lower] and joined[lower] .. ", " .. value or value
  end
  return list, joined
end

local function producer(view)
  return function()
    while true do
      local code = C.mg_cache_more(view)
      if code == C.MG_ABSENT then return nil end
      if code < 0 and code ~= C.MG_GONE then error("the stored body is not there any more", 0) end
      fiber.wait(code)
    end
  end
end

--- Makes what cache:find has found last for this request the answer, with Age. To be returned by a hook.
---@param status? integer its own
---@param from? integer the part of its body that begins here, from 0
---@param length? integer and has so many bytes
---@return moongate.Response
function cache:answer(req, found, status, from, length)
  local view, x = req[1] or over(), req[2]
  local code = C.mg_cache_answer(view, status or found.times.status, from or 0, length or -1)
  if code == C.MG_TOO_LATE then error("the response's head has gone out", 2) end
  if code < 0 then error(reason_of(code), 2) end
  exchange.drop_response(x)
  x.filters, x.coded = false, false
  x.producer = code == 1 and producer(view)
  return response_of(x)
end

-- ---- Storing. ----

local function head_of(fields)
  local lines = {}
  for i, field in ipairs(fields) do lines[i] = field[1] .. ":" .. field[2] .. "\n" end
  return table.concat(lines)
end

---@class moongate.CacheSpec
---@field key string
---@field status integer
---@field fields { [1]: string, [2]: string }[] all but Age and Content-Length
---@field born number gate.now() when its age was 0
---@field fresh number seconds from then on
---@field while_revalidate? number seconds behind that, for the policy's own use
---@field if_error? number the same
---@field flags? integer the policy's own
---@field vary? table<string, string|false> the request's fields that chose it, in lower case; false: not there
---@field tags? string[]
---@field max_body? integer bytes

-- The strings stand in a table, which keeps them as long as the spec is used.
local function read_spec(spec)
  local s, lines = ffi.new "mg_cache_spec", {}
  for name, value in pairs(spec.vary or {}) do
    lines[#lines + 1] = value and name .. ":" .. value .. "\n" or name .. "\n"
  end
  table.sort(lines)
  local strings = {
    key = spec.key, vary = table.concat(lines), tags = table.concat(spec.tags or {}, ","), head = head_of(spec.fields),
  }
  for name, value in pairs(strings) do core.put(s[name], value) end
  s.times.born, s.times.fresh, s.times.status = spec.born, spec.fresh, spec.status
  s.times.while_revalidate, s.times.if_error = spec.while_revalidate or 0, spec.if_error or 0
  s.times.flags, s.max_body = spec.flags or 0, spec.max_body or 2 ^ 32
  return s, strings
end

--- Stores the response as it comes from the origin, once its body is whole: for a function given to `next`. What
--- response and response_body hooks make of it is not stored: they see it again each time it is used.
---@param spec moongate.CacheSpec
---@return boolean? ok, string? reason
function cache:fill(req, spec)
  local x = req[2]
  if x.filters or x.coded then return nil, "a policy within changes its body" end
  local s, strings = read_spec(spec)
  local code = C.mg_cache_fill(req[1] or over(), self[1], s)
  if code == 0 and strings then return true end
  return nil, reason_of(code)
end

--- Stores what was fetched elsewhere, unless it was purged after cache:purges() had said `since`.
---@param spec moongate.CacheSpec
---@return boolean? ok, string? reason
function cache:put(spec, body, since)
  local s, strings = read_spec(spec)
  local code = C.mg_cache_put(self[1], s, body, #body, since)
  if code == 0 and strings then return true end
  return nil, code == C.MG_ABSENT and "purged" or reason_of(code)
end

--- How often something was purged so far.
function cache:purges() return C.mg_cache_purges(self[1]) end

--- The stored response of this id goes on with these fields and times, which its origin has confirmed by 304.
---@param spec moongate.CacheSpec
---@return boolean
function cache:refresh(spec, id)
  local s, strings = read_spec(spec)
  return C.mg_cache_refresh(self[1], s, id) == 0 and strings ~= nil
end

-- ---- One for all. ----

--- From now on this request asks the origin for what others wait for, until it ends, what it fills is stored, or so
--- many seconds are over. Without a request: until cache:release.
---@return boolean? ok, string? reason "busy": somebody else does; "pass": nobody needs to wait for this key
function cache:claim(key, seconds, req)
  local view = nil
  if req then view = req[1] or over() end
  local code = C.mg_cache_claim(self[1], view, key, #key, seconds)
  if code == 0 then return true end
  return nil, code == C.MG_REFUSED and "pass" or code == C.MG_BUSY and "busy" or reason_of(code)
end

--- Gives it up; for `pass` seconds nobody needs to wait, as nothing will be stored.
function cache:release(key, req, pass)
  local view = nil
  if req then view = req[1] or over() end
  C.mg_cache_release(self[1], view, key, #key, pass or 0)
end

--- Does somebody ask the origin for this key?
function cache:claimed(key) return C.mg_cache_is_claimed(self[1], key, #key) end

-- ---- Purging. ----

local function purge(self, what, value)
  local count, steps = 0, 0
  local at = ffi.new "uint32_t[1]"
  repeat
    count, steps = count + C.mg_cache_purge(self[1], what, value, #value, at), steps + 1
    if steps % STEPS_MOST == 0 and at[0] ~= 0 then fiber.wait(C.mg_sleep(fiber.task(), 0)) end
  until at[0] == 0
  return count
end

--- Takes out all variants that are stored under this key, "https://example.com/path?query"; how many there were.
---@return integer
function cache:purge(key)
  cursor[0] = 0
  return C.mg_cache_purge(self[1], C.MG_CACHE_KEY, key, #key, cursor)
end

--- Takes out all whose keys begin so. May wait, as may the next two.
function cache:purge_prefix(prefix) return purge(self, C.MG_CACHE_PREFIX, prefix) end

--- Takes out all that bear this tag.
function cache:purge_tag(tag) return purge(self, C.MG_CACHE_TAG, tag) end

--- Takes out everything.
function cache:flush() return purge(self, C.MG_CACHE_ALL, "") end

--- Bytes of it and how many are in use; responses (and marks) in it; how many went to make room, how many came, so far.
---@return { size: number, used: number, entries: number, evicted: number, stored: number }
function cache:stats()
  C.mg_cache_look_at(self[1], stats)
  return {
    size = stats.size, used = stats.used, entries = stats.entries, evicted = stats.evicted, stored = stats.stored,
  }
end

--- The cache of this name, made when first asked for. It lives in all workers and over reloads.
---@param name string
---@param size? number|string bytes or "256M"; 64M if not given
---@return moongate.Cache
return function(name, size)
  if type(name) ~= "string" or name == "" then error("gate.cache: the name must be a string", 2) end
  local bytes = schema.bytes(size or "64M")
  if not bytes then error(('gate.cache: "%s": the size must be like 65536 or "64K"'):format(name), 2) end
  local code = C.mg_cache_open(name, #name, bytes, pointer)
  if code == C.MG_MALFORMED then error(('gate.cache: "%s" stands already with another size'):format(name), 2) end
  if code == C.MG_FULL or code == C.MG_NO_MEMORY then
    error(('gate.cache: "%s": there is no room; raise shared_size in gate.set'):format(name), 2)
  end
  if code < 0 then error(('gate.cache: "%s": %s'):format(name, reason_of(code)), 2) end
  return setmetatable({ pointer[0] }, meta)
end

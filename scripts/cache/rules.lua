-- cache.rules - what a shared cache may store, and how long that is fresh (RFC 9111): no policy, a part of cache.lua.

local rules = {}

--- What a stored response's flags say.
rules.NO_CACHE, rules.NO_STALE = 1, 2

-- RFC 9110 15.1: these are cacheable without being said to be; 206 is, too, but parts are not stored here.
local heuristic = {
  [200] = true, [203] = true, [204] = true, [300] = true, [301] = true, [308] = true, [404] = true, [405] = true,
  [410] = true, [414] = true, [501] = true,
}
-- What must-understand asks for: statuses whose demands on caches are met here.
local understood = {
  [302] = true, [303] = true, [307] = true, [400] = true, [401] = true, [403] = true, [500] = true, [502] = true,
  [503] = true, [504] = true,
}
for status in pairs(heuristic) do understood[status] = true end

-- Said of this connection or this moment; the cache says them anew.
local not_stored = {
  ["age"] = true, ["content-length"] = true, ["connection"] = true, ["keep-alive"] = true, ["te"] = true,
  ["trailer"] = true, ["transfer-encoding"] = true, ["upgrade"] = true, ["proxy-connection"] = true,
  ["proxy-authenticate"] = true, ["proxy-authentication-info"] = true, ["proxy-authorization"] = true,
}
-- A 304 is about the stored body, so what describes that body stays (RFC 9111 3.2).
local not_renewed = {
  ["content-encoding"] = true, ["content-md5"] = true, ["content-range"] = true, ["etag"] = true,
  ["content-digest"] = true,
}

-- ---- Reading. ----

local SECONDS_MOST = 2 ^ 31

--- The directives of a Cache-Control value by name: true, or their argument.
---@param value string?
---@return table<string, string|true>
function rules.directives(value)
  local out, at = {}, 1
  value = value or ""
  while true do
    local name, past = value:match("^[%s,=]*([^%s,=]+)()", at)
    if not name then return out end
    local argument, behind = value:match('^="([^"]*)"()', past)
    if not argument then argument, behind = value:match("^=([^%s,]*)()", past) end
    at, name = behind or past, name:lower()
    -- Of two that differ the one that asks for more care counts (RFC 9111 4.2.1).
    local before = out[name]
    if before == nil or (tonumber(argument) or 0) < (tonumber(before) or 0) then out[name] = argument or true end
    at = value:match("^[^,]*()", at)
  end
end

--- Seconds that a directive names; 0 if it is none, nil if it is not there.
---@param argument string|true|nil
---@return number?
function rules.seconds(argument)
  if argument == nil then return nil end
  local digits = type(argument) == "string" and argument:match "^%d+$"
  return digits and math.min(tonumber(digits), SECONDS_MOST) or 0
end

local months = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
  Dec = 12 }

-- Days from 1970, after Hinnant's days_from_civil.
local function days_of(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 1 - 719468
end

local function unix_time(year, month, day, hour, minute, second)
  month, hour, minute, second = months[month], tonumber(hour), tonumber(minute), tonumber(second)
  if not month or hour > 23 or minute > 59 or second > 60 or tonumber(day) > 31 then return nil end
  return days_of(tonumber(year), month, tonumber(day)) * 86400 + hour * 3600 + minute * 60 + second
end

--- Unix time of an HTTP-date, in one of its three forms (RFC 9110 5.6.7); nil if it is none.
---@param value string?
---@return number?
function rules.date(value)
  if not value then return nil end
  local day, month, year, hour, minute, second =
    value:match "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  if day then return unix_time(year, month, day, hour, minute, second) end
  day, month, year, hour, minute, second = value:match "^%a+, (%d%d)%-(%a%a%a)%-(%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  if day then
    local century = tonumber(year) < 70 and 2000 or 1900
    return unix_time(century + tonumber(year), month, day, hour, minute, second)
  end
  month, day, hour, minute, second, year = value:match "^%a%a%a (%a%a%a) ([ %d]%d) (%d%d):(%d%d):(%d%d) (%d%d%d%d)$"
  if day then return unix_time(year, month, day, hour, minute, second) end
end

-- ---- Deciding. ----

-- What the response says to caches: in the first of these fields that it has, which is for us alone (RFC 9213), or in
-- Cache-Control. And whether Expires counts, too.
local function control_of(headers, fields)
  for _, name in ipairs(fields) do
    if headers[name] then return rules.directives(headers[name]), false end
  end
  return rules.directives(headers["cache-control"]), true
end

-- How long a response is fresh (RFC 9111 4.2.1); nil if it does not say.
local function lifetime(control, expires_counts, headers, date)
  local seconds = rules.seconds(control["s-maxage"]) or rules.seconds(control["max-age"])
  if seconds or not expires_counts then return seconds end
  local expires = headers:all "expires"
  if expires[1] then
    local at = #expires == 1 and rules.date(expires[1])
    return at and math.max(0, at - date) or 0
  end
end

-- RFC 9111 4.2.3: how old it was when it came, `delay` seconds after it was asked for.
local function age_of(headers, date, now, delay)
  local said = (headers.age or ""):match "^%s*(%d+)%s*$" or (headers.age or ""):match "^%s*(%d+)%s*,"
  return math.max(0, now - date, said and math.min(tonumber(said), SECONDS_MOST) + delay or 0)
end

-- May it be stored, as what it says of itself goes? nil, or why not.
local function refusal(control, status, asked, headers, wants_cookies)
  local must_understand = control["must-understand"]
  if must_understand and not understood[status] then return "status" end
  if control["no-store"] and not must_understand then return "no-store" end
  if control.private then return "private" end
  if asked.authorization and not (control.public or control["must-revalidate"] or control["s-maxage"]) then
    return "authorization"          -- RFC 9111 3.5
  end
  if wants_cookies == "refuse" and headers["set-cookie"] then return "set-cookie" end
end

local function vary_of(asked, headers)
  local vary, count = {}, 0
  for name in (headers.vary or ""):lower():gmatch "[^%s,]+" do
    if name == "*" then return nil end
    local value = asked[name]
    vary[name], count = value or false, count + 1
    if count > 16 or value and #value > 4096 then return nil end
  end
  return vary
end

local function tags_of(headers, names)
  local tags = {}
  for _, name in ipairs(names) do
    for tag in (headers[name] or ""):gmatch "[^%s,]+" do tags[#tags + 1] = tag end
  end
  return tags
end

-- What is kept of a head. Without no-cache="..." and private="..." by field: those are taken as if they named none.
local function fields_of(headers, wants_cookies)
  local fields = {}
  for name, value in pairs(headers) do
    local lower = name:lower()
    local cookie = lower == "set-cookie" or lower == "set-cookie2"
    if not (not_stored[lower] or cookie and wants_cookies == "strip") then fields[#fields + 1] = { name, value } end
  end
  return fields
end

--- How to store a response: a spec for gate.cache, all but its key; nil and why it is not stored.
---@param asked moongate.Headers the request's
---@param status integer
---@param headers moongate.Headers the response's
---@param at { now: number, wall: number, delay: number } seconds; delay: since it was asked for
---@param options table of cache.lua
---@return moongate.CacheSpec? spec, string? reason
function rules.judge(asked, status, headers, at, options)
  local control, expires_counts = control_of(headers, options.control_fields)
  if status == 206 or status == 304 or status < 200 then return nil, "status" end
  local why = refusal(control, status, asked, headers, options.set_cookie)
  if why then return nil, why end
  local vary = vary_of(asked, headers)
  if not vary then return nil, "vary" end

  local date = rules.date(headers.date) or at.wall
  local fresh, age = lifetime(control, expires_counts, headers, date), age_of(headers, date, at.wall, at.delay)
  if not fresh and not (heuristic[status] or control.public) then return nil, "status" end
  if not fresh then
    local modified = rules.date(headers["last-modified"])
    fresh = modified and math.min(math.max(0, date - modified) * options.heuristic, options.max_heuristic)
    if not fresh or fresh <= age then fresh, age = options.ttl, 0 end       -- ours, so it counts from now on
  end
  local bound = control["must-revalidate"] or control["proxy-revalidate"] or control["s-maxage"]
  local flags = (control["no-cache"] and rules.NO_CACHE or 0) + (bound and rules.NO_STALE or 0)
  local spec = {
    status = status, vary = vary, flags = flags, fresh = fresh, tags = tags_of(headers, options.tags),
    born = at.now - age, fields = fields_of(headers, options.set_cookie),
    while_revalidate = rules.seconds(control["stale-while-revalidate"]) or options.stale_while_revalidate,
    if_error = rules.seconds(control["stale-if-error"]) or options.stale_if_error, max_body = options.max_body,
  }
  local useful = fresh > age and not control["no-cache"] or headers.etag or headers["last-modified"]
  if not useful and spec.while_revalidate + spec.if_error == 0 then return nil, "stale" end
  return spec
end

--- The fields of a stored response, renewed by those of a 304 (RFC 9111 3.2), and each by name.
---@param stored { [1]: string, [2]: string }[]
---@param headers moongate.Headers the 304's
---@return { [1]: string, [2]: string }[] fields
function rules.renew(stored, headers)
  local fields, renewed = {}, {}
  for name in pairs(headers) do
    local lower = name:lower()
    if not (not_stored[lower] or not_renewed[lower]) then renewed[lower] = true end
  end
  for _, field in ipairs(stored) do
    if not renewed[field[1]:lower()] then fields[#fields + 1] = field end
  end
  for name, value in pairs(headers) do
    if renewed[name:lower()] then fields[#fields + 1] = { name, value } end
  end
  return fields
end

--- A list of fields, to be read as headers are.
function rules.as_headers(fields)
  local joined, all = {}, {}
  for _, field in ipairs(fields) do
    local lower = field[1]:lower()
    joined[lower] = joined[lower] and joined[lower] .. ", " .. field[2] or field[2]
    all[lower] = all[lower] or {}
    table.insert(all[lower], field[2])
  end
  function joined.all(_, name) return all[name:lower()] or {} end
  return setmetatable({}, { __index = joined, __pairs = function()
    local i = 0
    return function()
      i = i + 1
      if fields[i] then return fields[i][1], fields[i][2] end
    end
  end })
end

return rules

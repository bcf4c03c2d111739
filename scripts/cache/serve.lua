-- cache.serve - what a client gets of a stored response: all of it, a part, or "you have it already" (RFC 9110 13, 14):
-- no policy, a part of cache.lua.

local rules = require "cache.rules"

local serve = {}

-- RFC 9110 8.8.3.2: with the weak comparison, which If-None-Match asks for.
local function has_tag(list, etag)
  if list:match "^%s*%*%s*$" then return true end
  if not etag then return false end
  local wanted = etag:gsub("^W/", "")
  for tag in list:gmatch '"[^"]*"' do
    if tag == wanted then return true end
  end
  return false
end

-- Does the client have it already?
local function is_known(asked, stored)
  local none = asked["if-none-match"]
  if none then return has_tag(none, stored.etag) end
  local since, modified = rules.date(asked["if-modified-since"]), rules.date(stored["last-modified"] or stored.date)
  return since and modified and modified <= since or false
end

-- RFC 9110 13.1.5: is the part that the client has one of this response?
local function goes_on(condition, stored)
  if not condition then return true end
  if condition:sub(1, 1) == '"' then return condition == stored.etag end
  return rules.date(condition) ~= nil and condition == stored["last-modified"]
end

-- The first and the last byte of the only part asked for; nil: all of it; false: there is none such.
local function range_of(value, length)
  local first, last = value:match "^%s*[Bb][Yy][Tt][Ee][Ss]%s*=%s*(%d*)%s*%-%s*(%d*)%s*$"
  if not first or first == "" and last == "" then return nil end
  if first == "" then
    local count = math.min(tonumber(last), length)
    if count == 0 then return false end
    return length - count, length - 1
  end
  first, last = tonumber(first), last ~= "" and tonumber(last) or length - 1
  if last < first and last ~= length - 1 then return nil end
  if first >= length then return false end
  return first, math.min(last, length - 1)
end

-- RFC 9110 15.4.5: what a 304 leaves out.
local of_the_body = { "content-type", "content-encoding", "content-language", "content-range", "last-modified" }

local function not_modified(store, req, found, stored)
  local res = store:answer(req, found, 304)
  for i, name in ipairs(of_the_body) do
    if i < #of_the_body or stored.etag then res.headers[name] = nil end
  end
  return res
end

--- The answer made of what was found.
---@param store moongate.Cache
---@param found moongate.Cached
---@param asked { [string]: string } the client's fields: if-none-match, if-modified-since, range, if-range
---@return moongate.Response
function serve.answer(store, req, found, asked)
  local _, stored = store:fields(found)
  if found.times.status ~= 200 then return store:answer(req, found) end
  if is_known(asked, stored) then return not_modified(store, req, found, stored) end
  if not asked.range or not goes_on(asked["if-range"], stored) then return store:answer(req, found) end

  local length = tonumber(found.length)
  local first, last = range_of(asked.range, length)
  if first == nil then return store:answer(req, found) end
  if not first then
    local res = store:answer(req, found, 416, 0, 0)
    res.headers["content-range"] = ("bytes */%d"):format(length)
    return res
  end
  local res = store:answer(req, found, 206, first, last - first + 1)
  res.headers["content-range"] = ("bytes %d-%d/%d"):format(first, last, length)
  return res
end

return serve

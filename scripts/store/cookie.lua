-- store.cookie - tables that clients keep themselves, in cookies that they can neither read nor change.
--
--   local cookies = require "store.cookie" { name = "session", secrets = { os.getenv "COOKIE_SECRET" } }
--
--   local session = cookies:read(req)                          -- nil: there is none, it is not ours, or its time is up
--   return 302, nil, { location = "/", ["set-cookie"] = cookies:write(req, { user = "ada" }, 3600) }
--   return 204, nil, { ["set-cookie"] = cookies:clear(req) }
--
-- name       of the cookie; secrets: a list of texts of 32 bytes or more. The first hides, any of them finds, so a new
--            one goes in front, and the old one out when no cookie of it can be left
-- path       "/" if not given; same_site: "Lax"; secure: true, or as the request came if not given
--
-- AES-256-GCM (gate.crypto.encrypt) with a key for each name; the time of its end is inside. What is longer than one
-- cookie may be stands in several. What was read is one table for all who read it: it is not to be changed.

local gate = require "moongate"
local lru = require "store.lru"

local PIECE = 3800              -- browsers take 4,096 bytes with the name and what stands behind it (RFC 6265bis)
local PIECES_MOST = 8

local cookies = {}
cookies.__index = cookies

local function seal(self, value, ends, name)
  local text = assert(gate.json.encode(value))
  return gate.base64.encode_url(gate.crypto.encrypt(self.keys[1], ("%d %s"):format(ends, text), name))
end

local function unseal(self, encoded, name)
  local sealed = gate.base64.decode(encoded)
  for _, key in ipairs(sealed and self.keys or {}) do
    local text = gate.crypto.decrypt(key, sealed, name)
    if text then
      local ends, json = text:match "^(%d+) (.*)$"
      return gate.json.decode(json), tonumber(ends)
    end
  end
end

-- What stands in the cookie and those that go on with it: the count is in front.
local function collect(req, name)
  local jar = req.cookies
  local first = jar[name] or ""
  local count = tonumber(first:match "^(%d)%.")
  if not count or count > PIECES_MOST then return nil end
  if count < 2 then return first:sub(3) end
  local pieces = { first:sub(3) }
  for i = 2, count do
    pieces[i] = jar[name .. "." .. i]
    if not pieces[i] then return nil end
  end
  return table.concat(pieces)
end

---@param suffix? string of the name, where one client has several
---@return table?
function cookies:read(req, suffix)
  local name = self.name .. (suffix or "")
  local encoded = collect(req, name)
  if not encoded then return nil end
  local digest = gate.crypto.sha256(name .. "=" .. encoded)
  local known = self.known:get(digest)
  if known then return known end
  local value, ends = unseal(self, encoded, name)
  if type(value) ~= "table" or ends <= gate.time() then return nil end
  self.known:set(digest, value, ends)
  return value
end

local function attributes(self, req, seconds)
  local secure = self.secure
  if secure == nil then secure = req.scheme == "https" end
  return ("; Path=%s; Max-Age=%d; HttpOnly; SameSite=%s%s"):format(self.path, seconds, self.same_site,
    secure and "; Secure" or "")
end

-- Those that go on from an earlier, longer value and are not needed any more.
local function drop_rest(self, req, name, from, list)
  for i = from, PIECES_MOST do
    local rest = i == 1 and name or name .. "." .. i
    if req.cookies[rest] then list[#list + 1] = rest .. "=" .. attributes(self, req, 0) end
  end
  return list
end

--- The values of set-cookie that keep the table at the client; nil and a reason if it is too large.
---@param seconds number that it counts
---@return string[]? fields, string? reason
function cookies:write(req, value, seconds, suffix)
  local name = self.name .. (suffix or "")
  local encoded = seal(self, value, math.floor(gate.time() + seconds), name)
  local count = math.ceil(#encoded / PIECE)
  if count > PIECES_MOST then return nil, "it is too large for cookies" end
  local list = {}
  for i = 1, count do
    local piece = encoded:sub((i - 1) * PIECE + 1, i * PIECE)
    list[i] = (i == 1 and ("%s=%d."):format(name, count) or ("%s.%d="):format(name, i)) .. piece
      .. attributes(self, req, math.floor(seconds))
  end
  return drop_rest(self, req, name, count + 1, list)
end

--- The values of set-cookie that take it away.
---@return string[] fields
function cookies:clear(req, suffix)
  return drop_rest(self, req, self.name .. (suffix or ""), 1, {})
end

--- Takes them off the request, so that the origin does not see them.
function cookies:hide(req)
  local field = req.headers.cookie
  if not field or not field:find(self.name, 1, true) then return end
  local kept = {}
  for pair in field:gmatch "[^;%s][^;]*" do
    if pair:sub(1, #self.name) ~= self.name or not pair:find("^%.?%d*=", #self.name + 1) then
      kept[#kept + 1] = pair
    end
  end
  req.headers.cookie = #kept > 0 and table.concat(kept, "; ") or nil
end

---@param given { name: string, secrets: string[], path: string?, same_site: string?, secure: boolean? }
return function(given)
  local keys = {}
  for i, secret in ipairs(given.secrets) do
    keys[i] = gate.crypto.hmac("sha256", secret, "store.cookie " .. given.name)
  end
  return setmetatable({
    name = given.name, keys = keys, path = given.path or "/", same_site = given.same_site or "Lax",
    secure = given.secure, known = lru(1000),
  }, cookies)
end

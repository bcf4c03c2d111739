-- token.jwks - the public keys of an issuer (RFC 7517): given, or fetched, kept, and fetched anew as they change.
--
--   local jwks = require "token.jwks"
--   local keys = jwks { url = "https://id.example.com/jwks.json", refresh = 600, pause = 10 }
--   local own = jwks { keys = { "service.pem", { kty = "EC", crv = "P-256", x = "...", y = "..." } } }
--
--   local list, problem = keys:find("2026-01", "ES256")      -- by kid (or nil) and algorithm; may wait
--
-- Keys of a URL are fetched when they are first asked for, and again in the background when they are `refresh`
-- seconds old. A kid that is unknown lets them be fetched at once, but not sooner than `pause` seconds
-- after the last time, however many ask. When that fails, the keys that there are stay in use, and the log says so. All
-- workers share what one has fetched, and it outlives reloads.

local gate = require "moongate"

local TRIED_MOST = 8            -- keys for a token that names none
local KEYS_MOST = 64
local SIZE_MOST = "256K"

---@class token.Jwks
---@field version integer counted up when the keys have changed
local jwks = {}
jwks.__index = jwks

-- Takes the keys of a list; of those that are of no use here, the reason.
local function read_list(list)
  local found, reason = {}, "it has no keys"
  for i = 1, math.min(#list, KEYS_MOST) do
    local key, problem = gate.crypto.key(list[i])
    if key then found[#found + 1] = key else reason = ("key %d: %s"):format(i, problem) end
  end
  return found, reason
end

-- The keys of a JSON Web Key Set. Those for encryption, or of kinds that nobody here knows, are passed over.
local function read_set(text)
  local set, problem = gate.json.decode(text)
  local list = type(set) == "table" and set.keys
  if type(list) ~= "table" then return nil, problem or "there is no list of keys in it" end
  local public = {}
  for _, one in ipairs(list) do
    if type(one) == "table" and one.kty ~= "oct" then public[#public + 1] = one end     -- no secret is public
  end
  local found, reason = read_list(public)
  if #found == 0 then return nil, reason end
  return found
end

-- ---- Fetching. ----

local function take(self, text, time)
  if text ~= self.text then
    local found, reason = read_set(text)
    if not found then return nil, reason end
    self.list, self.text, self.version = found, text, self.version + 1
  end
  self.fetched = time
  return true
end

-- What another worker, or the script before this one, has fetched since.
local function take_shared(self)
  local time, text = (self.shared:get(self.url) or ""):match "^(%S+) (.*)$"
  time = tonumber(time)
  return time and time > self.fetched and take(self, text, time)
end

local function fetch(self)
  local answer, problem = gate.fetch(self.url, { timeout = self.timeout, max_size = SIZE_MOST, tls = self.tls })
  if not problem and answer.status ~= 200 then problem = "it answers with " .. answer.status end
  if problem then return nil, problem end
  local text, now = answer:text(), gate.time()
  local ok, reason = take(self, text, now)
  if ok then self.shared:set(self.url, ("%.3f %s"):format(now, text)) end
  return ok, reason
end

-- For all who ask at the same time once, and not again so soon.
local refresh = gate.coalesce(function(self)
  if take_shared(self) or gate.now() - self.tried < self.pause then return end
  self.tried = gate.now()
  local ok, problem = fetch(self)
  if not ok then
    gate.log.warn(("token.jwks: the keys at %s can't be had: %s%s"):format(self.url, problem,
      self.list and "; those from before stay in use" or ""))
  end
end)

local function renew(self)
  self.renewed = gate.now()
  gate.after(0, function() refresh(self) end)
end

-- ---- Finding. ----

--- Sees to it that there are keys, and that they do not grow old. Waits only if there are none.
function jwks:look()
  if not self.url then return end
  if not self.list then
    if not take_shared(self) then refresh(self) end
  elseif gate.time() - self.fetched >= self.refresh and gate.now() - self.renewed >= self.pause then
    renew(self)
  end
end

local function choose(list, kid, algorithm)
  local found = {}
  for _, key in ipairs(list) do
    if (not kid or key.id == kid) and key:fits(algorithm) and #found < TRIED_MOST then found[#found + 1] = key end
  end
  return found
end

--- The keys that a token may be signed with.
---@param kid string? the one that it names
---@param algorithm string
---@return moongate.Key[]? keys perhaps none; nil if there are no keys yet, and none can be had
function jwks:find(kid, algorithm)
  if not self.url then
    local found = choose(self.list, kid, algorithm)
    return #found > 0 and found or choose(self.nameless, nil, algorithm)
  end
  self:look()
  if not self.list then return nil end
  local found = choose(self.list, kid, algorithm)
  if #found == 0 then
    refresh(self)
    found = choose(self.list, kid, algorithm)
  end
  return found
end

---@param given { url: string?, keys: table?, refresh: number?, pause: number?, timeout: number?, tls: table? }
---@return token.Jwks? keys, string? reason
return function(given)
  local self = setmetatable({
    url = given.url, refresh = given.refresh or 600, pause = given.pause or 10, timeout = given.timeout or 2,
    tls = given.tls, tried = -math.huge, renewed = -math.huge, fetched = 0, version = 0,
  }, jwks)
  if self.url then
    self.shared = gate.shared("token.jwks", "1M")
    return self
  end
  local list, reason = read_list(given.keys)
  if #list < #given.keys or #list == 0 then return nil, reason end
  self.list, self.nameless = list, {}
  for _, key in ipairs(list) do
    if not key.id then table.insert(self.nameless, key) end
  end
  return self
end

-- token.provider - an OpenID provider (OpenID Connect Discovery and Core): its settings, its tokens, whose they are.
--
--   local id = require("token.provider").new { issuer =, client_id =, client_secret =, timeout =, refresh =, leeway = }
--
--   local settings = id:look()                                           -- nil: they can't be had
--   local tokens, problem, final = id:tokens { grant_type = "refresh_token", refresh_token = "..." }
--   local claims, problem = id:identify(tokens.id_token, nonce)
--
-- Settings are read when they are first needed and again when they are `refresh` seconds old; those that are there stay
-- in use when they can't be read anew. All of it waits.

local gate = require "moongate"
local jwks = require "token.jwks"
local jwt = require "token.jwt"

local required = { "sub", "exp", "iat" }

local provider = {}
provider.__index = provider

--- Names and values as a form's body, or a query.
function provider.form(fields)
  local parts = {}
  for name, value in pairs(fields) do parts[#parts + 1] = gate.escape(name) .. "=" .. gate.escape(value) end
  return table.concat(parts, "&")
end

local function contains(list, value)
  for _, one in ipairs(list) do
    if one == value then return true end
  end
  return false
end

local function read_settings(self)
  local answer, problem = gate.fetch(self.options.issuer:gsub("/$", "") .. "/.well-known/openid-configuration",
    { timeout = self.options.timeout, tls = self.options.tls, max_size = "256K" })
  if problem then return nil, problem end
  if answer.status ~= 200 then return nil, "its settings can't be had: it answers with " .. answer.status end
  local said = answer:json()
  if type(said) ~= "table" then return nil, "its settings are no JSON" end
  if said.issuer ~= self.options.issuer then return nil, "it calls itself " .. tostring(said.issuer) end
  for _, name in ipairs { "authorization_endpoint", "token_endpoint", "jwks_uri" } do
    if type(said[name]) ~= "string" then return nil, "its settings have no " .. name end
  end
  return said
end

local learn = gate.coalesce(function(self)
  local settings, problem = read_settings(self)
  self.read = gate.now()
  if not settings then
    gate.log.warn(("auth.oidc: %s: %s"):format(self.options.issuer, problem))
    return
  end
  if not self.settings or self.settings.jwks_uri ~= settings.jwks_uri then
    self.keys = jwks { url = settings.jwks_uri, refresh = self.options.refresh, tls = self.options.tls }
  end
  self.settings = settings
end)

--- Its settings; nil if they can't be had.
function provider:look()
  if not self.settings or gate.now() - self.read > self.options.refresh then learn(self) end
  return self.settings
end

--- What the token endpoint gives for these fields; or nil, a reason, and whether that is final. Tokens are strings.
function provider:tokens(fields)
  local options, settings = self.options, self.settings
  local headers = { ["content-type"] = "application/x-www-form-urlencoded", accept = "application/json" }
  local methods = settings.token_endpoint_auth_methods_supported or { "client_secret_basic" }
  if options.client_secret and contains(methods, "client_secret_basic") then
    headers.authorization = "Basic "
      .. gate.base64.encode(gate.escape(options.client_id) .. ":" .. gate.escape(options.client_secret))
  else
    fields.client_id, fields.client_secret = options.client_id, options.client_secret
  end
  local answer, problem = gate.fetch(settings.token_endpoint, { method = "POST", headers = headers,
    body = provider.form(fields), timeout = options.timeout, tls = options.tls, max_size = "256K" })
  if problem then return nil, problem end
  local said = answer:json()
  said = type(said) == "table" and said or {}
  if answer.status ~= 200 then
    local code = tostring(said.error or answer.status):gsub("[^%w_]", "")
    return nil, "it refuses: " .. code, answer.status == 400 or answer.status == 401     -- RFC 6749 section 5.2
  end
  for _, name in ipairs { "access_token", "refresh_token", "id_token" } do
    if type(said[name]) ~= "string" then said[name] = nil end
  end
  return said
end

--- The claims of an ID token that is good.
function provider:identify(token, nonce)
  if not token then return nil, "it has sent no ID token" end
  local options = self.options
  local claims, reason = jwt.verify(token, self.keys, {
    issuer = { options.issuer }, audience = { options.client_id }, required = required, leeway = options.leeway,
    max_size = 65536,
  })
  if not claims then return nil, "its ID token is refused: " .. (reason or "its keys can't be had") end
  if nonce and not (type(claims.nonce) == "string" and gate.crypto.equal(claims.nonce, nonce)) then
    return nil, "its ID token is of another login"
  end
  local several = type(claims.aud) == "table" and #claims.aud > 1
  if (several or claims.azp ~= nil) and claims.azp ~= options.client_id then
    return nil, "its ID token is for another party"
  end
  return claims
end

--- More claims, of the one that the access token is of.
function provider:userinfo(tokens, claims)
  local url = self.settings.userinfo_endpoint
  if not url then return claims end
  local answer = gate.fetch(url, { headers = { authorization = "Bearer " .. tostring(tokens.access_token) },
    timeout = self.options.timeout, tls = self.options.tls, max_size = "256K" })
  local said = answer.ok and answer:json()
  if type(said) ~= "table" or said.sub ~= claims.sub then return nil, "its userinfo can't be had" end
  for name, value in pairs(claims) do said[name] = value end
  return said
end

---@param options { issuer: string, client_id: string, client_secret: string?, timeout: number, refresh: number,
---  leeway: number, tls: table? }
function provider.new(options)
  return setmetatable({ options = options, read = -math.huge }, provider)
end

return provider

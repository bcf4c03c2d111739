-- token.jwt - JSON Web Tokens (RFC 7519) that are signed (RFC 7515): read, and believed after a look at everything.
--
--   local jwt = require "token.jwt"
--   local claims, reason = jwt.verify(token, keys, { issuer = ..., audience = ..., leeway = 30, required = { "sub" } })
--
-- `keys` is what token.jwks gives. Refused are (RFC 8725): "alg": "none"; an algorithm that is not among
-- `algorithms`, or does not go with the key, so that nobody's public key becomes a secret; "crit", since
-- no extension is known here; keys that the token brings itself; what is longer than `max_size`; encrypted tokens.

local gate = require "moongate"

local jwt = {}

local every = "HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519 Ed448"

--- The names of all algorithms, as a set.
jwt.algorithms = {}
for name in every:gmatch "%S+" do jwt.algorithms[name] = true end

local function object(part)
  local text = gate.base64.decode(part)
  local value = text and text:find "^%s*{" and gate.json.decode(text)
  return type(value) == "table" and value or nil
end

local function contains(list, value)
  for _, one in ipairs(list) do
    if one == value then return true end
  end
  return false
end

-- Is one of the wanted among what the token names: a string, or a list of them?
local function names_one(given, wanted)
  if type(given) ~= "table" then given = { given } end
  for _, one in ipairs(wanted) do
    if contains(given, one) then return true end
  end
  return false
end

-- The times that a token may name; nil if there is none, false if it is none.
local function time_of(claims, name)
  local value = claims[name]
  if value == nil then return nil end
  return type(value) == "number" and value
end

local function check_times(claims, rules)
  local now, leeway = gate.time(), rules.leeway or 0
  local ends, begins = time_of(claims, "exp"), time_of(claims, "nbf")
  if ends == false or begins == false then return "its times are no numbers" end
  if ends and now >= ends + leeway then return "it has expired" end
  if begins and now < begins - leeway then return "it is not valid yet" end
end

--- Are these claims what the rules want? If not, the reason.
---@return string? reason
function jwt.check(claims, rules)
  for _, name in ipairs(rules.required or {}) do
    if claims[name] == nil or claims[name] == gate.json.null then return ("it has no %s"):format(name) end
  end
  if rules.issuer and not names_one(claims.iss, rules.issuer) then return "it is of another issuer" end
  -- RFC 7519 section 4.1.3: who is not among those that it names must not take it.
  if (claims.aud ~= nil or rules.audience) and not names_one(claims.aud, rules.audience or {}) then
    return "it is for another audience"
  end
  return check_times(claims, rules)
end

local function check_head(head, rules)
  if head.crit ~= nil then return "it wants an extension that is not known" end
  if type(head.alg) ~= "string" or not (rules.algorithms or jwt.algorithms)[head.alg] then
    return "its algorithm is not allowed"
  end
  if head.kid ~= nil and type(head.kid) ~= "string" then return "its kid is no string" end
  if rules.types then
    local named = type(head.typ) == "string" and head.typ:lower():gsub("^application/", "")
    if not contains(rules.types, named) then return "it is of another type" end
  end
end

--- The claims of a token that is good. Else nil and the reason; or nil, nil if there are no keys to tell by.
---@param token string
---@param keys token.Jwks may have to fetch them, so this may wait
---@param rules { algorithms: table<string, true>?, issuer: string[]?, audience: string[]?, required: string[]?,
---  types: string[]?, leeway: number?, max_size: integer? }
---@return table? claims, string? reason
function jwt.verify(token, keys, rules)
  if #token > (rules.max_size or 8192) then return nil, "it is too long" end
  local signed, signature = token:match "^([%w_-]+%.[%w_-]+)%.([%w_-]+)$"
  if not signed then return nil, "it is not a signed token" end
  local first, second = signed:match "^(.*)%.(.*)$"
  local head, claims = object(first), object(second)
  signature = gate.base64.decode(signature)
  if not head or not claims or not signature then return nil, "it is malformed" end
  local reason = check_head(head, rules)
  if reason then return nil, reason end

  local candidates = keys:find(head.kid, head.alg)
  if not candidates then return nil, nil end
  for _, key in ipairs(candidates) do
    if key:verify(head.alg, signed, signature) then
      reason = jwt.check(claims, rules)
      if reason then return nil, reason end
      return claims
    end
  end
  return nil, #candidates == 0 and "no key is known that it could be signed with" or "its signature is wrong"
end

return jwt

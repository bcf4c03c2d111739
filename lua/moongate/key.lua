-- moongate.key - gate.crypto.key: keys that make signatures and tell whose they are.
--
-- Which algorithms a key may be used with follows from the key alone, never from what a message says: a public key of
-- RSA is no secret of HMAC, whoever asks for that.
local ffi = require "ffi"
local C = require "moongate.seam"
local base64 = require "moongate.base64"
local state = require "moongate.state"

local RSA, EC, ED25519, ED448 = C.MG_KEY_RSA, C.MG_KEY_EC, C.MG_KEY_ED25519, C.MG_KEY_ED448
local SHA256, SHA384, SHA512 = C.MG_DIGEST_SHA256, C.MG_DIGEST_SHA384, C.MG_DIGEST_SHA512
local PKCS1, PSS, NONE = C.MG_PADDING_PKCS1, C.MG_PADDING_PSS, C.MG_PADDING_NONE

-- RFC 7518 section 3.1, RFC 8037, RFC 9864. `bits` of EC: which curve; `least` of a secret: RFC 7518 section 3.2.
local algorithms = {
  HS256 = { digest = SHA256, least = 32 }, HS384 = { digest = SHA384, least = 48 },
  HS512 = { digest = SHA512, least = 64 },
  RS256 = { kind = RSA, padding = PKCS1, digest = SHA256 }, RS384 = { kind = RSA, padding = PKCS1, digest = SHA384 },
  RS512 = { kind = RSA, padding = PKCS1, digest = SHA512 },
  PS256 = { kind = RSA, padding = PSS, digest = SHA256 }, PS384 = { kind = RSA, padding = PSS, digest = SHA384 },
  PS512 = { kind = RSA, padding = PSS, digest = SHA512 },
  ES256 = { kind = EC, bits = 256, padding = NONE, digest = SHA256 },
  ES384 = { kind = EC, bits = 384, padding = NONE, digest = SHA384 },
  ES512 = { kind = EC, bits = 521, padding = NONE, digest = SHA512 },
  Ed25519 = { kind = ED25519, padding = NONE, digest = -1 }, Ed448 = { kind = ED448, padding = NONE, digest = -1 },
}
local kinds = { [RSA] = "RSA", [EC] = "EC", [ED25519] = "Ed25519", [ED448] = "Ed448" }
local edwards = { Ed25519 = ED25519, Ed448 = ED448 }

local out, about = ffi.new "mg_key *[1]", ffi.new "mg_key_about"
local jwk, signing = ffi.new "mg_jwk", ffi.new "mg_signing"
local digest_room, signature_room = ffi.new "char[64]", ffi.new("char[?]", C.MG_SIGNATURE_MOST)

local function put(slice, text)
  slice.ptr, slice.len = text, #text
end

---@class moongate.Key
---@field kind "RSA"|"EC"|"Ed25519"|"Ed448"|"secret"
---@field bits integer
---@field private boolean can it sign?
---@field id string? of a JWK: its kid
---@field algorithm string? of a JWK: the only one it is meant for
local key = {}
key.__index = key

-- What an algorithm is with this key; nil if they do not go together.
local function use_of(self, name)
  if name == "EdDSA" then name = self.kind end
  local algorithm = algorithms[name]
  if not algorithm then return nil end
  if self.algorithm and self.algorithm ~= name and not (self.algorithm == "EdDSA" and edwards[name]) then return nil end
  if self.secret then return algorithm.least and #self.secret >= algorithm.least and algorithm end
  if algorithm.kind ~= self.number or algorithm.bits and algorithm.bits ~= self.bits then return nil end
  return algorithm
end

--- May it be used with this algorithm?
---@param algorithm string a name of JOSE's: "RS256", "PS256", "ES256", "EdDSA", "HS256"...
---@return boolean
function key:fits(algorithm)
  return use_of(self, algorithm) and true or false
end

local function need(self, algorithm, who, text)
  if type(text) ~= "string" then error(("%s: the text must be a string, got a %s"):format(who, type(text)), 3) end
  local use = use_of(self, algorithm)
  if not use then
    return nil, ("%s does not go with this key, of %s with %d bits"):format(tostring(algorithm), self.kind, self.bits)
  end
  return use
end

local function hmac(self, use, text)
  local code = C.mg_crypto_hmac(use.digest, self.secret, #self.secret, text, #text, digest_room)
  if code < 0 then error("out of memory", 3) end
  return code
end

--- Is this the signature of the text by this key? If not: false and why.
---@param algorithm string
---@param text string
---@param signature string bytes; of EC the two numbers side by side, as JOSE and RFC 9421 have it
---@return boolean good, string? reason
function key:verify(algorithm, text, signature)
  local use, reason = need(self, algorithm, "key:verify", text)
  if not use then return false, reason end
  local good
  if self.secret then
    local len = hmac(self, use, text)
    good = #signature == len and C.mg_crypto_equal(digest_room, signature, len)
  else
    signing.padding, signing.digest = use.padding, use.digest
    put(signing.text, text)
    put(signing.signature, signature)
    local code = C.mg_key_verify(self[1], signing)
    if code == C.MG_NO_MEMORY then error("out of memory", 2) end
    good = code == 0
  end
  if good then return true end
  return false, "the signature is not this key's"
end

--- The signature of a text; nil and a reason if the key is public, or does not go with the algorithm.
---@param algorithm string
---@param text string
---@return string? signature, string? reason
function key:sign(algorithm, text)
  local use, reason = need(self, algorithm, "key:sign", text)
  if not use then return nil, reason end
  if self.secret then return ffi.string(digest_room, hmac(self, use, text)) end
  if not self.private then return nil, "the key is public; to sign takes a private one" end
  signing.padding, signing.digest = use.padding, use.digest
  put(signing.text, text)
  local code = C.mg_key_sign(self[1], signing, signature_room)
  if code < 0 then error("out of memory", 2) end
  return ffi.string(signature_room, code)
end

-- ---- Reading. ----

local function keep(code, fields)
  if code == C.MG_NO_MEMORY then error("out of memory", 4) end
  if code == C.MG_REFUSED then
    return nil, "it is a key, but not one of RSA with 2048 to 8192 bits, of P-256, P-384, P-521, Ed25519 or Ed448"
  end
  if code < 0 then return nil, "no key can be read from it" end
  fields[1] = ffi.gc(out[0], C.mg_key_free)
  C.mg_key_describe(out[0], about)
  fields.number, fields.kind, fields.bits, fields.private = about.kind, kinds[about.kind], about.bits, about.is_private
  return setmetatable(fields, key)
end

local function of_secret(secret, fields)
  if #secret < 32 then return nil, "a secret must have 32 bytes or more" end
  if secret:find("-----BEGIN", 1, true) then
    return nil, "PEM is no secret: whoever has the public key could sign with it"
  end
  fields.kind, fields.secret, fields.bits, fields.private = "secret", secret, #secret * 8, true
  return setmetatable(fields, key)
end

local function of_pem(text)
  if not text:find("-----BEGIN", 1, true) then
    local file, problem = io.open(text, "rb")
    if not file then return nil, "it can't be read: " .. problem end
    text = file:read "*a" or ""
    file:close()
  end
  return keep(C.mg_key_from_pem(state.generation, text, #text, out), {})
end

local function number_of(given, name)
  local value = given[name]
  return type(value) == "string" and value:find "^[%w_-]+$" and base64.decode(value) or nil
end

local function of_jwk(given)
  local fields = {
    id = type(given.kid) == "string" and given.kid or nil,
    algorithm = type(given.alg) == "string" and given.alg or nil,
  }
  if given.use ~= nil and given.use ~= "sig" then return nil, "it is not for signatures" end
  if given.kty == "oct" then
    local secret = number_of(given, "k")
    if not secret then return nil, "k is needed, in base64url" end
    return of_secret(secret, fields)
  end
  local first, second
  if given.kty == "RSA" then
    jwk.kind, first, second = RSA, number_of(given, "n"), number_of(given, "e")
  elseif given.kty == "EC" and type(given.crv) == "string" then
    jwk.kind, first, second = EC, number_of(given, "x"), number_of(given, "y")
  elseif given.kty == "OKP" and edwards[given.crv] then
    jwk.kind, first, second = edwards[given.crv], number_of(given, "x"), ""
  else
    return nil, ("there is no kty %s with crv %s"):format(tostring(given.kty), tostring(given.crv))
  end
  if not first or not second then return nil, "its numbers must stand in it, in base64url" end
  put(jwk.curve, type(given.crv) == "string" and given.crv or "")
  put(jwk.first, first)
  put(jwk.second, second)
  return keep(C.mg_key_from_jwk(state.generation, jwk, out), fields)
end

local reader = {}

--- A key, of PEM text, a path of a PEM file (a public key, a certificate, or a private key, which can sign too), a JWK
--- as a table, or { secret = bytes } for HMAC.
---@param source string|table
---@return moongate.Key? key, string? reason
function reader.key(source)
  if type(source) == "string" then return of_pem(source) end
  if type(source) ~= "table" then
    error("gate.crypto.key takes PEM text, a path, a JWK or { secret = ... }, got a " .. type(source), 2)
  end
  if type(source.secret) == "string" then
    return of_secret(source.secret, { id = source.kid, algorithm = source.alg })
  end
  return of_jwk(source)
end

return reader

-- moongate.crypto - digests, HMAC, random bytes, AES-GCM; keys. Everything takes and gives strings of bytes.
local ffi = require "ffi"
local C = require "moongate.seam"
local keys = require "moongate.key"
local password = require "moongate.password"

local crypto = { key = keys.key, password = password.check, is_password_hash = password.is_hash }

local bytes_type = ffi.typeof "char[?]"
local HEX_AT_HAND = 512
local hex_room = ffi.new("char[?]", 2 * HEX_AT_HAND)
local digests = {
  sha1 = C.MG_DIGEST_SHA1, sha256 = C.MG_DIGEST_SHA256, sha384 = C.MG_DIGEST_SHA384, sha512 = C.MG_DIGEST_SHA512,
}
local NONCE, TAG = C.MG_SEAL_NONCE, C.MG_SEAL_TAG
local room = ffi.new "char[64]"         -- of the longest digest
local seal = ffi.new "mg_seal"

local function need_text(value, who, what)
  if type(value) ~= "string" then
    error(("%s: %s must be a string, got a %s"):format(who, what, type(value)), 3)
  end
end

local function made(code)
  if code < 0 then error("out of memory", 3) end
  return ffi.string(room, code)
end

for name, number in pairs(digests) do
  local who = "gate.crypto." .. name
  crypto[name] = function(text)
    need_text(text, who, "the text")
    return made(C.mg_crypto_digest(number, text, #text, room))
  end
end

--- The HMAC of `text`.
---@param digest "sha1"|"sha256"|"sha384"|"sha512"
---@param key string
---@param text string
---@return string bytes
function crypto.hmac(digest, key, text)
  local number = digests[digest]
  if not number then
    error(('gate.crypto.hmac: the digest is "sha1", "sha256", "sha384" or "sha512", got %s'):format(tostring(digest)),
      2)
  end
  need_text(key, "gate.crypto.hmac", "the key")
  need_text(text, "gate.crypto.hmac", "the text")
  return made(C.mg_crypto_hmac(number, key, #key, text, #text, room))
end

--- Bytes that nobody can foretell.
---@param count integer
---@return string bytes
function crypto.random(count)
  if type(count) ~= "number" or count % 1 ~= 0 or count < 1 or count > 2 ^ 20 then
    error(("gate.crypto.random takes a whole number from 1 to 1048576, got %s"):format(tostring(count)), 2)
  end
  local to = count <= HEX_AT_HAND and hex_room or bytes_type(count)
  if C.mg_crypto_random(to, count) < 0 then error("the system gives no random bytes", 2) end
  return ffi.string(to, count)
end

--- Are two secrets the same? Takes as long whichever byte differs.
---@param a string
---@param b string
---@return boolean
function crypto.equal(a, b)
  need_text(a, "gate.crypto.equal", "the first")
  need_text(b, "gate.crypto.equal", "the second")
  return #a == #b and C.mg_crypto_equal(a, b, #a)
end

--- In hexadecimal digits.
---@param bytes string
---@return string
function crypto.hex(bytes)
  need_text(bytes, "gate.crypto.hex", "the text")
  local n = #bytes
  local to = n <= HEX_AT_HAND and hex_room or bytes_type(2 * n)
  C.mg_crypto_hex(bytes, n, to)
  return ffi.string(to, 2 * n)
end

local function put(slice, text)
  slice.ptr, slice.len = text, #text
end

local function prepare(who, key, text, context)
  need_text(key, who, "the key")
  if #key ~= 16 and #key ~= 24 and #key ~= 32 then
    error(("%s: the key must have 16, 24 or 32 bytes, got %d"):format(who, #key), 3)
  end
  need_text(text, who, "the text")
  need_text(context, who, "the context")
  put(seal.key, key)
  put(seal.context, context)
end

--- Hides and seals `text` with AES-GCM: a fresh nonce of 12 bytes, what was made of the text, a tag of 16.
---@param key string 16, 24 or 32 bytes
---@param text string
---@param context? string is sealed with it, but not part of what comes out: give the same to decrypt
---@return string sealed
function crypto.encrypt(key, text, context)
  context = context or ""
  prepare("gate.crypto.encrypt", key, text, context)
  local to = bytes_type(NONCE + #text + TAG)
  if C.mg_crypto_random(to, NONCE) < 0 then error("the system gives no random bytes", 2) end
  ffi.copy(seal.nonce, to, NONCE)
  put(seal.text, text)
  local code = C.mg_crypto_seal(seal, to + NONCE)
  if code < 0 then error("out of memory", 2) end
  return ffi.string(to, NONCE + code)
end

--- The text that encrypt was given; nil if the key or the context is another, or a byte has changed.
---@param key string
---@param sealed string
---@param context? string
---@return string? text, string? reason
function crypto.decrypt(key, sealed, context)
  context = context or ""
  prepare("gate.crypto.decrypt", key, sealed, context)
  if #sealed < NONCE + TAG then return nil, "it is too short to have been sealed" end
  local text = sealed:sub(NONCE + 1)
  ffi.copy(seal.nonce, sealed, NONCE)
  put(seal.text, text)
  local to = bytes_type(#text)
  local code = C.mg_crypto_open(seal, to)
  if code == C.MG_NO_MEMORY then error("out of memory", 2) end
  if code < 0 then return nil, "it was not sealed with this key and context, or has changed since" end
  return ffi.string(to, code)
end

return crypto

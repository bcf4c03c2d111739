-- moongate.password - gate.crypto.password: is this the password that a hash was made of?
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local reason_of = require "moongate.reason"

local password = {}

-- Those of crypt(5) that are still good: bcrypt, SHA-crypt, scrypt, yescrypt.
local methods = { "^%$2[aby]%$", "^%$[56]%$", "^%$7%$", "^%$g?y%$" }

--- Is it a hash as gate.crypto.password takes it?
---@param hash any
---@return boolean
function password.is_hash(hash)
  if type(hash) ~= "string" or hash:find "[%z%s]" then return false end
  for _, method in ipairs(methods) do
    if hash:find(method) then return C.mg_password_knows(hash) end
  end
  return false
end

--- Is this the password that the hash was made of? Waits: a thread of the worker's finds it out, one after another.
---@param given string
---@param hash string of crypt(5): what mkpasswd, openssl passwd -6 and htpasswd -B make
---@return boolean? right, string? reason nil if it can't be found out
function password.check(given, hash)
  if type(given) ~= "string" or type(hash) ~= "string" then
    error("gate.crypto.password takes a password and a hash, both strings", 2)
  end
  if not password.is_hash(hash) then return nil, "it is no hash of bcrypt, SHA-crypt, scrypt or yescrypt" end
  local code = fiber.wait(C.mg_password_check(fiber.task(), given, #given, hash, #hash))
  if code == 0 then return true end
  if code == C.MG_ABSENT then return false end
  if code == C.MG_FULL then return nil, "too many passwords wait to be checked" end
  return nil, reason_of(code)
end

return password

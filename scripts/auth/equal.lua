-- auth.equal - are two secrets the same? Takes as long whichever byte differs.

local bit = require "bit"

---@param given string what the client sent
---@param secret string what it should be
---@return boolean
return function(given, secret)
  local difference = bit.bxor(#given, #secret)
  for i = 1, #given do
    difference = bit.bor(difference, bit.bxor(given:byte(i), secret:byte(i) or 0))
  end
  return difference == 0
end

-- moongate.json - JSON, by lua-cjson.
local cjson = require("cjson.safe").new()

cjson.decode_max_depth(128)
cjson.encode_max_depth(128)
cjson.decode_invalid_numbers(false)
cjson.encode_sparse_array(true, 2, 16)

local json = {
  --- null in what decode returns, and for encode; a field that is nil is left out.
  null = cjson.null,
}

--- The text of a value; nil and the reason if it can't be JSON.
---@param value any
---@return string? text, string? reason
function json.encode(value)
  return cjson.encode(value)
end

--- The value of a text; nil and the reason if it is not JSON.
---@param text string
---@return any value, string? reason
function json.decode(text)
  if type(text) ~= "string" then return nil, "a string is needed, got a " .. type(text) end
  return cjson.decode(text)
end

return json

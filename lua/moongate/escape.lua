-- moongate.escape - percent-encoding, and the query strings made of it.
local escape = {}

local function encode_byte(c) return ("%%%02X"):format(c:byte()) end
local function decode_byte(hex) return string.char(tonumber(hex, 16)) end

--- Percent-encodes everything but letters, digits and -._~
---@param s string|number
---@return string
function escape.escape(s)
  return (tostring(s):gsub("[^%w%-._~]", encode_byte))
end

--- Decodes %XX; what is no such triple stays as it is.
---@param s string
---@return string
function escape.unescape(s)
  return (s:gsub("%%(%x%x)", decode_byte))
end

local function decode_form(s)
  if s:find("+", 1, true) then s = s:gsub("+", " ") end
  if s:find("%", 1, true) then s = s:gsub("%%(%x%x)", decode_byte) end
  return s
end

--- "a=1&b=2&a=3" as { a = { "1", "3" }, b = "2" }; a key without a value has "".
---@param query string
---@return table<string, string|string[]>
function escape.parse_query(query)
  local out = {}
  for pair in query:gmatch "[^&]+" do
    local at = pair:find("=", 1, true)
    local key = decode_form(at and pair:sub(1, at - 1) or pair)
    local value = at and decode_form(pair:sub(at + 1)) or ""
    local before = out[key]
    if before == nil then
      out[key] = value
    elseif type(before) == "table" then
      before[#before + 1] = value
    else
      out[key] = { before, value }
    end
  end
  return out
end

--- The opposite, with the keys in alphabetical order.
---@param args table<string, string|number|boolean|(string|number)[]>
---@return string
function escape.make_query(args)
  local keys, out = {}, {}
  for key in pairs(args) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(keys) do
    local value = args[key]
    for _, one in ipairs(type(value) == "table" and value or { value }) do
      out[#out + 1] = escape.escape(key) .. "=" .. escape.escape(one)
    end
  end
  return table.concat(out, "&")
end

return escape

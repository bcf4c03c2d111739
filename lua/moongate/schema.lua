-- moongate.schema - tables of options: which keys there are, of what type, within what bounds.
--
--   local shape = { [1] = schema.text(), weight = schema.number { above = 0, default = 1 } }
--   local options = schema.read(given, shape, fail)
--
-- A kind is { expect = "a positive number", read = function(value) -> value, or nil, a better `expect`, what to do,
-- default = any, needed = boolean, called = "address" }.
-- `fail(text)` raises; it knows the place and puts the name of what is read in front.
local problem = require "moongate.problem"

local schema = {}

local function kind(expect, read, rest)
  rest = rest or {}
  return { expect = expect, read = read, default = rest.default, needed = rest.needed, called = rest.called }
end

local function is_number(value)
  return type(value) == "number" and value == value
end

local function bounds_text(what, rest)
  if rest.above == 0 then return "a positive " .. what end
  if rest.above then return ("a %s above %g"):format(what, rest.above) end
  if rest.max then return ("a %s from %g to %g"):format(what, rest.min or 0, rest.max) end
  return ("a %s, %g or more"):format(what, rest.min or 0)
end

local function is_within(value, rest)
  if rest.above then return value > rest.above and value < math.huge end
  return value >= (rest.min or 0) and value <= (rest.max or 2 ^ 53)
end

--- A number within { min =, max = } or { above = }.
function schema.number(rest)
  rest = rest or {}
  return kind(rest.expect or bounds_text("number", rest), function(value)
    if is_number(value) and is_within(value, rest) then return value end
  end, rest)
end

--- A whole number.
function schema.count(rest)
  rest = rest or {}
  return kind(rest.expect or bounds_text("whole number", rest), function(value)
    if is_number(value) and value % 1 == 0 and value < 2 ^ 32 and is_within(value, rest) then return value end
  end, rest)
end

--- Seconds; 0 is allowed unless { above = 0 } or { min = }.
function schema.seconds(rest)
  rest = rest or {}
  local least = rest.above == 0 and "above 0" or ("%g or more"):format(rest.min or 0)
  return kind("a number of seconds, " .. least, function(value)
    if is_number(value) and value <= 1e9 and is_within(value, rest) then return value end
  end, rest)
end

local units = { [""] = 1, K = 2 ^ 10, M = 2 ^ 20, G = 2 ^ 30, T = 2 ^ 40 }

--- Bytes of a size, which is a number or "64M"; nil if it is neither.
function schema.bytes(value)
  if is_number(value) then return value end
  if type(value) ~= "string" then return nil end
  local digits, unit = value:match("^(%d+%.?%d*)([KMGT]?)$")
  return digits and tonumber(digits) * units[unit]
end

function schema.size_text(bytes)
  for _, unit in ipairs { "T", "G", "M", "K" } do
    if bytes > 0 and bytes % units[unit] == 0 then return ("%d%s"):format(bytes / units[unit], unit) end
  end
  return ("%.0f"):format(bytes)
end

--- A size.
function schema.size(rest)
  rest = rest or {}
  local expect = 'a size like 65536 or "64K"'
  if rest.max then
    expect = ("%s, from %s to %s"):format(expect, schema.size_text(rest.min or 0), schema.size_text(rest.max))
  elseif rest.min then
    expect = ("%s, %s or more"):format(expect, schema.size_text(rest.min))
  end
  return kind(expect, function(value)
    local bytes = schema.bytes(value)
    if bytes and bytes % 1 == 0 and is_within(bytes, rest) then return bytes end
  end, rest)
end

--- Text that is not empty.
function schema.text(rest)
  return kind(rest and rest.expect or "a string that is not empty", function(value)
    if type(value) == "string" and value ~= "" then return value end
  end, rest)
end

function schema.flag(rest)
  return kind("true or false", function(value)
    if type(value) == "boolean" then return value end
  end, rest)
end

function schema.func(rest)
  return kind("a function", function(value)
    if type(value) == "function" then return value end
  end, rest)
end

function schema.table(rest)
  return kind(rest and rest.expect or "a table", function(value)
    if type(value) == "table" then return value end
  end, rest)
end

--- One of some words.
function schema.choice(words, rest)
  local quoted, known = {}, {}
  for i, word in ipairs(words) do quoted[i], known[word] = problem.show(word), true end
  local expect = #quoted == 1 and quoted[1]
    or table.concat(quoted, ", ", 1, #quoted - 1) .. " or " .. quoted[#quoted]
  return kind(expect, function(value)
    if known[value] then return value end
  end, rest)
end

--- A list of strings, or one string (with commas or not); read as a list.
function schema.words(rest)
  return kind(rest and rest.expect or "a list of strings", function(value)
    local list = {}
    if type(value) == "string" then
      for word in value:gmatch("[^,%s]+") do list[#list + 1] = word end
    elseif type(value) == "table" then
      for i, word in ipairs(value) do
        if type(word) ~= "string" or word == "" or word:find("[,%s%c]") then return nil end
        list[i] = word
      end
      for key in pairs(value) do
        if not list[key] then return nil end
      end
    end
    if #list > 0 then return list end
  end, rest)
end

--- Whatever `read` takes; `expect` says what that is.
function schema.any(expect, read, rest)
  return kind(expect, read, rest)
end

--- Known, and part of a later version.
function schema.later(what)
  return { later = what }
end

local function check_keys(given, shape, fail)
  for key in pairs(given) do
    local entry = shape[key]
    if not entry then
      if type(key) == "string" then
        fail(("unknown key %s%s"):format(problem.show(key), problem.remedy(key, shape)))
      end
      fail(("a value stands at [%s], where none is expected"):format(tostring(key)))
    elseif entry.later then
      fail(("%s: %s is not available in this version"):format(key, entry.later))
    end
  end
end

--- The value of one key, checked.
function schema.value(key, value, entry, fail)
  if value == nil then
    if entry.needed then fail(("%s is needed: %s"):format(key, entry.expect)) end
    return entry.default
  end
  local read, reason, remedy = entry.read(value)
  if read == nil then
    fail(("%s must be %s, got %s%s"):format(key, reason or entry.expect, problem.show(value), remedy or ""))
  end
  return read
end

--- A new table with what was given, checked, and the defaults of what was not.
---@param given table
---@param shape table<string|integer, table> a kind a key; `called` is what messages call a key that is a number
---@param fail fun(text: string) raises
---@return table
function schema.read(given, shape, fail)
  check_keys(given, shape, fail)
  local out = {}
  for key, entry in pairs(shape) do
    if not entry.later then
      out[key] = schema.value(entry.called or key, given[key], entry, fail)
    end
  end
  return out
end

return schema

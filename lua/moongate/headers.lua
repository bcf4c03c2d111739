-- moongate.headers - the fields of a head, as a table that ignores case.
--
-- [1] is the exchange's mg_view, false once it is over; the head is looked up in
-- it each time, as compiled code does that for nothing, and a pointer kept in a
-- table would be an object of its own. Names are strings, so nothing else stands in the way.
local ffi = require "ffi"
local C = require "moongate.seam"
local text = ffi.string

---@class moongate.Headers
---@field [string] string|nil reading joins repeated fields; assign a string, a list (several fields) or nil (removes)

local slice, name_slice = ffi.new "mg_slice", ffi.new "mg_slice"

local function over()
  error("these headers are over: their request has ended, or another response took their place", 3)
end

local function check_name(name)
  if type(name) ~= "string" then error("a header's name must be a string, got a " .. type(name), 4) end
end

local function refused(name, code)
  if code == C.MG_FULL then error(('header "%s": there are too many fields'):format(name), 4) end
  error(('header "%s": the name or the value has bytes that can\'t stand in a field, or the core sets it itself')
    :format(name), 4)
end

local function put(write, m, name, value)
  local kind = type(value)
  if kind == "number" then
    value = ("%.14g"):format(value)
  elseif kind ~= "string" then
    error(('header "%s" must be a string, a number, a list of them or nil, got a %s'):format(name, kind), 4)
  end
  local code = write(m, name, #name, value, #value)
  if code < 0 then refused(name, code) end
end

local function set(m, name, value)
  if type(value) == "string" then
    local code = C.mg_field_set(m, name, #name, value, #value)
    if code < 0 then refused(name, code) end
  elseif value == nil then
    C.mg_field_remove(m, name, #name)
  elseif type(value) == "table" then
    C.mg_field_remove(m, name, #name)
    for i = 1, #value do put(C.mg_field_add, m, name, value[i]) end
  else
    put(C.mg_field_set, m, name, value)
  end
end

local function all(m, name)
  local out, wanted, i = {}, name:lower(), 0
  while C.mg_field_at(m, i, name_slice, slice) == 0 do
    if name_slice.len == #name and text(name_slice.ptr, name_slice.len):lower() == wanted then
      out[#out + 1] = text(slice.ptr, slice.len)
    end
    i = i + 1
  end
  return out
end

local function next_field(walk, at)
  local i = at and walk.at or 0
  if C.mg_field_at(walk.m, i, name_slice, slice) ~= 0 then return nil end
  walk.at = i + 1
  return text(name_slice.ptr, name_slice.len), text(slice.ptr, slice.len)
end

-- The metatable of headers whose head head_of(self) finds.
local function meta_of(head_of)
  local methods = {}

  --- The values of all fields of this name, one by one.
  ---@param name string
  ---@return string[]
  function methods:all(name)
    check_name(name)
    return all(head_of(self), name)
  end

  --- Adds a field, beside those of the same name.
  ---@param name string
  ---@param value string|number
  function methods:add(name, value)
    check_name(name)
    put(C.mg_field_add, head_of(self), name, value)
  end

  return {
    __index = function(self, name)
      local method = methods[name]
      if method then return method end
      local m = head_of(self)
      check_name(name)
      if C.mg_field_get(m, name, #name, slice) == 0 then return text(slice.ptr, slice.len) end
    end,
    __newindex = function(self, name, value)
      local m = head_of(self)
      check_name(name)
      set(m, name, value)
    end,
    __pairs = function(self)
      return next_field, { m = head_of(self) }, nil
    end,
  }
end

-- [2] of a request's: this is an attempt hook, and what counts is the try's own copy.
local request_meta = meta_of(function(self)
  local view = self[1] or over()
  if self[2] then return view.attempt end
  return view.request
end)

local response_meta = meta_of(function(self)
  return (self[1] or over()).response
end)

-- ---- Fields that stay when their head is gone: those of a fetch's response. ----

local kept = {}

function kept:all(name)
  local out, wanted = {}, name:lower()
  for _, field in ipairs(self[1]) do
    if field[1]:lower() == wanted then out[#out + 1] = field[2] end
  end
  return out
end

local kept_meta = {
  __index = function(self, name)
    if kept[name] then return kept[name] end
    check_name(name)
    return self[2][name:lower()]
  end,
  __newindex = function() error("the headers of a fetched response can only be read", 2) end,
  __pairs = function(self)
    local i = 0
    return function()
      i = i + 1
      local field = self[1][i]
      if field then return field[1], field[2] end
    end
  end,
}

local function keep(m)
  local list, joined, i = {}, {}, 0
  while C.mg_field_at(m, i, name_slice, slice) == 0 do
    local name, value = text(name_slice.ptr, name_slice.len), text(slice.ptr, slice.len)
    local lower = name:lower()
    list[i + 1] = { name, value }
    joined[lower] = joined[lower] and joined[lower] .. ", " .. value or value
    i = i + 1
  end
  return setmetatable({ list, joined }, kept_meta)
end

local function none()
  return setmetatable({ {}, {} }, kept_meta)
end

-- This LuaJIT has no __pairs, so the `pairs` of scripts asks for it.
local pairs_of_tables = pairs
function _G.pairs(t)
  local m = getmetatable(t)
  local own = type(m) == "table" and m.__pairs
  if own then return own(t) end
  return pairs_of_tables(t)
end

return {
  of_request = function(view) return setmetatable({ view, false }, request_meta) end,
  of_response = function(view) return setmetatable({ view }, response_meta) end,
  keep = keep,      -- a copy of an mg_message's fields
  none = none,      -- no fields at all
  set = set,        -- writes one field of an mg_message
}

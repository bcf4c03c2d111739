-- moongate.shared - gate.shared: values that all workers share.
local ffi = require "ffi"
local C = require "moongate.seam"
local reason_of = require "moongate.reason"
local schema = require "moongate.schema"
local text = ffi.string

local NIL, BOOLEAN, NUMBER = C.MG_VALUE_NIL, C.MG_VALUE_BOOLEAN, C.MG_VALUE_NUMBER
local TEXT = C.MG_VALUE_TEXT
local value, expected, slice = ffi.new "mg_value", ffi.new "mg_value", ffi.new "mg_slice"
local number, cursor = ffi.new "double[1]", ffi.new "uint32_t[1]"
local out = ffi.new "mg_dict *[1]"

---@class moongate.Shared
local dict = {}
local meta = { __index = dict }

local function check_key(key)
  if type(key) == "string" then return key end
  if type(key) == "number" then return tostring(key) end
  error("the key must be a string, got a " .. type(key), 3)
end

--- The value of a key, or nil.
---@param key string
---@return string|number|boolean|nil
function dict:get(key)
  key = check_key(key)
  if C.mg_dict_get(self[1], key, #key, value) ~= 0 then return nil end
  local kind = value.type
  if kind == NUMBER then return value.number end
  if kind == BOOLEAN then return value.number ~= 0 end
  if kind == NIL then return nil end
  return value.text.len > 0 and text(value.text.ptr, value.text.len) or ""
end

local function fill(v, given)
  local kind = type(given)
  if kind == "string" then
    v.type, v.text.ptr, v.text.len = TEXT, given, #given
  elseif kind == "number" then
    v.type, v.number = NUMBER, given
  elseif kind == "boolean" then
    v.type, v.number = BOOLEAN, given and 1 or 0
  else
    error("a shared value must be a string, a number or a boolean, got a " .. kind, 4)
  end
end

local function write(self, how, key, given, ttl)
  key = check_key(key)
  fill(value, given)
  local code = C.mg_dict_set(self[1], how, key, #key, value, ttl or 0)
  if code == 0 then return true end
  if code == C.MG_BUSY then return nil, "exists" end
  if code == C.MG_ABSENT then return nil, "absent" end
  return nil, reason_of(code)
end

--- Writes a value; nil deletes the key.
---@param key string
---@param given string|number|boolean|nil
---@param ttl? number seconds until it goes
---@return boolean? ok, string? reason
function dict:set(key, given, ttl)
  if given == nil then
    self:delete(key)
    return true
  end
  return write(self, C.MG_DICT_SET, key, given, ttl)
end

--- Writes only if the key is not there: else nil and "exists".
---@param key string
---@param given string|number|boolean
---@param ttl? number
---@return boolean? ok, string? reason
function dict:add(key, given, ttl) return write(self, C.MG_DICT_ADD, key, given, ttl) end

--- Writes only if the key is there: else nil and "absent".
---@param key string
---@param given string|number|boolean
---@param ttl? number
---@return boolean? ok, string? reason
function dict:replace(key, given, ttl) return write(self, C.MG_DICT_REPLACE, key, given, ttl) end

--- Adds to a number, in one step for all workers. A key that is not there counts as `initial`, or is an error without.
---@param key string
---@param by? number 1 if not given
---@param initial? number
---@param ttl? number of a key that was not there
---@return number? sum, string? reason
function dict:incr(key, by, initial, ttl)
  key = check_key(key)
  local code = C.mg_dict_incr(self[1], key, #key, by or 1, initial or 0 / 0, ttl or 0, number)
  if code == 0 then return number[0] end
  if code == C.MG_MALFORMED then return nil, "not a number" end
  return nil, reason_of(code)
end

--- Writes a value if `old` stands there, in one step for all workers; nil as either is none. Else nil and "changed".
---@param key string
---@param old string|number|boolean|nil
---@param new string|number|boolean|nil
---@param ttl? number
---@return boolean? ok, string? reason
function dict:swap(key, old, new, ttl)
  key = check_key(key)
  if old == nil then expected.type = NIL else fill(expected, old) end
  if new == nil then value.type = NIL else fill(value, new) end
  local code = C.mg_dict_swap(self[1], key, #key, expected, value, ttl or 0)
  if code == 0 then return true end
  return nil, code == C.MG_BUSY and "changed" or reason_of(code)
end

--- Counts a request under this key until it ends, if fewer than `most` are; exact over all workers, also when one dies.
---@param req moongate.Request
---@param key string that holds nothing else
---@param most number
---@return number? count how many there are now, this one among them; string? reason "full"
function dict:count(req, key, most)
  key = check_key(key)
  local view = req[1] or error("this request is over", 2)
  local code = C.mg_view_count(view, self[1], key, #key, most, number)
  if code == 0 then return number[0] end
  if code == C.MG_MALFORMED then return nil, "the key holds something else" end
  return nil, code == C.MG_FULL and "full" or reason_of(code)
end

--- Whether it was there.
---@param key string
---@return boolean
function dict:delete(key)
  key = check_key(key)
  return C.mg_dict_delete(self[1], key, #key) == 0
end

--- Seconds that the key has left; 0: for ever; nil if it is not there.
---@param key string
---@return number?
function dict:ttl(key)
  key = check_key(key)
  local seconds = C.mg_dict_ttl(self[1], key, #key)
  if seconds >= 0 then return seconds end
end

--- The keys, in no order; at most so many.
---@param most? integer
---@return string[]
function dict:keys(most)
  local list = {}
  cursor[0] = 0
  while (not most or #list < most) and C.mg_dict_next(self[1], cursor, slice) == 0 do
    list[#list + 1] = text(slice.ptr, slice.len)
  end
  return list
end

--- Deletes all keys.
function dict:flush()
  C.mg_dict_flush(self[1])
end

--- The dictionary of this name, made when first asked for. It lives in all workers and over reloads.
---@param name string
---@param size? number|string bytes or "64M"; 1M if not given
---@return moongate.Shared
return function(name, size)
  if type(name) ~= "string" or name == "" then error("gate.shared: the name must be a string", 2) end
  local bytes = schema.bytes(size or "1M")
  if not bytes then error(('gate.shared: "%s": the size must be like 65536 or "64K"'):format(name), 2) end
  local code = C.mg_dict_open(name, #name, bytes, out)
  if code == C.MG_MALFORMED then error(('gate.shared: "%s" stands already with another size'):format(name), 2) end
  if code == C.MG_FULL or code == C.MG_NO_MEMORY then
    error(('gate.shared: "%s": there is no room; raise shared_size in gate.set'):format(name), 2)
  end
  if code < 0 then error(('gate.shared: "%s": %s'):format(name, reason_of(code)), 2) end
  return setmetatable({ out[0] }, meta)
end

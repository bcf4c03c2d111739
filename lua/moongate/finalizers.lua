-- moongate.finalizers - an error in a finalizer (__gc) is told in the log, and hurts nobody.
--
-- LuaJIT raises it where a collection happens to run: in a hook that has nothing to do with it, or in compiled code,
-- which the process does not survive. So finalizers in Lua are called by one that catches what they raise. Required
-- once, for its effect on newproxy, ffi.gc, ffi.metatype and debug.setmetatable. Functions in C pass as they are.
local C = require "moongate.seam"
local ffi = require "ffi"

local PLACES_MOST = 1000

local told, told_count = {}, 0

local function tell(thrown)
  local text = tostring(thrown)
  local place = text:match "^[^:]+:%d+:" or text
  if told[place] or told_count == PLACES_MOST then return end
  told[place], told_count = true, told_count + 1
  local line = ("a finalizer (__gc) failed, and others of its place may do so unseen: %s"):format(text)
  C.mg_log_line(3, line, #line)
end

local guards = setmetatable({}, { __mode = "k" })

local function guarded(fn)
  if type(fn) ~= "function" or guards[fn] then return fn end
  local function finalize(object)
    local ok, thrown = pcall(fn, object)
    if not ok then pcall(tell, thrown) end -- there may be no memory to tell it
  end
  guards[finalize] = true
  return finalize
end

local gc, metatype, set = ffi.gc, ffi.metatype, debug.setmetatable

function ffi.gc(cdata, finalizer) return gc(cdata, guarded(finalizer)) end

local function guard(metatable)
  if type(metatable) == "table" then
    local finalizer = rawget(metatable, "__gc")
    if finalizer then rawset(metatable, "__gc", guarded(finalizer)) end
  end
  return metatable
end

function ffi.metatype(ctype, metatable) return metatype(ctype, guard(metatable)) end

function debug.setmetatable(value, metatable)
  return set(value, type(value) == "userdata" and guard(metatable) or metatable)
end

-- A proxy's metatable is filled in after it was made: what stands for it sees each assignment.
local function stand_in(metatable)
  return setmetatable({}, {
    __index = metatable,
    __newindex = function(_, key, value) metatable[key] = key == "__gc" and guarded(value) or value end,
  })
end

local proxy = newproxy

function newproxy(given)
  local made = proxy(given)
  if given == true then
    local metatable = debug.getmetatable(made)
    metatable.__metatable = stand_in(metatable)
  end
  return made
end

-- moongate.keep - gate.keep: plain tables that a generation hands to the one that takes its place.
--
-- Two VMs share nothing, so the core fetches what is kept from the generation in
-- force, twice: for a script that is loaded, whose gate.keep gives
-- its tables as they are then, and again when that is put in force, so
-- that what was written meanwhile is not lost. Tables that the new script has in
-- hand already stay the same tables; what they hold changes.
local buffer = require "string.buffer"
local ffi = require "ffi"
local C = require "moongate.seam"
local declared = require "moongate.declared"
local log = require "moongate.log"
local problem = require "moongate.problem"
local state = require "moongate.state"

local keep = {}

local DEEPEST = 90              -- levels of tables; string.buffer takes 100
local records = {}              -- by name: { name, version, init, place, table }
local packed                    -- what the generation in force keeps: by name { version, text | fault }

local slice = ffi.new "mg_slice"

-- ---- What can be kept. ----

local simple = { number = true, string = true, boolean = true }

local function step_of(key)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" then return "." .. key end
  return "[" .. problem.show(key) .. "]"
end

-- Where in t something stands that can't be kept ("": t itself), and what that is; nil if there is nothing.
-- above: the tables that t stands in.
local function find_fault(t, above, depth)
  if above[t] then return "", "is a table that stands in itself" end
  if debug.getmetatable(t) then return "", "has a metatable" end
  if depth > DEEPEST then return "", ("stands in more than %d tables"):format(DEEPEST) end
  above[t] = true
  for key, value in next, t do
    local kind, path, why = type(value), nil, nil
    if not simple[type(key)] then return "", ("has a %s as a key"):format(type(key)) end
    if kind == "table" then
      path, why = find_fault(value, above, depth + 1)
    elseif not simple[kind] then
      path, why = "", "is a " .. kind
    end
    if path then return step_of(key) .. path, why end
  end
  above[t] = nil
end

-- A sentence about what can't be kept in the table of this name, or nil.
local function fault_of(name, t)
  local path, why = find_fault(t, {}, 1)
  return path and ("%s%s %s; only numbers, strings, booleans and tables of them can be kept"):format(name, path, why)
end

-- ---- Giving. ----

local function pack(record)
  local fault = fault_of(record.name, record.table)
  if fault then return { version = record.version, fault = fault } end
  local ok, text = pcall(buffer.encode, record.table)
  if not ok then return { version = record.version, fault = tostring(text) } end
  return { version = record.version, text = text }
end

local function give()
  local out = {}
  for name, record in pairs(records) do out[name] = pack(record) end
  local text = buffer.encode(out)
  if C.mg_keep(state.generation, text, #text) < 0 then error("out of memory", 0) end
end

--- Another generation is loaded, or put in force: hands the core all that is kept.
function keep.give()
  if next(records) == nil then return end
  local ok, why = pcall(give)
  if not ok then log.error("what gate.keep holds can't be handed over: " .. tostring(why)) end
end

-- ---- Taking. ----

local function read_packed()
  if C.mg_kept(state.generation, slice) < 0 then return {} end
  return buffer.decode(ffi.string(slice.ptr, slice.len))
end

-- The table that `given` and the record's init make.
local function make(record, given, fail)
  if given and given.fault then fail("it can't be handed over: " .. given.fault) end
  local old = given and buffer.decode(given.text)
  if old and given.version == record.version then return old end
  local made = record.init(old, given and given.version)
  if type(made) ~= "table" then fail("init must return a table, got " .. problem.show(made)) end
  local fault = fault_of(record.name, made)
  if fault then fail("what init returns can't be kept: " .. fault) end
  return made
end

-- Gives `to` what `from` holds. Tables in the same place stay the same; done: those that have their content.
local function refill(to, from, done)
  done[to] = true
  for key in next, to do
    if from[key] == nil then rawset(to, key, nil) end
  end
  for key, value in next, from do
    local own = rawget(to, key)
    if type(value) == "table" and type(own) == "table" and not done[own] then
      refill(own, value, done)
    else
      rawset(to, key, value)
    end
  end
end

local function explain(thrown)
  return debug.traceback(tostring(thrown), 2)
end

local function take(record, given)
  refill(record.table, make(record, given, error), {})
end

--- This generation is put in force: its tables get what was written since it was loaded. One that comes back after
--- another had its place takes only what it knows; the rest stays as it had left it.
function keep.take()
  packed = nil
  for name, given in pairs(read_packed()) do
    local record = records[name]
    if record and (given.version == record.version or not state.in_force) then
      local ok, why = xpcall(take, explain, record, given)
      if not ok then
        log.error(('%s: gate.keep "%s": what was written since this script was loaded is lost: %s')
          :format(record.place, name, why))
      end
    end
  end
end

-- ---- Declaring. ----

--- A plain table that outlives reloads, in each worker for itself.
---@param name string
---@param version integer of what the table looks like
---@param init fun(old: table?, old_version: integer?): table makes it, of what is kept in another version
---@return table
function keep.keep(name, version, init)
  local place, fail = declared.begin "gate.keep"
  if type(name) ~= "string" or name == "" then
    fail("the name must be a string that is not empty, got " .. problem.show(name))
  end
  fail = function(message) problem.raise(place, ('gate.keep "%s": %s'):format(name, message)) end
  if records[name] then fail(("the name is taken already, by %s; choose another"):format(records[name].place)) end
  if type(version) ~= "number" or version % 1 ~= 0 or version < 0 or version > 2 ^ 53 then
    fail("the version must be a whole number, 0 or more, got " .. problem.show(version))
  end
  if type(init) ~= "function" then
    fail("a function(old, old_version) that returns a table is needed, got " .. problem.show(init))
  end
  packed = packed or read_packed()
  local record = { name = name, version = version, init = init, place = place }
  record.table = make(record, packed[name], fail)
  records[name] = record
  return record.table
end

local function collect(t, all)
  if all[t] then return end
  all[t] = true
  for _, value in next, t do
    if type(value) == "table" then collect(value, all) end
  end
end

--- All tables that are kept, as keys: state, and no part of what the script declares.
function keep.tables()
  local all = {}
  for _, record in pairs(records) do collect(record.table, all) end
  return all
end

return keep

-- headers.set - set, add, take off and rename fields of requests and responses.
--
--   local set = require "headers.set" {
--     request = { ["x-gateway"] = "moon", cookie = false },
--     response = { server = false, ["cache-control"] = "no-store" },
--     default = { response = { ["x-frame-options"] = "DENY" } },
--   }
--   gate.route { "/shop/*", policies = { set }, upstream = shop }
--
-- request, response   fields that are set: a string, a list of them (several fields), a function(req, res) that gives
--                     one (nil: the field stays as it is), or false, which takes the field off
-- default             { request =, response = }: the same, for fields that are not there
-- add                 { request =, response = }: one more of the name, behind those that are there
-- rename              { request =, response = }: from names to names; the values stay
--
-- First comes rename, then set, add and default. Fields that frame a message (content-length, transfer-encoding) or
-- belong to a connection are the core's.

local gate = require "moongate"

local SIDES = { request = true, response = true }

local function fail(what, text)
  error(("headers.set: %s: %s"):format(what, text), 0)
end

local function check_fields(what, fields, renames)
  for field, value in pairs(fields) do
    local kind = type(value)
    local good = kind == "string" or not renames and (kind == "table" or kind == "function" or value == false)
    if type(field) ~= "string" or not good then
      fail(what, ("%s must be %s, got %s"):format(tostring(field),
        renames and "another name" or "a string, a list, a function or false", tostring(value)))
    end
  end
  return fields
end

-- Reads an option that has a table of fields for each side.
local function sides(what)
  return { "any", default = {}, expect = "a table like { request = {}, response = {} }", read = function(value)
    if type(value) ~= "table" then return nil end
    for side, fields in pairs(value) do
      if not SIDES[side] or type(fields) ~= "table" then return nil end
      check_fields(what, fields, what == "rename")
    end
    return value
  end }
end

local function value_of(value, req, res)
  if type(value) == "function" then return value(req, res) end
  return value
end

local function write(headers, list, req, res)
  for from, to in pairs(list.rename) do
    local values = headers:all(from)
    if values[1] then
      headers[from] = nil
      headers[to] = values
    end
  end
  for field, given in pairs(list.set) do
    local value = value_of(given, req, res)
    if value ~= nil then headers[field] = value or nil end
  end
  for field, given in pairs(list.add) do
    local value = value_of(given, req, res)
    for _, one in ipairs(type(value) == "table" and value or { value or nil }) do headers:add(field, one) end
  end
  for field, given in pairs(list.default) do
    if not headers[field] then headers[field] = value_of(given, req, res) or nil end
  end
end

---@param given { request: table?, response: table?, default: table?, add: table?, rename: table? }
---@return table policy
return function(given)
  local options = gate.options("headers.set", given, {
    request = { "table", default = {} }, response = { "table", default = {} },
    default = sides "default", add = sides "add", rename = sides "rename",
  })
  local lists = {}
  for side in pairs(SIDES) do
    lists[side] = {
      set = check_fields(side, options[side]), default = options.default[side] or {}, add = options.add[side] or {},
      rename = options.rename[side] or {},
    }
  end

  local function wanted(side)
    for _, fields in pairs(lists[side]) do
      if next(fields) then return true end
    end
  end
  return {
    name = "headers.set",
    access = wanted "request" and function(req) write(req.headers, lists.request, req) end or nil,
    response = (wanted "response" or not wanted "request") and function(req, res)
      write(res.headers, lists.response, req, res)
    end or nil,
  }
end

-- headers.set - set and take off fields of requests and responses.
--
--   local set = require "headers.set" {
--     request = { ["x-gateway"] = "moon", cookie = false },
--     response = { server = false, ["cache-control"] = "no-store" },
--   }
--   gate.route { "/shop/*", policies = { set }, upstream = shop }
--
-- A string (or a list of them) is set, a function(req) is asked for one, false
-- takes the field off.

local gate = require "moongate"

local function check(name, fields)
  for field, value in pairs(fields) do
    local kind = type(value)
    if type(field) ~= "string" or not (kind == "string" or kind == "table" or kind == "function" or value == false) then
      error(("headers.set: %s: %s must be a string, a list, a function or false, got %s")
        :format(name, tostring(field), tostring(value)), 3)
    end
  end
end

local function write(headers, fields, req)
  for field, value in pairs(fields) do
    if type(value) == "function" then value = value(req) end
    headers[field] = value or nil
  end
end

---@param given { request: table?, response: table? }
---@return table policy
return function(given)
  local options = gate.options("headers.set", given, { request = { "table" }, response = { "table" } })
  local policy = { name = "headers.set" }
  if options.request then
    check("request", options.request)
    function policy.access(req) write(req.headers, options.request, req) end
  end
  if options.response then
    check("response", options.response)
    function policy.response(req, res) write(res.headers, options.response, req) end
  end
  return policy
end

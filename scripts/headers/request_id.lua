-- headers.request_id - one id for a request, on its way to the origin and back to the client.
--
--   gate.use(require "headers.request_id" {})
--
-- header   its field: "x-request-id"
-- format   "id": req.id, 16 hex digits, which the logs bear too; "uuid4", or "uuid7", which sort by time (RFC 9562)
-- keep     a well-formed id that came with the request goes on instead: true: from everybody; or a list of networks of
--          those who are trusted, like { "10.0.0.0/8" }
-- echo     false: the client is not told

local gate = require "moongate"

-- 32 digits, of which those for version and variant are put in place (RFC 9562, 4.1 and 4.2).
local function uuid(version, digits)
  local variant = tonumber(digits:sub(17, 17), 16) % 4 + 8
  return ("%s-%s-%d%s-%x%s-%s"):format(digits:sub(1, 8), digits:sub(9, 12), version, digits:sub(14, 16), variant,
    digits:sub(18, 20), digits:sub(21, 32))
end

local function random_digits(bytes)
  return gate.crypto.hex(gate.crypto.random(bytes))
end

local formats = {
  id = function(req) return req.id end,
  uuid4 = function() return uuid(4, random_digits(16)) end,
  -- 5.7: 48 bits of milliseconds, then chance.
  uuid7 = function() return uuid(7, ("%012x"):format(gate.time() * 1000) .. random_digits(10)) end,
}

local function read_keep(value)
  if type(value) == "boolean" then return value end
  if type(value) ~= "table" then return nil end
  local networks, reason = gate.networks(value)
  if not networks then return nil, nil, ": " .. reason end
  return networks
end

---@param given { header: string?, format: string?, keep: (boolean|string[])?, echo: boolean? }?
---@return table policy
return function(given)
  local options = gate.options("headers.request_id", given, {
    header = { "string", default = "x-request-id" },
    format = { { "id", "uuid4", "uuid7" }, default = "id" },
    keep = { "any", default = false, expect = "true, false or a list of networks", read = read_keep },
    echo = { "boolean", default = true },
  })
  local name, make, keep = options.header, formats[options.format], options.keep

  local function keeps(req)
    return keep == true or keep and keep:find(req.client.ip)
  end

  local function request(req)
    local sent = keep and req.headers[name]
    if sent and #sent <= 64 and not sent:find "[^%w._-]" and keeps(req) then return end
    req.headers[name] = make(req)
  end

  local function response(req, res)
    res.headers[name] = req.headers[name]
  end

  return { name = "headers.request_id", request = request, response = options.echo and response or nil }
end

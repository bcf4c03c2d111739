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

local function uuid(version, bytes)
  local b = { bytes:byte(1, 16) }
  b[7] = b[7] % 16 + version * 16                       -- RFC 9562, 4.2
  b[9] = b[9] % 64 + 128                                -- 4.1
  return ("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x"):format(unpack(b))
end

local formats = {
  id = function(req) return req.id end,
  uuid4 = function() return uuid(4, gate.crypto.random(16)) end,
  uuid7 = function()                                    -- 5.7: 48 bits of milliseconds, then chance
    local ms, head = math.floor(gate.time() * 1000), {}
    for i = 6, 1, -1 do
      head[i] = string.char(ms % 256)
      ms = math.floor(ms / 256)
    end
    return uuid(7, table.concat(head) .. gate.crypto.random(10))
  end,
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

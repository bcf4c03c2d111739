-- headers.request_id - one id for a request, on its way to the origin and back to the client.
--
--   gate.use(require "headers.request_id" {})
--
-- The id is req.id, which the logs bear too. With `keep = true` a client's own
-- well-formed id goes on instead: only behind another proxy that sets it.

local gate = require "moongate"

---@param given { header: string?, keep: boolean? }?
---@return table policy
return function(given)
  local options = gate.options("headers.request_id", given, {
    header = { "string", default = "x-request-id" },
    keep = { "boolean", default = false },
  })
  local name = options.header

  local function request(req)
    local sent = options.keep and req.headers[name]
    if sent and #sent <= 64 and not sent:find("[^%w._-]") then return end
    req.headers[name] = req.id
  end

  local function response(req, res)
    res.headers[name] = req.headers[name]
  end

  return { name = "headers.request_id", request = request, response = response }
end

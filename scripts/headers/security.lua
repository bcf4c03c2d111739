-- headers.security - the response fields that tell browsers to be careful.
--
--   gate.use(require "headers.security" { frame = "DENY", policy = "default-src 'self'" })
--
-- An origin's own field stands; `server` and `x-powered-by` go. `hsts` counts only
-- where clients come by https.

local gate = require "moongate"

---@param given { frame: string?, referrer: string?, policy: string?, hsts: number? }?
---@return table policy
return function(given)
  local options = gate.options("headers.security", given, {
    frame = { { "DENY", "SAMEORIGIN" }, default = "SAMEORIGIN" },
    referrer = { "string", default = "strict-origin-when-cross-origin" },
    policy = { "string" },
    hsts = { "seconds" },
  })
  local fields = {
    ["x-content-type-options"] = "nosniff",
    ["x-frame-options"] = options.frame,
    ["referrer-policy"] = options.referrer,
    ["content-security-policy"] = options.policy,
  }
  local hsts = options.hsts and ("max-age=%d"):format(options.hsts)

  local function response(req, res)
    local headers = res.headers
    for name, value in pairs(fields) do
      if not headers[name] then headers[name] = value end
    end
    if hsts and req.scheme == "https" then headers["strict-transport-security"] = hsts end
    headers.server = nil
    headers["x-powered-by"] = nil
  end

  return { name = "headers.security", response = response }
end

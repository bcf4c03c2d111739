-- auth.forward - let another service decide, by the request's head.
--
--   local forward = require "auth.forward" { url = "http://127.0.0.1:9100/check", copy = { "x-user", "x-groups" } }
--   gate.route { "/app/*", policies = { forward }, upstream = app }
--
-- The service gets a GET with the client's authorization and cookies and
-- x-forwarded-method, -host, -uri. A 2xx lets the request pass, with the fields of
-- `copy` taken from the answer; anything else goes to the client as it is.

local gate = require "moongate"

local asked_with = { "authorization", "cookie", "user-agent", "accept" }
local answered_with = { "www-authenticate", "location", "set-cookie", "content-type" }

---@param given { url: string, copy: string[]?, timeout: number? }
---@return table policy
return function(given)
  local options = gate.options("auth.forward", given, {
    url = { "string", needed = true },
    copy = { "strings", default = {} },
    timeout = { "seconds", above = 0, default = 2 },
  })

  local function question(req)
    local fields = {
      ["x-forwarded-method"] = req.method,
      ["x-forwarded-host"] = req.host,
      ["x-forwarded-uri"] = req.raw_path .. (req.query and "?" .. req.query or ""),
      ["x-forwarded-for"] = req.client.ip,
    }
    for _, name in ipairs(asked_with) do fields[name] = req.headers[name] end
    return fields
  end

  local function access(req)
    local answer = gate.fetch(options.url, { headers = question(req), timeout = options.timeout })     -- waits
    if answer.status == 0 then return 503, "permission can't be asked for now\n" end
    if not answer.ok then
      local fields = {}
      for _, name in ipairs(answered_with) do fields[name] = answer.headers[name] end
      return answer.status, answer:text(), fields
    end
    for _, name in ipairs(options.copy) do req.headers[name] = answer.headers[name] end
  end

  return { name = "auth.forward", access = access }
end

-- auth.session - let a request pass if its bearer token names a live session.
--
--   local session = require "auth.session" { url = "http://127.0.0.1:9100/session/" }
--   gate.route { "api.example.com/*", policies = { session }, upstream = api }
--
-- The service at `url`, asked with the token at its end, answers 200 and a name
-- in the body, or another status. The origin is told the name in x-user.

local gate = require "moongate"

---@param given { url: string, realm: string?, timeout: number? }
---@return table policy
return function(given)
  local options = gate.options("auth.session", given, {
    url = { "string", needed = true },
    realm = { "string", default = "api" },
    timeout = { "seconds", above = 0, default = 2 },
  })
  local challenge = { ["www-authenticate"] = ('Bearer realm="%s"'):format(options.realm) }

  local function access(req)
    local token = req:bearer()
    if not token then return 401, "a bearer token is needed\n", challenge end

    local answer = gate.fetch(options.url .. gate.escape(token), { timeout = options.timeout })     -- waits
    if answer.status == 0 or answer.status >= 500 then return 503, "sessions can't be checked now\n" end
    if answer.status ~= 200 then return 401, "no such session\n", challenge end

    req.headers["x-user"] = answer:text():match("%S+")      -- replaces whatever the client sent
  end

  return { name = "auth.session", access = access }
end

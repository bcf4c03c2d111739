-- auth.basic - ask for a name and a password (RFC 7617).
--
--   local basic = require "auth.basic" { users = { alice = "open sesame" } }
--   gate.route { "/private/*", policies = { basic }, upstream = app }
--
-- Instead of a table, `users` may be a function(name, password) that says true
-- or false, and may wait: ask a database. The origin is told in x-user who it was.

local gate = require "moongate"

---@param given { users: table<string, string>|fun(name: string, password: string): boolean?, realm: string? }
---@return table policy
return function(given)
  local options = gate.options("auth.basic", given, {
    users = { "any", needed = true, expect = "a table of names and passwords, or a function(name, password)" },
    realm = { "string", default = "private" },
  })
  local challenge = { ["www-authenticate"] = ('Basic realm="%s", charset="UTF-8"'):format(options.realm) }

  local knows = options.users
  if type(knows) == "table" then
    local users = knows
    function knows(name, password)
      local right = gate.crypto.equal(password, users[name] or "")
      return users[name] ~= nil and right
    end
  end

  local function access(req)
    req.headers["x-user"] = nil             -- whatever the client claims
    local scheme, encoded = (req.headers.authorization or ""):match("^(%a+) +(%S+)$")
    local text = scheme and scheme:lower() == "basic" and gate.base64.decode(encoded)
    local name, password = (text or ""):match("^([^:%c]+):(%C*)$")
    if not name or not knows(name, password) then
      return 401, "a name and a password are needed\n", challenge
    end
    req.headers["x-user"] = name
  end

  return { name = "auth.basic", access = access }
end

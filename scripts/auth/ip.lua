-- auth.ip - let clients pass, or not, by the network that they come from.
--
--   local ip = require "auth.ip" { allow = { "10.0.0.0/8", "2001:db8::/32" }, deny = { "10.66.0.0/16" } }
--   gate.route { "/admin/*", policies = { ip }, upstream = admin }
--
-- allow, deny   networks or addresses of IPv4 and IPv6; "unix" stands for clients on a unix socket
-- status        what those who may not pass get, 403 if not given
-- by            a function(req) that gives the address, if it is not the connection's: of a field that a CDN sets, say
-- close         true: their connections are closed as they come, before TLS (for gate.use only)
--
-- The longest network that an address is in decides, wherever it stands, so 10.66.0.0/16 is an
-- exception from 10.0.0.0/8, and 10.66.1.1 may be one from that. Who is in none may pass if nothing is
-- allowed by name, and may not otherwise. A network can't be allowed and denied.

local gate = require "moongate"

---@param given { allow: string[]?, deny: string[]?, status: integer?, by: (fun(req): string?)?, close: boolean? }
---@return table policy
return function(given)
  local may_pass = gate.networks()        -- true or false for each network

  local function list_of(verdict)
    return { "any", expect = 'a list of networks like { "10.0.0.0/8", "::1" }', read = function(list)
      if type(list) ~= "table" then return nil end
      for _, network in ipairs(list) do
        local ok, reason = may_pass:add(network, verdict)
        if not ok then return nil, nil, ": " .. reason end
      end
      return list
    end }
  end

  local options = gate.options("auth.ip", given, {
    allow = list_of(true),
    deny = list_of(false),
    status = { "count", min = 400, max = 499, default = 403 },
    by = { "function" },
    close = { "boolean", default = false },
  })
  local otherwise = not options.allow

  local function passes(address)
    local verdict = may_pass:find(address)
    if verdict == nil then return otherwise end
    return verdict
  end

  if options.close then
    return { name = "auth.ip", connect = function(conn) return passes(conn.ip) end }
  end

  local function access(req)
    local address = req.client.ip
    if options.by then address = options.by(req) end
    if not address or not passes(address) then return options.status, "this is not for your address\n" end
  end

  return { name = "auth.ip", access = access }
end

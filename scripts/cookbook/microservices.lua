-- microservices - one address for several services, by the path, which they need not know of.
--
--   USERS=127.0.0.1:3001 ORDERS=127.0.0.1:3002 moongate microservices.lua
--   curl http://localhost:8080/api/users/7         the users' service is asked for /7
--   curl http://localhost:8080/api/orders/?open    the orders' one for /?open
--
-- Each request has an id, to the services and back.

local gate = require "moongate"

gate.listen(os.getenv "LISTEN" or ":8080")
gate.use(require "headers.request_id" {})

local function service(name, peers)
  local prefix = "/api/" .. name
  gate.route {
    prefix .. "/*", name = name, upstream = gate.upstream(name, { peers = peers }),
    policies = { require "rewrite.prefix" { strip = prefix } },
  }
end

service("users", { os.getenv "USERS" or "127.0.0.1:3001" })
service("orders", { os.getenv "ORDERS" or "127.0.0.1:3002" })

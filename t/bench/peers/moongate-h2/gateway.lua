-- No hooks, to an origin of HTTP/2.
local gate = require "moongate"
local env = os.getenv

gate.set { workers = tonumber(env "WORKERS"), access_log = "off", max_connections = 20000, keepalive_requests = 0 }
gate.listen { env "IP" .. ":" .. env "PORT", idle_timeout = 300 }
gate.listen { env "IP" .. ":" .. env "PORT" + 100, idle_timeout = 300 }
gate.route { "/*", upstream = gate.upstream("origin", { peers = { env "ORIGIN_H2" }, protocol = "h2" }) }

-- No hooks: an exchange never enters Lua.
local gate = require "moongate"
local env = os.getenv

gate.set { workers = tonumber(env "WORKERS"), access_log = "off", max_connections = 20000, keepalive_requests = 0 }
gate.listen { env "IP" .. ":" .. env "PORT", idle_timeout = 300 }
gate.listen { env "IP" .. ":" .. env "PORT" + 100, idle_timeout = 300 }
gate.listen {
  env "IP" .. ":" .. env "PORT" + 200, idle_timeout = 300, tls = { cert = env "CERT", key = env "KEY" },
}
-- For reloads of a long script.
for i = 1, tonumber(env "ROUTES" or 0) do
  gate.route { ("/r%d/:id/*"):format(i), handler = function() return 200, "route " .. i end }
end
gate.route { "/*", upstream = gate.upstream("origin", { peers = { env "ORIGIN" }, keepalive = 1024 }) }

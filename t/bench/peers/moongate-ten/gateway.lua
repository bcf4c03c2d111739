-- Ten peers, in turn, or by another balancer.
local gate = require "moongate"
local env = os.getenv
local peers = {}
for i = 1, 10 do peers[i] = env "ORIGIN" end

gate.set { workers = tonumber(env "WORKERS"), access_log = "off", max_connections = 20000, keepalive_requests = 0 }
gate.listen { env "IP" .. ":" .. env "PORT", idle_timeout = 300 }
gate.route { "/*", upstream = gate.upstream("origin", { peers = peers, keepalive = 1024,
  balance = env "BALANCE" or "round_robin" }) }

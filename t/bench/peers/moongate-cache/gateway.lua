-- Answers from its cache, as ../nginx-cache does; the origin does not say how long its responses are fresh.
local gate = require "moongate"
local env = os.getenv
local cache = require "cache" { size = "64M", ttl = 3600 }

gate.set { workers = tonumber(env "WORKERS"), access_log = "off", max_connections = 20000, keepalive_requests = 0 }
gate.listen { env "IP" .. ":" .. env "PORT", idle_timeout = 300 }
gate.route {
  "/*", policies = { cache }, upstream = gate.upstream("origin", { peers = { env "ORIGIN" }, keepalive = 1024 }),
}

-- Compresses as ../nginx-gzip does.
local gate = require "moongate"
local env = os.getenv
local compress = require "body.compress" { codings = { "gzip" }, level = 6 }

gate.set { workers = tonumber(env "WORKERS"), access_log = "off", max_connections = 20000, keepalive_requests = 0 }
gate.listen { env "IP" .. ":" .. env "PORT", idle_timeout = 300 }
gate.route {
  "/*", policies = { compress }, upstream = gate.upstream("origin", { peers = { env "ORIGIN" }, keepalive = 1024 }),
}

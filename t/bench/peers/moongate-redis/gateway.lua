-- One GET a request in a hook.
local gate = require "moongate"
local env = os.getenv
local redis = require "store.redis"(env "REDIS") {}

gate.set { workers = tonumber(env "WORKERS"), access_log = "off", max_connections = 20000, keepalive_requests = 0 }
gate.listen { env "IP" .. ":" .. env "PORT", idle_timeout = 300 }

gate.use {
  access = function(req)
    req.headers["x-gate"] = redis:get("key")
  end,
}
gate.route { "/*", upstream = gate.upstream("origin", { peers = { env "ORIGIN" }, keepalive = 1024 }) }

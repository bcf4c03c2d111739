-- Five hooks, which do what ../nginx-lua/gate.lua does.
local gate = require "moongate"
local env = os.getenv
local turn, counts = 0, {}

gate.set { workers = tonumber(env "WORKERS"), access_log = "off", max_connections = 20000, keepalive_requests = 0 }
gate.listen { env "IP" .. ":" .. env "PORT", idle_timeout = 300 }

gate.use {
  request = function(req)
    local headers = req.headers
    headers["x-gate"] = req.host .. req.path .. (headers["x-client"] or "-")
  end,
  access = function(req)
    if req.path:sub(1, 7) == "/admin/" then return 403 end
  end,
  response = function(req, res)
    res.headers["x-served-by"] = "gate"
  end,
  log = function(req, res)
    local status = res and res.status or 0
    counts[status] = (counts[status] or 0) + 1
  end,
}

local origin = gate.upstream("origin", {
  peers = { env "ORIGIN", env "ORIGIN" },
  keepalive = 1024,
  balance = function(req, peers)
    turn = turn % #peers + 1
    return peers[turn]
  end,
})
gate.route { "/*", upstream = origin }

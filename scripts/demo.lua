-- demo - a gateway to look at, with an origin of its own; `make run` serves it.
--
-- It listens on port 8080 (or what the environment's PORT says). The two ports
-- above it play the origin: handlers of this same script, behind a balancer.

local gate = require "moongate"

local port = tonumber(os.getenv "PORT") or 8080
local front = ("127.0.0.1:%d"):format(port)
local peers = { ("127.0.0.1:%d"):format(port + 1), ("127.0.0.1:%d"):format(port + 2) }

gate.listen(front)
gate.listen(peers[1])
gate.listen(peers[2])
gate.set { access_log = "off", workers = 1 }

-- ---- The origin: what its two peers answer. Their routes have a host of their own. ----

gate.route { "origin.demo/story", handler = function(req)
  local lines = { "Once upon a time there was a wall,\n", "and in the wall there was a door,\n",
    "and whoever went through the do", "or never saw the wall.\n" }     -- a word that two pieces share
  local n = 0
  return 200, function()
    n = n + 1
    if n > 1 then gate.sleep(0.3) end
    return lines[n]
  end, { ["content-type"] = "text/plain", server = "demo origin" }
end }

gate.route { "origin.demo/*", handler = function(req)
  return 200, {
    peer = "127.0.0.1:" .. req.server.port, method = req.method, path = req.path, args = req.args,
    user = req.headers["x-user"], id = req.headers["x-request-id"],
  }
end }

-- ---- The gateway. ----

local app = gate.upstream("app", {
  peers = peers,
  balance = "p2c",
  attempt = function(req) req.headers.host = "origin.demo" end,      -- for this try only
})

-- keep: the origin's listeners are behind this one, so there the id is known already.
gate.use(require "headers.request_id" { keep = true }, require "headers.security" {})

local users = {     -- by: openssl passwd -6 'open sesame'
  alice = "$6$moongate$goN0g6PTEEa64zaimYNrz/knLAy4Qwq7tID4Qn67ZJHsYrxvNOB8UqTQw2.0jWjhPOD7JXm0uDETMT7xjGgtV1",
}
gate.route {
  "/private/*",
  policies = { require "auth.basic" { users = users } },
  upstream = app,
}
gate.route {
  "/story",
  policies = { require "body.replace" { words = { door = "moon gate" } } },
  upstream = app,
}
gate.route {
  "/limited",
  policies = { require "limit.rate" { rate = 1, burst = 3 } },
  upstream = app,
}
gate.route { "/hello", handler = function(req)
  return 200, "hello " .. (req.args.name or "you") .. "\n"
end }
gate.route { "/*", upstream = app }

if gate.worker() == 0 then
  local text = [[
Moongate's demo listens on $front. Try:

  curl 'http://$front/hello?name=moon'                     a handler in Lua
  curl -i http://$front/any/path                           one of two peers, a request id, careful headers
  curl -i http://$front/private/                           401 ...
  curl -u 'alice:open sesame' http://$front/private/       ... and the origin is told who it is
  curl -N http://$front/story                              edited while it streams: door becomes moon gate
  for i in 1 2 3 4 5; do curl -i http://$front/limited; done     429 when the bucket is empty
]]
  io.stdout:write((text:gsub("%$front", front)), "\n")
  io.stdout:flush()
end

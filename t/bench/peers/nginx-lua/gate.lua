-- What the five hooks do, of nginx's Lua module.
local balancer = require "ngx.balancer"

local gate, peers, turn, counts = {}, {}, 0, {}

function gate.origin(address)
  local ip, port = address:match("(.+):(%d+)")
  peers = { { ip, tonumber(port) }, { ip, tonumber(port) } }
end

function gate.rewrite()
  local var = ngx.var
  ngx.req.set_header("X-Gate", var.host .. var.uri .. (var.http_x_client or "-"))
end

function gate.access()
  if ngx.var.uri:sub(1, 7) == "/admin/" then return ngx.exit(403) end
end

function gate.balancer()
  turn = turn % #peers + 1
  balancer.set_current_peer(peers[turn][1], peers[turn][2])
end

function gate.header()
  ngx.header["X-Served-By"] = "gate"
end

function gate.log()
  counts[ngx.status] = (counts[ngx.status] or 0) + 1
end

return gate

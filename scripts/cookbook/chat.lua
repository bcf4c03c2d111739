-- chat - WebSockets and event streams, each user with the server that has his session.
--
--   PEERS=127.0.0.1:3001,127.0.0.1:3002 moongate chat.lua
--   curl -N http://localhost:8080/events
--
-- The first answer sets a cookie that names the server (by a hash); when that is gone, the user gets another one.
-- Connections may be silent for ten minutes, and a user has at most 20 of them.

local gate = require "moongate"

local peers = {}
for peer in (os.getenv "PEERS" or "127.0.0.1:3001,127.0.0.1:3002"):gmatch "[^,]+" do peers[#peers + 1] = peer end

gate.listen(os.getenv "LISTEN" or ":8080")
gate.route {
  "/*",
  policies = { require "limit.concurrency" { most = 20 } },
  upstream = gate.upstream("chat", {
    peers = peers,
    balance = require "balance.sticky" { cookie = "server", balance = "least_conn" },
    read_timeout = 600,
    health = { tcp = true, interval = 1 },
  }),
}

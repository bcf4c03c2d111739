-- balanced - several servers of one application: the less busy one serves, and one that dies is not noticed.
--
--   PEERS=127.0.0.1:3001,127.0.0.1:3002 moongate --control gate.sock balanced.lua
--   curl http://localhost:8080/
--   moongate --control gate.sock peers                                who serves, and why others do not
--   moongate --control gate.sock peers drain app 127.0.0.1:3001       before it is taken down
--
-- A server counts as down when its /healthz has failed twice, and is left out for a while after three failed requests
-- in a row. A request that a server did not answer goes to another one, if it may be sent twice.

local gate = require "moongate"

local peers = {}
for peer in (os.getenv "PEERS" or "127.0.0.1:3001,127.0.0.1:3002"):gmatch "[^,]+" do peers[#peers + 1] = peer end

gate.listen(os.getenv "LISTEN" or ":8080")
gate.route { "/*", upstream = gate.upstream("app", {
  peers = peers,
  balance = "p2c",
  health = { path = "/healthz", interval = 1, rise = 2, fall = 2 },
  eject = { consecutive = 3 },
  retry = { attempts = 3, on = { "connect", "reset", 502, 503 }, budget = 0.2 },
}) }

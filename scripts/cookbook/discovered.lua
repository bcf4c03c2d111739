-- discovered - servers that come and go, found by SRV records, as Consul, Kubernetes and others serve them.
--
--   SERVICE=_http._tcp.app.internal RESOLVER=127.0.0.1:8600 moongate --control gate.sock discovered.lua
--   moongate --control gate.sock peers
--
-- Weights count, and servers of the lowest priority serve while one of them is healthy. One that goes gets nothing new,
-- and what is under way ends in peace. When the name servers are away, those who were there stay.

local gate = require "moongate"

local resolver = os.getenv "RESOLVER"
if resolver then gate.set { resolver = { resolver } } end

gate.listen(os.getenv "LISTEN" or ":8080")
gate.route { "/*", upstream = gate.upstream("app", {
  discover = require "discover.dns" { srv = os.getenv "SERVICE" or "_http._tcp.app.internal" },
  discover_interval = 1,
  balance = require "balance.tiers" { spare = math.huge },
  health = { tcp = true, interval = 2 },
}) }

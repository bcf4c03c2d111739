-- shadow - the new version gets copies of real requests, and nobody sees what it answers.
--
--   APP=127.0.0.1:3001 NEXT=127.0.0.1:3002 SHARE=0.1 moongate --control gate.sock shadow.lua
--   moongate --control gate.sock status --json | jq '.workers[0].upstreams'
--
-- Copies are sent when the answer has gone, carry X-Moongate-Mirror, and are given up rather than slow anybody down.
-- All requests of one user are copied, or none of them. Compare errors and latency of the two in /metrics.

local gate = require "moongate"

gate.listen(os.getenv "LISTEN" or ":8080")

local app = gate.upstream("app", { peers = { os.getenv "APP" or "127.0.0.1:3001" } })
gate.upstream("next", { peers = { os.getenv "NEXT" or "127.0.0.1:3002" } })

gate.route { "127.0.0.1/metrics", handler = require "metrics.prometheus" {} }
gate.route {
  "/*", upstream = app,
  mirror = {
    upstream = "next", share = tonumber(os.getenv "SHARE") or 0.1,
    key = function(req) return req.cookies.user or req.client.ip end,
  },
}

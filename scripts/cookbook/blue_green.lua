-- blue_green - the new version beside the old one: for testers by a header, for a share of the users, for all.
--
--   BLUE=127.0.0.1:3001 GREEN=127.0.0.1:3002 SHARE=5 moongate --control gate.sock blue_green.lua
--   curl -H "X-Version: green" http://localhost:8080/
--
-- SHARE is the percentage of users who get green; raise it and `moongate reload`: those who have it keep it. At 0 only
-- the header leads there, at 100 blue may go.

local gate = require "moongate"

local share = tonumber(os.getenv "SHARE") or 0

gate.listen(os.getenv "LISTEN" or ":8080")
gate.upstream("blue", { peers = { os.getenv "BLUE" or "127.0.0.1:3001" } })
gate.upstream("green", { peers = { os.getenv "GREEN" or "127.0.0.1:3002" } })

local split = require "route.split" {
  to = { { "green", share }, { "blue", 100 - share } },
  header = "x-version",
  key = function(req) return req.cookies.user or req.client.ip end,
}

gate.route { "/*", policies = { split }, upstream = "blue" }

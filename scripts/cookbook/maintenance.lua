-- maintenance - a switch that closes a site for all but its makers, and pages for errors that are the site's own.
--
--   APP=127.0.0.1:3000 moongate maintenance.lua
--   touch /run/gate/maintenance       closed, without a reload; rm: open again
--
-- Visitors get 503 with Retry-After; those of the own network see the site. An application that is away shows the same
-- kind of page, and not a line of the gateway's.

local gate = require "moongate"

gate.listen(os.getenv "LISTEN" or ":8080")

gate.use(require "answer.error_pages" { pages = {
  [404] = "<h1>Not here</h1><p>Request {id}</p>",
  ["5xx"] = "<h1>We'll be back</h1><p>Request {id}</p>",
} })
gate.use(require "answer.maintenance" {
  file = os.getenv "SWITCH" or "/run/gate/maintenance", allow = { os.getenv "MAKERS" or "10.0.0.0/8" },
  page = "<h1>Down for maintenance</h1>",
})
gate.route { "/*", upstream = gate.upstream("app", { peers = { os.getenv "APP" or "127.0.0.1:3000" } }) }

-- cached - a cache in front of an application that is slow, or away for a moment.
--
--   APP=127.0.0.1:3000 moongate cached.lua
--   curl -i http://localhost:8080/ | grep -i cache-status
--   curl -X PURGE http://localhost:8080/page          from 127.0.0.1 alone
--
-- What the application's Cache-Control allows is kept, in memory that all workers share. A hundred who ask for the same
-- at once make one request of it. For ten minutes an old answer is better than an error, and for half a minute it is
-- given at once while a new one is fetched. Text goes out compressed.

local gate = require "moongate"

gate.listen(os.getenv "LISTEN" or ":8080")

local cache = require "cache" {
  size = "256M", stale_if_error = 600, stale_while_revalidate = 30, purge = { "127.0.0.0/8", "::1" },
}

gate.route { "/*", policies = { require "body.compress" {}, cache },
  upstream = gate.upstream("app", { peers = { os.getenv "APP" or "127.0.0.1:3000" } }) }

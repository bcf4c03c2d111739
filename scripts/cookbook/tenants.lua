-- tenants - many tenants on one gateway, none of whom can take it from the others.
--
--   APP=127.0.0.1:3000 moongate tenants.lua
--   curl -H "Host: acme.example.com" http://localhost:8080/
--
-- The tenant is the first part of the host. Each has so many requests a second, so many at once, so many bytes a second
-- and a day. Who is over gets 429 and is told when to come again; all others notice nothing.

local gate = require "moongate"

local function tenant(req) return req.params.tenant end

gate.listen(os.getenv "LISTEN" or ":8080")
gate.use { name = "tenant", access = function(req)
  local name = req.host:match "^([%w-]+)%.example%.com$"
  if not name then return 404, "there is no such tenant\n" end
  req.params.tenant, req.headers["x-tenant"] = name, name
end }

gate.route {
  "*.example.com/*",
  policies = {
    require "limit.rate" { rate = 50, burst = 100, by = tenant },
    require "limit.concurrency" { most = tonumber(os.getenv "AT_ONCE") or 20, by = tenant },
    require "limit.bandwidth" { down = "10M", by = tenant },
    require "limit.quota" { most = "100G", per = "day", count = "bytes", by = tenant },
    require "limit.body" { most = "10M" },
  },
  upstream = gate.upstream("app", { peers = { os.getenv "APP" or "127.0.0.1:3000" } }),
}

-- browsers - an API that pages of other sites may use, and one's own pages that they may not: what browsers are told.
--
--   APP=127.0.0.1:3000 ORIGINS=https://app.example.com moongate browsers.lua
--   curl -i -H "Origin: https://app.example.com" http://localhost:8080/api/things
--   curl -i -X POST -H "Sec-Fetch-Site: cross-site" http://localhost:8080/settings     403
--
-- Scanners are turned away, and banned when they go on.

local gate = require "moongate"

local origins = {}
for origin in (os.getenv "ORIGINS" or "https://app.example.com"):gmatch "[^,]+" do origins[#origins + 1] = origin end

gate.listen(os.getenv "LISTEN" or ":8080")
gate.use(require "block.scanners" {})
gate.use(require "headers.security" { frame = "DENY", policy = "default-src 'self'" })

local app = gate.upstream("app", { peers = { os.getenv "APP" or "127.0.0.1:3000" } })

gate.route { "/api/*", policies = { require "headers.cors" { origins = origins } }, upstream = app }
gate.route { "/*", policies = { require "auth.csrf" {} }, upstream = app }

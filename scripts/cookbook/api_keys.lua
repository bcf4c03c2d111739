-- api_keys - customers with API keys, and a number of requests a day that a fleet of gateways counts together.
--
--   REDIS=redis://127.0.0.1:6379 moongate api_keys.lua
--   curl -H "X-API-Key: demo" http://localhost:8080/
--
-- KEYS is a Lua file that returns a table from keys to customers; a key may stand there as "sha256:..." of it, so that
-- nobody can read it. When Redis is away requests pass, as serving is worth more than counting: see on_fail.

local gate = require "moongate"

gate.listen(os.getenv "LISTEN" or ":8080")

local file = os.getenv "KEYS"
local key = require "auth.key" { keys = file and dofile(file) or { demo = "demo" } }
local quota = require "limit.quota" {
  most = tonumber(os.getenv "QUOTA") or 10000, per = "day", by = function(req) return req.headers["x-user"] end,
  store = os.getenv "REDIS" or "redis://127.0.0.1:6379", on_fail = "open",
}

gate.route { "/*", policies = { key, quota },
  upstream = gate.upstream("api", { peers = { os.getenv "API" or "127.0.0.1:3000" } }) }

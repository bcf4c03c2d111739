-- api - an API for those who bring a token, each with a rate of his own.
--
--   JWKS=https://id.example.com/jwks.json ISSUER=https://id.example.com moongate api.lua
--   curl -H "Authorization: Bearer $TOKEN" http://localhost:8080/v1/things
--
-- Without a good token: 401. More than ten requests a second by one user: 429, with Retry-After. The service gets the
-- user's name in x-user, and never a token that was not looked at.

local gate = require "moongate"

gate.listen(os.getenv "LISTEN" or ":8080")

local issuer = os.getenv "ISSUER" or "https://id.example.com"
local jwt = require "auth.jwt" {
  jwks = os.getenv "JWKS" or issuer .. "/jwks.json", issuer = issuer,
  audience = os.getenv "AUDIENCE" or "https://api.example.com",
}
local rate = require "limit.rate" { rate = 10, burst = 20, by = function(req) return req.ctx.claims.sub end }

gate.route { "/v1/*", policies = { jwt, rate },
  upstream = gate.upstream("api", { peers = { os.getenv "API" or "127.0.0.1:3000" } }) }

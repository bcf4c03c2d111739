-- login - an internal tool that knows nothing of users, behind a login at an OpenID provider.
--
--   export COOKIE_SECRET=$(openssl rand -hex 32)
--   ISSUER=https://id.example.com CLIENT_ID=tool CLIENT_SECRET=... moongate login.lua
--
-- A browser without a session is sent to the provider and back to the page it wanted; anything else gets 401. The
-- tool gets the user in x-user and x-email. Register URL .. "/oidc/callback" at the provider. A page of another site
-- can make no browser change anything here.

local gate = require "moongate"

gate.listen(os.getenv "LISTEN" or ":8080")
gate.use(require "auth.csrf" {})

local login = require "auth.oidc" {
  issuer = os.getenv "ISSUER" or "https://id.example.com",
  client_id = os.getenv "CLIENT_ID" or "tool", client_secret = os.getenv "CLIENT_SECRET",
  url = os.getenv "URL" or "http://localhost:8080",
  secrets = { os.getenv "COOKIE_SECRET" or error "set COOKIE_SECRET to 32 bytes or more: openssl rand -hex 32" },
  fields = { ["x-user"] = "sub", ["x-email"] = "email" },
}

gate.route { "/*", policies = { login },
  upstream = gate.upstream("tool", { peers = { os.getenv "TOOL" or "127.0.0.1:3000" } }) }

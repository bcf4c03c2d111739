-- tls_front - TLS in front of one application.
--
--   APP=127.0.0.1:3000 CERT=site.pem KEY=site.key moongate tls_front.lua
--   curl -i http://localhost:8080/            308: goes to https
--   curl -k https://localhost:8443/           the application, with Strict-Transport-Security
--
-- On a server: PLAIN=:80 LISTEN=:443. The certificate is read anew by `moongate reload`.

local gate = require "moongate"

gate.listen(os.getenv "PLAIN" or ":8080")
gate.listen { os.getenv "LISTEN" or ":8443", tls = {
  cert = os.getenv "CERT" or "site.pem", key = os.getenv "KEY" or "site.key",
} }

local app = gate.upstream("app", { peers = { os.getenv "APP" or "127.0.0.1:3000" } })

gate.use(require "rewrite.canonical" { https = true })
gate.use(require "headers.security" { hsts = 31536000 })
gate.route { "/*", upstream = app }

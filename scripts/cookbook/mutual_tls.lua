-- mutual_tls - services that know each other by certificate, on both sides of the gateway.
--
--   CA=ca.pem CERT=gate.pem KEY=gate.key moongate mutual_tls.lua
--   curl --cacert ca.pem --cert jobs.pem --key jobs.key https://gate.internal:8443/
--
-- Only certificates of the own authority for *.jobs.internal pass: others get 403, and none at all ends the handshake.
-- The service behind is reached by TLS too: its certificate must be good, and it sees the gateway's.

local gate = require "moongate"

local ca, cert, key = os.getenv "CA" or "ca.pem", os.getenv "CERT" or "gate.pem", os.getenv "KEY" or "gate.key"

gate.listen { os.getenv "LISTEN" or ":8443", tls = { cert = cert, key = key, client_cert = "require", client_ca = ca } }

local jobs = require "auth.mtls" { names = { "DNS:*.jobs.internal" }, fields = { ["x-peer"] = "name" } }

gate.route { "/*", policies = { jobs }, upstream = gate.upstream("service", {
  peers = { os.getenv "SERVICE" or "service.internal:8443" },
  tls = { ca = ca, cert = cert, key = key, sni = os.getenv "NAME" or "service.internal" },
}) }

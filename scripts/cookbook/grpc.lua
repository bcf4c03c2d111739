-- grpc - calls of gRPC, balanced one by one, and not connection by connection.
--
--   PEERS=127.0.0.1:50051,127.0.0.1:50052 moongate grpc.lua
--   grpcurl -plaintext localhost:8080 list
--
-- Clients may speak HTTP/2 in clear text; with TLS add tls = { cert =, key = } to the listener. A server that says so
-- itself by grpc.health.v1 is left out. What the gateway has to say comes as grpc-status.

local gate = require "moongate"

local peers = {}
for peer in (os.getenv "PEERS" or "127.0.0.1:50051"):gmatch "[^,]+" do peers[#peers + 1] = peer end

gate.listen(os.getenv "LISTEN" or ":8080")
gate.route { "/*", upstream = gate.upstream("grpc", {
  peers = peers, protocol = "h2", balance = "p2c",
  health = os.getenv "HEALTH" and { grpc = "", interval = 2 } or nil,
}) }

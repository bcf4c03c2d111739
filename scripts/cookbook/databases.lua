-- databases - databases behind one address, told apart by the name that the client's TLS asks for.
--
--   ORDERS=10.0.0.1:5432 USERS=10.0.0.2:5432 moongate databases.lua
--
-- TLS is not ended here: the gateway sees the name and passes the bytes on, so certificates stay with the databases.
-- Who names none of them is let go. At most 100 connections go to each server, and an address has 10.

local gate = require "moongate"

local function database(name, peer)
  return gate.upstream(name, { peers = { peer }, max_connections = 100, connect_timeout = 2 })
end

gate.listen { os.getenv "LISTEN" or ":5432", tcp = {
  ["orders.db.internal"] = database("orders", os.getenv "ORDERS" or "127.0.0.1:15432"),
  ["users.db.internal"] = database("users", os.getenv "USERS" or "127.0.0.1:25432"),
} }

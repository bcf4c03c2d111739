-- many_sites - several sites behind one address, each with its certificate and its own servers.
--
--   moongate many_sites.lua
--   curl -k --resolve shop.example.com:8443:127.0.0.1 https://shop.example.com:8443/
--
-- The client says by SNI which site it wants, and gets that certificate; a name that nobody has gets the first one, and
-- then 404. Put yours into CERTS: shop.pem, shop.key, blog.pem, blog.key.

local gate = require "moongate"

local certs = os.getenv "CERTS" or "certs"
local shop = gate.upstream("shop", { peers = { os.getenv "SHOP" or "127.0.0.1:3001" } })
local blog = gate.upstream("blog", { peers = { os.getenv "BLOG" or "127.0.0.1:3002" } })

gate.listen { os.getenv "LISTEN" or ":8443", tls = { certificates = {
  { cert = certs .. "/shop.pem", key = certs .. "/shop.key" },
  { cert = certs .. "/blog.pem", key = certs .. "/blog.key" },
} } }

gate.route { "shop.example.com/*", upstream = shop }
gate.route { "blog.example.com/*", upstream = blog }
gate.route { "*.blog.example.com/*", upstream = blog }

-- balance.header_hash - requests with the same value in a header go to the same peer.
--
--   gate.upstream("cache", { peers = { ... }, balance = require "balance.header_hash" { header = "x-tenant" } })
--
-- Requests without the header are spread by the upstream's round robin. By balance.rendezvous.

local gate = require "moongate"

---@param given { header: string }
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.header_hash", given, { header = { "string", needed = true } })

  return require "balance.rendezvous" { key = function(req) return req.headers[options.header] end }
end

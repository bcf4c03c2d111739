-- balance.sticky - a client stays with the peer that it got first, by a cookie.
--
--   gate.upstream("shop", { peers = { ... },
--     balance = require "balance.sticky" { cookie = "route", balance = "p2c" } })
--
-- A client without the cookie gets a peer from the balancer within, and with the
-- response the cookie that names it (by a hash, so that no address is told). When
-- that peer is gone, draining or not healthy, the client gets another one and
-- another cookie. It is kept by the browser, so gateways need not know of each
-- other. As HAProxy's `cookie insert` (configuration manual, section 4.2).

local gate = require "moongate"

local function name_of(peer)
  return ("%013x"):format(peer.hash * 2 ^ 52)
end

---@param given { cookie: string?, path: string?, max_age: integer?, secure: boolean?, same_site: string? }?
---@return table balancer
return function(given)
  local options = gate.options("balance.sticky", given, {
    cookie = { "string", default = "route" },
    path = { "string", default = "/" },
    max_age = { "count" },
    secure = { "boolean", default = false },
    same_site = { { "Strict", "Lax", "None" }, default = "Lax" },
    balance = { "balancer", default = "p2c" },
  })
  local suffix = ("; Path=%s; HttpOnly; SameSite=%s"):format(options.path, options.same_site)
  if options.max_age then suffix = ("%s; Max-Age=%d"):format(suffix, options.max_age) end
  if options.secure then suffix = suffix .. "; Secure" end

  local by_name = gate.memoize(function(peers)
    local named = {}
    for _, peer in ipairs(peers) do named[name_of(peer)] = peer end
    return named
  end)

  return {
    balance = function(req, peers)
      local name = req.cookies[options.cookie]
      return name and by_name(peers)[name] or options.balance(req, peers)
    end,
    response = function(req, res)
      local name = res.peer and name_of(res.peer)
      if name and req.cookies[options.cookie] ~= name then
        res.headers:add("set-cookie", options.cookie .. "=" .. name .. suffix)
      end
    end,
  }
end

-- balance.header_hash - requests with the same header value go to the same peer.
--
--   gate.upstream("cache", { peers = { ... }, balance = require "balance.header_hash" { header = "x-tenant" } })
--
-- Rendezvous hashing: each peer draws a number from the value and its own
-- address, and the highest wins. When a peer comes or goes only its own share moves.
-- `by`, a function(req), may stand for `header`. Requests without a value are spread.

local gate = require "moongate"
local bit = require "bit"

-- FNV-1a over the text, 32 bits.
local function hash(text)
  local h = 0x811c9dc5
  for i = 1, #text do
    h = bit.bxor(h, text:byte(i))
    h = bit.tobit(h * 403 + bit.lshift(h, 24))        -- times 16777619, within a double's exact range
  end
  return h
end

-- Two hashes to a number between 0 and 1 that depends on every bit of both.
local function draw(a, b)
  local h = bit.bxor(a, bit.rol(b, 15))
  for _ = 1, 2 do
    h = bit.bxor(h, bit.rshift(h, 16))
    h = bit.tobit(h * 0x2c1b)
    h = bit.bxor(h, bit.rshift(h, 13))
    h = bit.tobit(h * 0x297a + bit.lshift(h, 17))
  end
  return (bit.band(h, 0x7fffffff) + 0.5) / 0x80000000
end

---@param given { header: string?, by: (fun(req): string?)? }
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.header_hash", given, { header = { "string" }, by = { "function" } })
  if (options.header == nil) == (options.by == nil) then
    error("balance.header_hash: one of header and by is needed", 2)
  end
  local by = options.by or function(req) return req.headers[options.header] end
  local seeds = {}                                    -- a peer's address -> its hash

  return function(req, peers)
    local value = by(req)
    if not value then return end                      -- the upstream's round robin
    local key, best, most = hash(value), nil, nil
    for i = 1, #peers do
      local peer = peers[i]
      local seed = seeds[peer.address]
      if not seed then
        seed = hash(peer.address)
        seeds[peer.address] = seed
      end
      local score = -peer.weight / math.log(draw(key, seed))
      if not most or score > most then best, most = peer, score end
    end
    return best
  end
end

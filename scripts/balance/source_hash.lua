-- balance.source_hash - the same client goes to the same peer.
--
--   gate.upstream("app", { peers = { ... }, balance = "source_hash" })
--   balance = require "balance.source_hash" { v4 = 24, v6 = 56 }
--
-- What counts is the network that the address is in: of IPv6 the first 64 bits,
-- since one client changes the others as it likes. By balance.rendezvous.

local gate = require "moongate"
local bit = require "bit"

-- The first `bits` bits of an address, as text that is the same for all that share them.
local function network(groups, bits, width)
  local kept = {}
  for i, group in ipairs(groups) do
    local here = math.max(0, math.min(width, bits - (i - 1) * width))
    kept[i] = bit.band(group, 2 ^ width - 2 ^ (width - here))
  end
  return table.concat(kept, ".")
end

local function groups_of_v6(ip)
  local head, tail = ip:match "^(.-)::(.*)$"
  local groups, behind = {}, {}
  for group in (head or ip):gmatch "%x+" do groups[#groups + 1] = tonumber(group, 16) end
  for group in (tail or ""):gmatch "%x+" do behind[#behind + 1] = tonumber(group, 16) end
  for _ = #groups + #behind + 1, 8 do groups[#groups + 1] = 0 end
  for _, group in ipairs(behind) do groups[#groups + 1] = group end
  return groups
end

---@param given { v4: integer?, v6: integer? }? bits of an address that count
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.source_hash", given, {
    v4 = { "count", min = 1, max = 32, default = 32 },
    v6 = { "count", min = 1, max = 128, default = 64 },
  })

  return require "balance.rendezvous" { key = function(req)
    local ip = req.client.ip
    if ip:find(":", 1, true) then return network(groups_of_v6(ip), options.v6, 16) end
    if options.v4 == 32 then return ip end
    local groups = {}
    for group in ip:gmatch "%d+" do groups[#groups + 1] = tonumber(group) end
    return network(groups, options.v4, 8)
  end }
end

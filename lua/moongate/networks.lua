-- moongate.networks - gate.networks: which of many networks an address is in.
--
-- The networks of one length stand in one table, so it takes a look-up for each length that occurs, the longest first,
-- however many networks there are.
local ffi = require "ffi"
local bit = require "bit"
local C = require "moongate.seam"
local problem = require "moongate.problem"
local text = ffi.string

---@class moongate.Networks
local networks = {}
networks.__index = networks

local ip, bits = ffi.new "uint8_t[16]", ffi.new "uint32_t[1]"
local sizes = { [4] = 4, [6] = 16 }

-- Leaves the first `count` bits of ip; were there others?
local function mask(count, size)
  local others = false
  local whole = bit.rshift(count, 3)
  for i = whole, size - 1 do
    local kept = i == whole and bit.band(ip[i], bit.band(bit.lshift(0xff, 8 - bit.band(count, 7)), 0xff)) or 0
    others = others or kept ~= ip[i]
    ip[i] = kept
  end
  return others
end

local function read(network)
  local family = type(network) == "string" and C.mg_network_read(network, #network, ip, bits) or -1
  if family < 0 then
    return nil, ('%s is not a network; write one like "10.0.0.0/8", "::1" or "unix"'):format(problem.show(network))
  end
  if family > 0 and mask(bits[0], sizes[family]) then
    return nil, ("%s has bits beyond its length; is it an address, without the /%d, or a shorter network?")
      :format(problem.show(network), bits[0])
  end
  return family
end

--- Adds a network. It can't be there already with another value.
---@param network string "10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "unix"
---@param value? any true if not given
---@return boolean? ok, string? reason
function networks:add(network, value)
  if value == nil then value = true end
  local family, reason = read(network)
  if not family then return nil, reason end
  if family == 0 then
    if self.unix ~= nil and self.unix ~= value then return nil, '"unix" stands there already, with another value' end
    self.unix = value
    return true
  end
  local known, count = self[family], bits[0]
  if not known.by[count] then
    known.by[count] = {}
    table.insert(known.lengths, count)
    table.sort(known.lengths, function(a, b) return a > b end)
  end
  local of_length, key = known.by[count], text(ip, sizes[family])
  if of_length[key] ~= nil and of_length[key] ~= value then
    return nil, ("%s stands there already, with another value"):format(problem.show(network))
  end
  of_length[key] = value
  return true
end

--- The value of the longest network that the address is in; nil if there is none, or it is no address.
---@param address string
---@return any value
function networks:find(address)
  if type(address) ~= "string" then error("an address must be a string, got a " .. type(address), 2) end
  local family = C.mg_network_read(address, #address, ip, bits)
  if family == 0 then return self.unix end
  if family < 0 then return nil end
  local known, size = self[family], sizes[family]
  if bits[0] ~= size * 8 then return nil end
  local lengths, by = known.lengths, known.by
  for i = 1, #lengths do
    mask(lengths[i], size)                -- ever fewer bits are left
    local value = by[lengths[i]][text(ip, size)]
    if value ~= nil then return value end
  end
end

--- Networks, to be asked for addresses.
---@param list? table a list of networks, or a table from networks to values
---@return moongate.Networks? networks, string? reason
return function(list)
  local self = setmetatable({ [4] = { lengths = {}, by = {} }, [6] = { lengths = {}, by = {} } }, networks)
  for key, value in pairs(list or {}) do
    local network, meant = key, value
    if type(key) == "number" then network, meant = value, true end
    local ok, reason = self:add(network, meant)
    if not ok then return nil, reason end
  end
  return self
end

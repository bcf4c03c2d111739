-- moongate.resolve - gate.resolve: the addresses of a name.
local ffi = require "ffi"
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local reason_of = require "moongate.reason"

local slice = ffi.new "mg_slice"
local out = ffi.new "mg_lookup_wait *[1]"

--- The addresses of a name; nil and the reason.
---@param name string
---@return string[]? addresses, string? reason
return function(name)
  if type(name) ~= "string" or name == "" then error("gate.resolve takes a name", 2) end
  local ticket = C.mg_lookup_open(fiber.task(), name, #name, out)
  local lookup = out[0]
  if ticket == C.MG_GONE then fiber.stop() end
  if lookup == nil then return nil, reason_of(ticket) end
  local code = fiber.await(ticket)
  local list, i = {}, 0
  while code == 0 and C.mg_lookup_address(lookup, i, slice) == 0 do
    i = i + 1
    list[i] = ffi.string(slice.ptr, slice.len)
  end
  C.mg_lookup_free(lookup)
  if code == C.MG_GONE then fiber.stop() end
  if code < 0 then return nil, reason_of(code) end
  return list
end

-- moongate.core - what declarations hand to the core: structs with slices in them, and what the core says of them.
local ffi = require "ffi"
local C = require "moongate.seam"

local core = {}

local slice = ffi.new "mg_slice"

--- Lets a slice point to a string, which must be kept as long.
function core.put(to, value)
  to.ptr, to.len = value, #value
end

--- Why the last declaration was refused.
---@return string
function core.refusal()
  C.mg_problem(slice)
  return slice.ptr ~= nil and ffi.string(slice.ptr, slice.len) or "the core refused it"
end

return core

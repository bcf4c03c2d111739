-- moongate.base64
local ffi = require "ffi"
local C = require "moongate.seam"

local base64 = {}
local slice = ffi.new "mg_slice"

---@param s string
---@param url? boolean as encode_url
---@return string
function base64.encode(s, url)
  if C.mg_base64(s, #s, url or false, slice) < 0 then error("out of memory", 2) end
  return ffi.string(slice.ptr, slice.len)
end

--- With - and _ in place of + and /, and no padding.
---@param s string
---@return string
function base64.encode_url(s)
  if C.mg_base64(s, #s, true, slice) < 0 then error("out of memory", 2) end
  return ffi.string(slice.ptr, slice.len)
end

--- Of either alphabet, with or without padding; nil if it is neither.
---@param s string
---@return string? bytes, string? reason
function base64.decode(s)
  if C.mg_unbase64(s, #s, slice) < 0 then return nil, "not base64" end
  return ffi.string(slice.ptr, slice.len)
end

return base64

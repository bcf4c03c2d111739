-- moongate.seam - the core's functions and constants, from include/seam.h.
-- Tests put a table of the same shape into package.loaded instead.
local ffi = require "ffi"

ffi.cdef(_G.MG_SEAM)
_G.MG_SEAM = nil
return ffi.C

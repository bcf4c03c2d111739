-- moongate.reason - the core's error codes in words.
local C = require "moongate.seam"

local words = {
  [C.MG_ABSENT] = "absent", [C.MG_TOO_LATE] = "too late", [C.MG_FULL] = "too long", [C.MG_GONE] = "cancelled",
  [C.MG_MALFORMED] = "malformed", [C.MG_TIMEOUT] = "timeout", [C.MG_REFUSED] = "connection refused",
  [C.MG_CUT] = "closed", [C.MG_NO_MEMORY] = "out of memory", [C.MG_UNKNOWN_NAME] = "the name does not resolve",
  [C.MG_BUSY] = "busy: somebody else waits for it", [C.MG_NO_PEER] = "no peer is left",
  [C.MG_UNTRUSTED] = "the TLS handshake failed",
}

--- "timeout", "closed", ...
---@param code integer
return function(code)
  return words[code] or ("error %d"):format(code)
end

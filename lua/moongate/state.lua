-- moongate.state - what the script declared, as the runtime reads it.
--
-- finish.lua fills these tables in place when the top level has run. A list of
-- hooks has entries { fn =, policy =, label = }, in the order of running.
local ffi = require "ffi"

local state = {
  generation = nil,         -- mg_generation *
  routes = {},              -- by the core's number; [-1] stands for the exchange without a route
  use_request = {},         -- hooks of gate.use that run before routing
  connect = {},
  client_hello = {},
  tcp = {},                 -- by the number of a TCP route: what chooses its upstream, { fn =, label = }
  init = {},
  exit = {},
  peer = {},
  upstreams = {},           -- by name
  settings = { max_text_size = 2 ^ 20, max_decoded_size = 2 ^ 30, max_decoded_ratio = 300, blocking_threshold = 0.05 },
  in_force = false,         -- START has come: timers begin at once
}

if rawget(_G, "MG_GENERATION") then
  state.generation = ffi.cast("mg_generation *", _G.MG_GENERATION)
  _G.MG_GENERATION = nil
end

return state

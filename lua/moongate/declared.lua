-- moongate.declared - what the script has declared so far, as records with the place of each.
--
-- declare.lua files them, finish.lua hands them to the core, check.lua prints them.
local problem = require "moongate.problem"

local declared = {
  set = {},           -- what gate.set was given
  listens = {},       -- { address, backlog, trusted, tls, tls_options, limits, place }
  -- { name, object, pointer, peers, balancer, balance, attempt, retry, response, log, options, place }; also by name
  -- and by object
  upstreams = {},
  routes = {},        -- { pattern, methods, name, policies, upstream, handler, limits, place, number }
  by_number = {},     -- the core's number of a route -> its record
  uses = {},          -- policies, as policy.lua makes them
  place = nil,        -- of the last declaration
  finished = false,   -- the top level has run: nothing can be declared any more
}

--- A declaration begins.
---@param what string its name, for messages
---@return string? place, fun(message: string) fail raises its mistakes
function declared.begin(what)
  local place = problem.place()
  local function fail(message) problem.raise(place, what .. ": " .. message) end
  if declared.finished then
    fail("only the top level of the script can declare; this ran after it had ended")
  end
  declared.place = place
  return place, fail
end

return declared

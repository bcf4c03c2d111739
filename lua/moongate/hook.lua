-- moongate.hook - the functions of the script that may be at work, by number.
--
-- at.hook is the one that is: a store for each call, which the core can read
-- even when the VM is torn. Everything else here is for messages.
local C = require "moongate.seam"
local hook_meter = require "moongate.hook_meter"
local problem = require "moongate.problem"
local state = require "moongate.state"

local hook = {}

local all = {}                  -- entries by number

--- What Lua notes for the core: mg_lua_counts.
hook.at = C.mg_lua_count(state.generation)

--- "access of policy auth", or "the route's handler".
---@param phase string
function hook.who(phase, entry)
  if entry.alone then return entry.label end
  return phase .. " of policy " .. entry.label
end

--- An entry for lists of hooks.
---@param phase string
---@param fn function?
---@param label string the policy's; or, with `alone`, what the function itself is called
---@param policy? table what moongate.policy makes
---@return { fn: function, label: string, number: integer }
function hook.new(phase, fn, label, alone, policy)
  local entry = { fn = fn, label = label, alone = alone, phase = phase }
  local who = hook.who(phase, entry)
  if fn then
    local place = problem.place_of_function(fn)
    if place ~= label then who = ("%s (%s)"):format(who, place) end
  end
  entry.number = C.mg_declare_hook(state.generation, who, #who, policy and policy.number or 0)
  if fn and policy then entry.fn = hook_meter.wrap(phase, fn, label) end
  all[entry.number] = entry
  return entry
end

--- The entry of this number; nil for 0.
function hook.of(number)
  return all[number]
end

return hook

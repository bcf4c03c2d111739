-- moongate.hook_meter - what hooks of policies take, when `hook_metrics` is set; and how often they throw.
local C = require "moongate.seam"
local metrics = require "moongate.metrics"
local state = require "moongate.state"

local hook_meter = {}

local errors, duration, waited

--- A hook has thrown.
---@param phase string
---@param policy string
function hook_meter.failed(phase, policy)
  errors = errors or metrics.own("counter", "moongate_hook_errors_total", "Runs of hooks that have thrown.",
    { "policy", "phase" })
  errors:inc(policy, phase)
end

-- Within one turn of the loop its time stands still: a run after which it is another has waited.
local function pass(entry, began, turn, ...)
  duration:observe(C.mg_now_exactly() - began, entry.policy, entry.phase)
  if C.mg_now() ~= turn then waited:inc(entry.policy, entry.phase) end
  return ...
end

--- The function that stands for a hook's: it measures, if that is asked for.
---@param phase string
---@param fn function
---@param policy string
---@return function
function hook_meter.wrap(phase, fn, policy)
  if not state.settings.hook_metrics then return fn end
  duration = duration or metrics.own("histogram", "moongate_hook_duration_seconds",
    "Runs of hooks, from beginning to end, with what they wait for.", { "policy", "phase" })
  waited = waited or metrics.own("counter", "moongate_hook_waits_total", "Runs of hooks that have waited.",
    { "policy", "phase" })
  local entry = { policy = policy, phase = phase }
  return function(...) return pass(entry, C.mg_now_exactly(), C.mg_now(), fn(...)) end
end

return hook_meter

-- moongate.hook_meter - what hooks of policies take, when `hook_metrics` is set or somebody observes them; and how
-- often they throw.
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

-- Functions that hear of each run: of the whole script.
local observers = {}

--- Calls fn(req, policy, phase, began, ended) after each run of a policy's hook for an exchange that has ended well;
--- times are Unix. For the top level.
---@param fn fun(req: table, policy: string, phase: string, began: number, ended: number)
function hook_meter.observe(fn)
  if type(fn) ~= "function" then error("gate.observe takes a function, got a " .. type(fn), 2) end
  if state.in_force then error("gate.observe belongs to the top level of the script", 2) end
  observers[#observers + 1] = fn
end

-- Within one turn of the loop its time stands still: a run after which it is another has waited.
local function pass(entry, req, began, turn, wall, ...)
  local took = C.mg_now_exactly() - began
  if duration then
    duration:observe(took, entry.policy, entry.phase)
    if C.mg_now() ~= turn then waited:inc(entry.policy, entry.phase) end
  end
  for i = 1, entry.observed and #observers or 0 do observers[i](req, entry.policy, entry.phase, wall, wall + took) end
  return ...
end

local function declare()
  duration = duration or metrics.own("histogram", "moongate_hook_duration_seconds",
    "Runs of hooks, from beginning to end, with what they wait for.", { "policy", "phase" })
  waited = waited or metrics.own("counter", "moongate_hook_waits_total", "Runs of hooks that have waited.",
    { "policy", "phase" })
end

-- Phases whose hooks are not called with a request.
local without_request = { init = true, connect = true, client_hello = true, peer = true, exit = true }

--- The function that stands for a hook's: it measures, if that is asked for.
---@param phase string
---@param fn function
---@param policy string
---@return function
function hook_meter.wrap(phase, fn, policy)
  local entry = { policy = policy, phase = phase, observed = observers[1] and not without_request[phase] }
  if not state.settings.hook_metrics and not entry.observed then return fn end
  if state.settings.hook_metrics then declare() end
  return function(first, ...)
    return pass(entry, first, C.mg_now_exactly(), C.mg_now(), C.mg_time(), fn(first, ...))
  end
end

return hook_meter

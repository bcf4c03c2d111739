-- moongate.step - the one function the core calls.
local C = require "moongate.seam"
local state = require "moongate.state"
require "moongate.coroutine"
local connection = require "moongate.connection"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local generation = require "moongate.generation"
local hooks = require "moongate.hooks"
local timer = require "moongate.timer"

local ENTER, WAKE, FINISH, GONE = C.MG_EVENT_ENTER, C.MG_EVENT_WAKE, C.MG_EVENT_FINISH, C.MG_EVENT_GONE
local REQUEST, ATTEMPT = C.MG_PHASE_REQUEST, C.MG_PHASE_ATTEMPT
local live, open, find_route = exchange.live, exchange.open, exchange.find_route
local start, drain, wake = fiber.start, fiber.drain, fiber.wake
local use_request = state.use_request

local phases = {
  [C.MG_PHASE_REQUEST] = "request", [C.MG_PHASE_ACCESS] = "access", [C.MG_PHASE_HANDLE] = "handle",
  [C.MG_PHASE_REQUEST_BODY] = "request_body", [C.MG_PHASE_BALANCE] = "balance", [C.MG_PHASE_ATTEMPT] = "attempt",
  [C.MG_PHASE_RETRY] = "retry", [C.MG_PHASE_ERROR] = "error", [C.MG_PHASE_RESPONSE] = "response",
  [C.MG_PHASE_RESPONSE_BODY] = "response_body", [C.MG_PHASE_PRODUCE] = "body", [C.MG_PHASE_LOG] = "log",
}

local function log_failure(x, f, trace)
  local entry = f.entry
  local line = ("[%s] %s of policy %s: %s"):format(x.req and x.req.id or "?", phases[f.phase],
    entry and entry.label or "?", trace)
  C.mg_log_line(3, line, #line)
end

-- A phase's fiber has ended.
local function ended(f, ok, problem, trace, waited)
  local x, phase = f.owner, f.phase
  local view = x.view
  if not view then return end
  if phase == ATTEMPT and x.headers then x.headers[1] = view.request end
  if not ok then
    if trace then log_failure(x, f, trace) end
    if trace or view.gone == 0 then C.mg_phase_failed(view, phase) end
  end
  if waited then C.mg_phase_done(view, phase) end
end

local function enter(slot, phase, pointer)
  local x = live[slot]
  if not x or not x.view then x = open(slot, pointer) end
  local list
  if phase == REQUEST then
    list = use_request
  else
    list = (x.route or find_route(x)).hooks[phase]
  end
  return start(x, phase, hooks[phase], x, list, ended)
end

local others = {
  [C.MG_EVENT_CONNECT] = function(slot, _, pointer) return connection.enter(slot, pointer) end,
  [C.MG_EVENT_CLOSED] = function(slot) connection.close(slot) end,
  [C.MG_EVENT_INIT] = function() return generation.init() end,
  [C.MG_EVENT_START] = function() timer.start() end,
  [C.MG_EVENT_EXIT] = function() generation.exit() end,
}

return function(event, a, b, c)
  local answer
  if event == ENTER then
    answer = enter(a, b, c)
  elseif event == WAKE then
    wake(a, b)
  elseif event == FINISH then
    local x = live[a]
    if x and x.view then exchange.close(x) end
  elseif event == GONE then
    local x = live[a]
    if x and x.fibers then fiber.cancel_all(x, true) end
  else
    answer = others[event](a, b, c)
  end
  drain()
  if answer == true then return 1 end
  return answer or 0
end

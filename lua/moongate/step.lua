-- moongate.step - the one function the core calls.
local C = require "moongate.seam"
local state = require "moongate.state"
require "moongate.coroutine"
local answer = require "moongate.answer"
local connection = require "moongate.connection"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local generation = require "moongate.generation"
local hooks = require "moongate.hooks"
local timer = require "moongate.timer"

local REQUEST, ATTEMPT = C.MG_PHASE_REQUEST, C.MG_PHASE_ATTEMPT

local phases = {
  [C.MG_PHASE_REQUEST] = "request", [C.MG_PHASE_ACCESS] = "access", [C.MG_PHASE_HANDLE] = "handle",
  [C.MG_PHASE_REQUEST_BODY] = "request_body", [C.MG_PHASE_BALANCE] = "balance", [C.MG_PHASE_ATTEMPT] = "attempt",
  [C.MG_PHASE_RETRY] = "retry", [C.MG_PHASE_ERROR] = "error", [C.MG_PHASE_RESPONSE] = "response",
  [C.MG_PHASE_RESPONSE_BODY] = "response_body", [C.MG_PHASE_PRODUCE] = "body", [C.MG_PHASE_LOG] = "log",
}

local function log_failure(x, f, trace)
  local entry = f.entry
  local who = entry and answer.who(phases[f.phase], entry) or phases[f.phase]
  local line = ("[%s] %s: %s"):format(x.req and x.req.id or "?", who, trace)
  C.mg_log_line(3, line, #line)
end

-- A phase's fiber has ended.
local function ended(f, ok, problem, trace, waited)
  local x, phase = f.owner, f.phase
  local view = x.view
  if not view then return end
  if not ok and phase == ATTEMPT and x.headers then x.headers[2] = false end
  if not ok then
    if trace then log_failure(x, f, trace) end
    if trace or view.gone == 0 then C.mg_phase_failed(view, phase) end
  end
  if waited then C.mg_phase_done(view, phase) end
end

local others = {
  [C.MG_EVENT_WAKE] = fiber.wake,
  [C.MG_EVENT_FINISH] = exchange.close,
  [C.MG_EVENT_GONE] = function(slot)
    local x = exchange.live[slot]
    if x and x.fibers then fiber.cancel_all(x, true) end
  end,
  [C.MG_EVENT_CONNECT] = function(slot, _, pointer) return connection.enter(slot, pointer) and 1 or 0 end,
  [C.MG_EVENT_CLOSED] = function(slot) connection.close(slot) end,
  [C.MG_EVENT_INIT] = function() return generation.init() end,
  [C.MG_EVENT_START] = function() timer.start() end,
  [C.MG_EVENT_EXIT] = function() generation.exit() end,
}

local request_works = {}        -- of an exchange that has no route yet

local function find_work(x, phase)
  if phase == REQUEST then
    request_works[REQUEST] = hooks.build(REQUEST, state.use_request)
    return request_works[REQUEST]
  end
  local route = exchange.find_route(x)
  local works = route.works or hooks.prepare(route)
  x.works = works
  return works[phase]
end

local function open(slot, pointer)
  return exchange.open(slot, pointer, request_works)
end

return fiber.stepper(C.MG_EVENT_ENTER, exchange.live, open, find_work, ended, function(event, a, b, c)
  return others[event](a, b, c)
end)

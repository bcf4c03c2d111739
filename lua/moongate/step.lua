-- moongate.step - the function the core calls for all but the phases, and what a phase is entered with at first.
local C = require "moongate.seam"
local state = require "moongate.state"
require "moongate.blocking"
require "moongate.finalizers"
require "moongate.coroutine"
local connection = require "moongate.connection"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local generation = require "moongate.generation"
local hook = require "moongate.hook"
local hook_meter = require "moongate.hook_meter"
local hooks = require "moongate.hooks"
local keep = require "moongate.keep"
local news = require "moongate.news"
local on_fail = require "moongate.on_fail"
local discover = require "moongate.discover"
local probe = require "moongate.probe"
local timer = require "moongate.timer"
local works = require "moongate.works"

local REQUEST, ATTEMPT = C.MG_PHASE_REQUEST, C.MG_PHASE_ATTEMPT

local at = hook.at

local phases = {
  [C.MG_PHASE_REQUEST] = "request", [C.MG_PHASE_ACCESS] = "access", [C.MG_PHASE_HANDLE] = "handle",
  [C.MG_PHASE_REQUEST_BODY] = "request_body", [C.MG_PHASE_BALANCE] = "balance", [C.MG_PHASE_ATTEMPT] = "attempt",
  [C.MG_PHASE_RETRY] = "retry", [C.MG_PHASE_ERROR] = "error", [C.MG_PHASE_RESPONSE] = "response",
  [C.MG_PHASE_RESPONSE_BODY] = "response_body", [C.MG_PHASE_PRODUCE] = "body",
  [C.MG_PHASE_CLIENT_MESSAGE] = "message", [C.MG_PHASE_ORIGIN_MESSAGE] = "message", [C.MG_PHASE_LOG] = "log",
}

local function log_failure(x, f, trace)
  local entry = hook.of(f.hook)
  local who = entry and hook.who(phases[f.phase], entry) or phases[f.phase]
  if entry then hook_meter.failed(entry.phase, entry.label) end
  local line = ("[%s] %s: %s"):format(x.req and x.req.id or "?", who, trace)
  C.mg_log_line(3, line, #line)
end

-- A balancer has thrown that looks at the peers alone.
local function log_unknown(f, phase, problem)
  local entry = hook.of(at.hook)
  local who = entry and hook.who(phases[phase], entry) or phases[phase]
  if entry then hook_meter.failed(entry.phase, entry.label) end
  local line = ("%s: %s"):format(who, debug.traceback(f.co, tostring(problem)))
  C.mg_log_line(3, line, #line)
end

-- A phase's fiber has ended.
local function ended(f, ok, problem, trace, waited)
  local x, phase = f.owner, f.phase
  local view = x.view
  if not view then return end
  if not ok and phase == ATTEMPT and x.headers then x.headers[2] = false end
  if not ok then
    x.filters, x.coded = false, false       -- they were for a response that nobody gets
    if trace then log_failure(x, f, trace) end
    if trace or view.gone == 0 then C.mg_phase_failed(view, phase) end
  end
  if waited then C.mg_phase_done(view, phase) end
end

local events = {
  [C.MG_EVENT_WAKE] = fiber.wake,
  [C.MG_EVENT_GONE] = function(slot)
    local x = exchange.live[slot]
    if x and x.fibers then fiber.cancel_all(x, true) end
  end,
  [C.MG_EVENT_WAITS] = function(slot, phase)
    return fiber.part(exchange.live[slot], phase, true, nil, ended) and 1 or -1
  end,
  [C.MG_EVENT_THREW] = function(slot, phase, problem)
    local x = exchange.live[slot]
    if not x then log_unknown(fiber.current(), phase, problem) end
    return fiber.part(x, phase, false, problem, ended) and 0 or -1
  end,
  [C.MG_EVENT_SETTLE] = function() end,
  [C.MG_EVENT_CONNECT] = function(slot, _, pointer) return connection.enter(slot, pointer) and 1 or 0 end,
  [C.MG_EVENT_CLOSED] = function(slot) connection.close(slot) end,
  [C.MG_EVENT_INIT] = function() return generation.init() end,
  [C.MG_EVENT_START] = function()
    probe.start()
    discover.start()
    timer.start()
    news.start()
  end,
  [C.MG_EVENT_RETIRE] = function() timer.retire() end,
  [C.MG_EVENT_GIVE] = function() keep.give() end,
  [C.MG_EVENT_TAKE] = function() keep.take() end,
  [C.MG_EVENT_EXIT] = function() generation.exit() end,
}

--- Makes the works of the exchange's route, and does this one.
function works.first(slot, pointer, phase)
  at.hook = 0
  local key = works.key(-1, REQUEST)
  if phase == REQUEST then
    works[key] = hooks.build(REQUEST, state.use_request)
  else
    local x = exchange.live[slot]
    local number = (x and x.view or exchange.view_of(pointer)).route
    key = works.key(number, phase)
    for own, work in pairs(hooks.prepare(state.routes[number])) do works[works.key(number, own)] = work end
  end
  return works[key](slot, pointer)
end

works[-1] = function(slot) return exchange.close(slot) == false and 1 or 0 end

local function step(event, a, b, c)
  local code = events[event](a, b, c) or 0
  fiber.drain()
  if at.out ~= 0 then
    at.out = 0
    on_fail.apply()
  end
  return code
end

return step

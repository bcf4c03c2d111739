-- moongate.fiber - who waits for what.
--
-- A fiber is a pooled coroutine that runs policy code. It waits by naming a
-- ticket, which the core answers once, or by parking until another fiber
-- settles what it waits for. Either way it yields `mark`, and nothing else in
-- the library resumes or yields. Fibers that were settled run when the one at
-- work has stopped, never inside it.
--
-- What the core enters most, a hook that does not wait, must cost little: enter.c
-- calls the work of a phase right in the coroutine of the fiber that lies ready
-- (works[0]), and only if it waits or fails the core says so here (fiber.part).
-- What resumes and yields is kept out of the compiler, which would
-- make traces of it that cost more than the interpreter; the work itself is compiled.
--
-- An owner is what a fiber works for: an exchange, a connection, a timer. It is
-- a table with task() and, while some of its fibers wait, a list of them.
local C = require "moongate.seam"
local hook = require "moongate.hook"
local works = require "moongate.works"
local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local traceback = debug.traceback
local at = hook.at

local fiber = {}

local GONE = C.MG_GONE
local POOL_MOST = 256
local REFUSALS_MOST = 100

local mark = {}         -- what a fiber yields that waits
fiber.mark = mark

--- What is raised in a fiber that can't wait any more: its client has left, or its work was cancelled.
local gone = setmetatable({}, { __tostring = function() return "cancelled: the client has left, or time is up" end })
fiber.gone = gone

local current           -- the fiber that runs; between two events, the one that the next phase will run in
local waiting = {}      -- ticket -> fiber
local pool, pooled = {}, 0             -- whose coroutines run serve
local bare, bared = {}, 0               -- whose coroutines run what enter.c calls in them
local ready, values, first, last = {}, {}, 1, 0    -- settled: a queue
local serials = 0

--- The fiber that runs now, or nil.
function fiber.current() return current end

local function count(by)
  at.fibers = at.fibers + by
end

-- It runs when the fiber at work has stopped; the core asks for that if it has entered that one.
local function enqueue(f, value)
  last = last + 1
  ready[last], values[last] = f, value
  at.settled = 1
end

-- A fiber that waits is in its owner's list until it ends.
local function link(f)
  local owner = f.owner
  f.next = owner.fibers
  if f.next then f.next.previous = f end
  owner.fibers = f
  f.linked = true
  count(1)
end

local function unlink(f)
  local before, after = f.previous, f.next
  if before then before.next = after else f.owner.fibers = after end
  if after then after.previous = before end
  f.previous, f.next, f.linked = nil, nil, false
  count(-1)
end

local function serve(work, x, f)
  while true do
    work(x, f)
    work, x, f = yield()
  end
end
jit.off(serve)

local function perform(f)
  f.work(f.a, f.b)
end

-- The core has asked the run that has just ended to stop: it has failed then, though it may have caught that error.
local function note_trip(f)
  f.tripped = ("it has taken %d ms of CPU, more than cpu_budget allows, and caught the error that told it so")
    :format(at.tripped)
  at.tripped = 0
end

-- The fiber has ended: back to the pool, and its starter is told.
local function finish(f, ok, problem)
  local ended, waited, trace = f.ended, f.linked, nil
  if f.tripped then
    if ok then ok, problem = false, f.tripped end
    f.tripped = false
  end
  if waited then unlink(f) end
  if not ok and problem ~= gone then trace = traceback(f.co, tostring(problem)) end
  if ended then ended(f, ok, problem, trace, waited) end
  f.owner, f.phase, f.gone = false, false, false
  f.work, f.a, f.b, f.ended = nil, nil, nil, nil
  if not ok then return end
  if f.bare then
    if bared < POOL_MOST then
      bared = bared + 1
      bare[bared] = f
    end
  elseif pooled < POOL_MOST then
    pooled = pooled + 1
    pool[pooled] = f
  end
end

-- Runs f until it waits (true) or ends. `value` is what it waited for; or perform and f, at its beginning.
local function run(f, value, itself)
  local before = current
  current, at.hook = f, f.hook
  local ok, word = resume(f.co, value, itself)
  current, f.hook = before, at.hook
  if at.tripped ~= 0 then note_trip(f) end
  if word == mark and ok then
    if not f.linked then link(f) end
    return true
  end
  finish(f, ok, word)
  return false
end

jit.off(run)

local function new(co, is_bare)
  return { co = co, bare = is_bare, linked = false, parked = 0, gone = false, owner = false, phase = false,
    hook = 0, tripped = false }
end

local function idle()
  local f = pool[pooled]
  if not f then return new(create(serve), false) end
  pool[pooled] = nil
  pooled = pooled - 1
  return f
end

local function take(owner, work, a, b, ended)
  local f = idle()
  f.owner, f.work, f.a, f.b, f.ended, f.hook = owner, work, a, b, ended, at.hook
  return f
end

--- Runs work(a, b) in a fiber until it ends or waits. `ended(f, ok, problem, trace, waited)` is called in any case,
--- when it ends; problem is fiber.gone, without a trace, if it was cancelled.
---@return boolean at_work
function fiber.start(owner, work, a, b, ended)
  local f = take(owner, work, a, b, ended)
  return run(f, perform, f)
end

--- The same, but it begins when the fiber that runs now has stopped.
function fiber.later(owner, work, a, b, ended)
  local f = take(owner, work, a, b, ended)
  f.beginning = true
  link(f)
  enqueue(f, f)
  return f
end

-- Further waits fail at once; one that goes on trying is left behind.
local function refuse(f)
  f.gone = (f.gone or 0) + 1
  if f.gone > REFUSALS_MOST then
    if f.linked then unlink(f) end
    f.linked = true                     -- in no list any more, and in none again
    while true do yield(mark) end
  end
  error(gone, 0)
end

local function misplaced()
  error("this can wait, so it works in hooks, handlers and timers only, not at the top level of the script, "
    .. "nor in a balancer by gate.peers_only", 4)
end

--- The task of the fiber that runs, for calls that take one.
function fiber.task()
  local f = current
  local owner = f and f.owner
  if not owner then misplaced() end
  if f.gone then refuse(f) end
  return owner:task() or refuse(f)
end

--- Who owns what the running fiber opens.
function fiber.owner()
  return current and current.owner or misplaced()
end

-- As wait, but hands out MG_GONE too, so that the caller can tidy up and call fiber.stop().
local function await(ticket)
  if ticket <= 0 then return ticket end
  local f = current
  if f.gone then
    C.mg_ticket_cancel(f.owner:task(), ticket)
    return GONE
  end
  waiting[ticket] = f
  f.ticket = ticket
  return yield(mark)
end
fiber.await = await

--- Ends the running fiber's work as cancelled.
function fiber.stop()
  refuse(current)
end

--- Waits until the core has answered `ticket`; at once for 0 or an error.
---@param ticket integer what a call of the core returned
---@return integer code MG_OK or above, or below 0 an error; MG_GONE is raised
function fiber.wait(ticket)
  if ticket == 0 then return 0 end
  local code = await(ticket)
  if code == GONE then refuse(current) end
  return code
end

--- A promise of the running fiber: give both to whoever will call fiber.settle, then fiber.park().
---@return table f, integer serial
function fiber.promise()
  local f = current
  if not (f and f.owner) then misplaced() end
  if f.gone then refuse(f) end
  serials = serials + 1
  f.parked = serials
  return f, serials
end

--- Waits until the promise is settled.
---@return any value MG_GONE if the work was cancelled: tidy up, then fiber.stop()
function fiber.park()
  return yield(mark)
end

-- Takes f off what it waits for.
local function release(f)
  local ticket = f.ticket
  f.parked = 0
  if ticket then
    f.ticket, waiting[ticket] = nil, nil
    local task = f.owner:task()
    if task then C.mg_ticket_cancel(task, ticket) end
  end
end

--- Answers a promise: the fiber goes on with `value`, soon. Does nothing if it waits no more.
function fiber.settle(f, serial, value)
  if f.parked ~= serial then return false end
  release(f)
  enqueue(f, value)
  return true
end

--- Raises fiber.gone where f waits, soon; its further waits fail at once.
function fiber.cancel(f)
  if not f.linked or f.gone then return end
  f.gone = 0
  if f.beginning then return end
  release(f)
  enqueue(f, GONE)
end

--- The running fiber has done one of several pieces of work.
---@return string? why that piece counts as failed, though it has thrown nothing
function fiber.next_piece()
  local f = current
  if at.tripped ~= 0 then note_trip(f) end
  local why = f.tripped
  f.tripped = false
  return why or nil
end

--- Cancels all fibers of an owner that wait; `parked`: only those that wait for no ticket.
function fiber.cancel_all(owner, parked)
  local f = owner.fibers
  while f do
    if not parked or not f.ticket then fiber.cancel(f) end
    f = f.next
  end
end

--- Runs what was settled, until nothing is left.
function fiber.drain()
  if first > last then return end
  while first <= last do
    local f, value = ready[first], values[first]
    ready[first], values[first] = nil, nil
    first = first + 1
    if not f.beginning then
      run(f, value)
    else
      f.beginning = nil
      if f.gone then finish(f, true, nil) else run(f, perform, f) end
    end
  end
  first, last = 1, 0
  at.settled = 0
end

--- The core has answered a ticket.
function fiber.wake(ticket, code)
  local f = waiting[ticket]
  if not f then return end
  waiting[ticket], f.ticket = nil, nil
  f.parked = 0
  run(f, code)
end

-- A bare coroutine's function; enter.c puts the work itself in its place.
local function launch(work, ...)
  return work(...)
end

-- A fiber for the next phase; what the core enters it with runs as its owner's, whoever that will be.
local function lay_ready()
  local f = bare[bared]
  if f then
    bare[bared] = nil
    bared = bared - 1
  else
    f = new(create(launch), true)
  end
  current, works[0] = f, f.co
end
lay_ready()

--- The fiber that the core has entered waits (`waits`), or has failed with `problem`: it parts from its place, and
--- another one lies ready for the next phase.
---@param ended function as in fiber.start
---@return boolean known false if it failed before it worked for `owner`
function fiber.part(owner, phase, waits, problem, ended)
  local f = current
  lay_ready()
  f.hook = at.hook
  if at.tripped ~= 0 then note_trip(f) end
  if not owner or f.owner ~= owner then return false end
  f.phase, f.ended = phase, ended
  if not waits then
    finish(f, false, problem)
  elseif not f.linked then
    link(f)
  end
  return true
end

return fiber

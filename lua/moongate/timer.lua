-- moongate.timer - gate.every and gate.after: work of the generation, at its time.
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local hook = require "moongate.hook"
local log = require "moongate.log"
local owner = require "moongate.owner"
local problem = require "moongate.problem"
local state = require "moongate.state"

---@class moongate.Timer
local timer = {}
timer.__index = timer

local declared = {}     -- at the top level: they begin with START
local begun = {}        -- those whose next run is still to come, as keys
local retired = false
local at = hook.at

local function explain(thrown)
  if thrown == fiber.gone then return thrown end
  return debug.traceback(tostring(thrown), 2)
end

local entries = {}      -- by name and place: a hook may make timers without end

local function entry_of(self)
  local key = self.name .. problem.place_of_function(self.fn)
  entries[key] = entries[key] or hook.new("timer", self.fn, self.name, true)
  return entries[key]
end

local function tick(self)
  repeat
    self.sleeping = true
    fiber.wait(C.mg_sleep(fiber.task(), self.seconds))
    self.sleeping = false
    if self.stopped or self.paused then return end
    at.hook = entry_of(self).number
    local ok, trace = xpcall(self.fn, explain)
    if trace == fiber.gone then return end
    local tripped = fiber.next_piece()
    if not ok or tripped then log.error(("%s: %s"):format(self.name, ok and tripped or trace)) end
  until self.once or self.stopped or self.paused
end

local ended

local function begin(self)
  if retired then return end
  self.owner = owner.new()
  if not self.owner then return end
  begun[self] = true
  self.fiber = fiber.later(self.owner, tick, self, nil, ended)
end

-- A budget may be used up when fn has returned already: then it is tick that was stopped.
function ended(f, ok, thrown, trace)
  local self = f.a
  begun[self] = nil
  self.owner:close()
  if ok or thrown == fiber.gone then return end
  log.error(("%s: %s"):format(self.name, trace))
  if not (self.once or self.stopped or self.paused) then begin(self) end
end

--- No further run; one that is under way goes on.
function timer:stop()
  self.stopped = true
  if self.sleeping then fiber.cancel(self.fiber) end
end

local function new(name, seconds, fn, once)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 or (seconds == 0 and not once) then
    problem.raise(problem.place(), ("%s: the seconds must be a number%s, got %s")
      :format(name, once and "" or " above 0", problem.show(seconds)))
  end
  if type(fn) ~= "function" then
    problem.raise(problem.place(), ("%s: a function is needed, got %s"):format(name, problem.show(fn)))
  end
  local self = setmetatable({ name = name, seconds = seconds, fn = fn, once = once, stopped = false }, timer)
  if state.in_force then begin(self) else declared[#declared + 1] = self end
  return self
end

--- As timer.every, under another name; its `seconds` may be changed while it runs.
function timer.named(name, seconds, fn) return new(name, seconds, fn, false) end

--- Calls fn every `seconds`, in each worker; the next wait begins when fn has ended.
---@param seconds number
---@param fn fun()
---@return moongate.Timer
function timer.every(seconds, fn) return new("gate.every", seconds, fn, false) end

--- Calls fn once, `seconds` from now; at the top level: from when the generation is in force.
---@param seconds number
---@param fn fun()
---@return moongate.Timer
function timer.after(seconds, fn) return new("gate.after", seconds, fn, true) end

--- The generation is in force.
function timer.start()
  state.in_force, retired = true, false
  for _, self in ipairs(declared) do
    self.paused = false
    if not self.stopped and not begun[self] then begin(self) end
  end
  declared = {}
end

--- Another generation is in force: its own timers do the work now. A run that is under way goes on. If this one comes
--- back, they begin anew.
function timer.retire()
  retired = true
  for self in pairs(begun) do
    if not self.stopped then declared[#declared + 1] = self end
  end
  for _, self in ipairs(declared) do
    self.paused = true
    if self.sleeping then fiber.cancel(self.fiber) end
  end
end

return timer

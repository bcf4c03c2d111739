-- moongate.spawn - several fibers of one owner: gate.spawn, all, any, timeout.
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local log = require "moongate.log"

local spawn = {}

local GONE = C.MG_GONE

local function pack(...)
  return { n = select("#", ...), ... }
end

local function check(fn, what, i)
  if type(fn) ~= "function" then
    error(("%s: argument %d must be a function, got a %s"):format(what, i, type(fn)), 3)
  end
end

-- ---- Children that one fiber waits for. ----

-- A group: its functions by index, results by index, left, and the promise of the fiber that waits.
local function child(group, i)
  group.results[i] = pack(group[i]())
end

local function start(group, ended)
  local owner = fiber.owner()
  group.results, group.children = {}, {}
  group.left = #group
  for i = 1, #group do group.children[i] = fiber.later(owner, child, group, i, ended) end
end

local function cancel(group)
  group.over = true
  for i = 1, #group do
    local f = group.children[i]
    if f then fiber.cancel(f) end
  end
end

-- What every child's end begins with; true if it counts.
local function leave(f)
  local group = f.a
  group.children[f.b] = false
  group.left = group.left - 1
  return not group.over
end

local function all_ended(f, ok, problem)
  local group = f.a
  if not leave(f) then return end
  if not ok then group.failed, group.problem = true, problem end
  if not ok or group.left == 0 then fiber.settle(group.waiter, group.serial, group) end
end

local function wait_for(group)
  local value = fiber.park()
  cancel(group)
  if value == GONE then fiber.stop() end
end

--- Runs all functions at once and waits for all of them. An error in one cancels the others and is raised here.
---@param ... fun(): any
---@return any[] results the first value of each
function spawn.all(...)
  local group = { ... }
  for i = 1, select("#", ...) do check(group[i], "gate.all", i) end
  if #group == 0 then return {} end
  group.waiter, group.serial = fiber.promise()
  start(group, all_ended)
  wait_for(group)
  if group.failed then error(group.problem, 0) end

  local out = {}
  for i = 1, #group do out[i] = group.results[i][1] end
  return out
end

local function any_ended(f, ok, problem)
  local group, i = f.a, f.b
  if not leave(f) then return end
  local results = group.results[i]
  if ok and results and results[1] then
    group.winner = results
  elseif not ok then
    group.reason = tostring(problem)
  elseif results then
    group.reason = results[2]
  end
  if group.winner or group.left == 0 then fiber.settle(group.waiter, group.serial, group) end
end

--- Runs all functions at once, hands out what the first one that succeeds returns (a first value that is not nil or
--- false), and cancels the others. If none does: nil and the reason of the last.
---@param ... fun(): any
---@return any value, any more
function spawn.any(...)
  local group = { ... }
  for i = 1, select("#", ...) do check(group[i], "gate.any", i) end
  if #group == 0 then return nil, "no function was given" end
  group.waiter, group.serial = fiber.promise()
  start(group, any_ended)
  wait_for(group)
  if group.winner then return unpack(group.winner, 1, group.winner.n) end
  return nil, group.reason
end

--- Runs fn and hands out what it returns; nil and "timeout" when it takes longer, and fn is cancelled.
---@param seconds number
---@param fn fun(): any
---@return any value, any more
function spawn.timeout(seconds, fn)
  if type(seconds) ~= "number" then error("gate.timeout: the seconds must be a number, got a " .. type(seconds), 2) end
  check(fn, "gate.timeout", 2)
  local group = { fn }
  local task = fiber.task()
  group.waiter, group.serial = fiber.promise()
  start(group, all_ended)
  local value = fiber.await(C.mg_sleep(task, seconds))
  cancel(group)
  if value == GONE then fiber.stop() end
  if value ~= group then return nil, "timeout" end
  if group.failed then error(group.problem, 0) end
  return unpack(group.results[1], 1, group.results[1].n)
end

-- ---- Children that go on alone. ----

---@class moongate.Spawned
local spawned = {}
spawned.__index = spawned

local function work(self, fn)
  self.results = pack(fn())
end

local function spawned_ended(f, ok, problem, trace)
  local self = f.a
  self.done, self.failed, self.problem = true, not ok or not self.results, problem or fiber.gone
  if trace and not self.waiter then log.error("gate.spawn: " .. trace) end
  if self.waiter then fiber.settle(self.waiter, self.serial, self) end
end

--- What the function returned; raises what it raised.
---@return any
function spawned:wait()
  if not self.done then
    if self.waiter then error("somebody waits for it already", 2) end
    self.waiter, self.serial = fiber.promise()
    if fiber.park() == GONE then
      self.waiter = nil
      fiber.stop()
    end
    self.waiter = nil
  end
  if self.failed then error(self.problem, 0) end
  return unpack(self.results, 1, self.results.n)
end

--- Runs fn beside this one. It belongs to the exchange, and is cancelled when that ends.
---@param fn fun(): any
---@return moongate.Spawned
function spawn.spawn(fn)
  check(fn, "gate.spawn", 1)
  fiber.task()
  local self = setmetatable({ done = false }, spawned)
  fiber.later(fiber.owner(), work, self, fn, spawned_ended)
  return self
end

return spawn

-- moongate.coalesce - gate.coalesce: what many ask for at the same time is done once.
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local owner = require "moongate.owner"

local GONE = C.MG_GONE

local function pack(...)
  return { n = select("#", ...), ... }
end

local function perform(work)
  work.results = pack(work.fn(unpack(work.arguments, 1, work.arguments.n)))
end

local function ended(f, ok, problem, trace)
  local work = f.a
  work.at_work[work.key] = nil
  if not ok or not work.results then work.problem = trace or tostring(problem or fiber.gone) end
  for i = 1, #work, 2 do fiber.settle(work[i], work[i + 1], true) end
  work.own:close()
end

local function begin(fn, at_work, key, ...)
  local own = owner.new()
  if not own then error("out of memory", 3) end
  local work = { fn = fn, key = key, own = own, at_work = at_work, arguments = pack(key, ...) }
  at_work[key] = work
  fiber.later(own, perform, work, nil, ended)
  return work
end

--- A function that calls fn, and while that is at work lets all who ask for the same key wait for it, and gives each
--- what it returns, or raises what it raised. The work belongs to the worker, so it goes on when they have left.
---@param fn fun(key: any, ...): any
---@return fun(key: any, ...): any waits
return function(fn)
  if type(fn) ~= "function" then error("gate.coalesce takes a function, got a " .. type(fn), 2) end
  local at_work = {}
  return function(key, ...)
    if key == nil then error("a key is needed", 2) end
    local f, serial = fiber.promise()
    local work = at_work[key] or begin(fn, at_work, key, ...)
    work[#work + 1], work[#work + 2] = f, serial
    if fiber.park() == GONE then fiber.stop() end
    if work.problem then error(work.problem, 0) end
    return unpack(work.results, 1, work.results.n)
  end
end

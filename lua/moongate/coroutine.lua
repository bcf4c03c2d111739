-- moongate.coroutine - coroutines of the user's own, in which hooks may wait.
--
-- A wait yields fiber.mark. Inside a user's coroutine that would come out of
-- the user's resume, so resume and wrap pass it on outwards, and the answer
-- inwards. Required once, for its effect on the global `coroutine`.
local fiber = require "moongate.fiber"
local mark = fiber.mark
local create, resume, yield, running = coroutine.create, coroutine.resume, coroutine.yield, coroutine.running

local function pass(co, ok, first, ...)
  if ok and first == mark then return pass(co, resume(co, yield(mark))) end
  return ok, first, ...
end

local function raise(ok, first, ...)
  if not ok then error(first, 0) end
  return first, ...
end

function coroutine.resume(co, ...)
  return pass(co, resume(co, ...))
end

function coroutine.wrap(fn)
  local co = create(fn)
  return function(...) return raise(pass(co, resume(co, ...))) end
end

function coroutine.yield(...)
  local f = fiber.current()
  if f and f.co == running() then error("nobody would resume this: it is outside of a coroutine of yours", 2) end
  return yield(...)
end

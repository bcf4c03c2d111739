-- moongate.owner - what works for the generation, not for an exchange: timers, init hooks, shared connections.
local C = require "moongate.seam"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local state = require "moongate.state"

local owner = {}
owner.__index = owner

local open = {}         -- all of them, as keys

--- A new one, with a task of its own. nil without memory.
function owner.new()
  local pointer = C.mg_task_open(state.generation)
  if pointer == nil then return nil end
  local self = setmetatable({ pointer = pointer, opened = false, fibers = nil }, owner)
  open[self] = true
  return self
end

function owner:task()
  return self.pointer
end

--- Cancels its fibers and closes what they have opened.
function owner:close()
  local pointer = self.pointer
  if not pointer then return end
  fiber.cancel_all(self)
  exchange.drop_opened(self)
  self.pointer = false
  open[self] = nil
  C.mg_task_close(pointer)
end

--- The generation is about to end.
function owner.close_all()
  for self in next, open do self:close() end
end

return owner

-- moongate.exchange - the runtime's own record of an exchange: what its fibers share.
--
-- Records are used again. What policies hold (req, res, their
-- headers) is made anew for each exchange and cut off from the core when it is
-- over, so a policy that kept it reads an error, not freed memory.
local ffi = require "ffi"
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local state = require "moongate.state"

local exchange = {}

local view_pointer = ffi.typeof "mg_view *"
local live = {}         -- slot -> record, false when it is over
local free, used = {}, 0
local counts

exchange.live = live

local function task(x)
  local view = x.view
  return view and view.task
end

local function new_record()
  return {
    task = task,
    view = false,       -- mg_view *
    pointer = 0,        -- the address that `kept` was made of
    kept = false,       -- the view of the last exchange: the next one's often has the same address
    req = false,        -- what policies see; made when first needed
    headers = false,    -- of req
    res = false,        -- of the response that stands now
    route = false,      -- state.routes' entry, once routed
    reached = 0,        -- handle hooks: the deepest layer that has begun
    looks = false,      -- and functions of theirs that want to see what comes, the inmost first
    responded = false,  -- the response hooks have run
    producer = false,   -- function that makes the answer's body
    filters = false,    -- own edits of the response's body, after the policies' hooks
    coded = false,      -- codings to take off that body before them and to put on behind them (coding.lua)
    opened = false,     -- sockets and fetches, as keys
    ctx = false, args = false, params = false, cookies = false, query = false, tls = false, fibers = nil,
  }
end

-- The core gives the view's address as a number: what LuaJIT has for a pointer can't be cast in compiled code.

--- The view of an exchange that has no record.
function exchange.view_of(pointer)
  return ffi.cast(view_pointer, pointer)
end

--- The record of an exchange that begins, with this phase.
function exchange.open(slot, pointer)
  local x = free[used]
  if x then
    free[used] = nil
    used = used - 1
  else
    x = new_record()
  end
  live[slot] = x
  if x.pointer ~= pointer then x.pointer, x.kept = pointer, ffi.cast(view_pointer, pointer) end
  x.view = x.kept
  counts = counts or C.mg_lua_count(state.generation)
  counts.requests = counts.requests + 1
  return x
end

--- What works begin with: the record, which the running fiber works for, and that fiber.
---@param route? table once it is known
---@return table x, table f
function exchange.begin(slot, pointer, route)
  local x, f = live[slot] or exchange.open(slot, pointer), fiber.current()
  f.owner = x
  if route then x.route = route end
  return x, f
end

--- The route's entry in state.routes. Only after routing.
function exchange.find_route(x)
  local route = state.routes[x.view.route]
  x.route = route
  return route
end

local function cut(object)
  if object then object[1] = false end
end

--- Cuts `res` off: another response takes its place, or the exchange is over.
function exchange.drop_response(x)
  local res = x.res
  if not res then return end
  cut(res[3])
  res[1] = false
  x.res = false
end

--- Nothing that was opened may be touched any more: the core has closed it.
function exchange.drop_opened(owner)
  local opened = owner.opened
  if not opened then return end
  for object in next, opened do object[1] = false end
  owner.opened = false
end

--- The exchange of this slot is over; true if nothing is left of it.
function exchange.close(slot)
  local x = live[slot]
  if not x then return end
  live[slot] = false
  if x.res then exchange.drop_response(x) end
  if x.headers then
    x.headers[1] = false
    x.headers = false
  end
  if x.req then
    x.req[1] = false
    x.req = false
  end
  if x.opened then exchange.drop_opened(x) end
  x.view = false
  x.route, x.reached, x.looks, x.responded = false, 0, false, false
  x.producer, x.filters, x.coded = false, false, false
  x.ctx, x.args, x.params, x.cookies, x.query, x.tls = false, false, false, false, false, false
  counts.requests = counts.requests - 1
  if x.fibers then
    fiber.cancel_all(x)
    return false  -- its fibers unwind with this record, so it is not used again
  end
  used = used + 1
  free[used] = x
  return true
end

return exchange

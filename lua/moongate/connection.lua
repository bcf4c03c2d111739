-- moongate.connection - a client's connection, as `connect` hooks see it.
local ffi = require "ffi"
local C = require "moongate.seam"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local log = require "moongate.log"
local state = require "moongate.state"

local connection = {}

local view_pointer = ffi.typeof "mg_connection_view *"
local live = {}         -- slot -> record

local function task(self)
  return self.view and self.view.task
end

local function string_of(slice)
  return ffi.string(slice.ptr, slice.len)
end

---@class moongate.Connection
---@field ip string
---@field port integer
---@field local_ip string
---@field local_port integer
---@field accepted number Unix time
---@field ctx table its own
local function describe(view)
  return {
    ip = string_of(view.ip), port = view.port, local_ip = string_of(view.local_ip), local_port = view.local_port,
    accepted = view.accepted, ctx = {},
  }
end

local function run(record)
  local f = fiber.current()
  for _, entry in ipairs(state.connect) do
    f.entry = entry
    if entry.fn(record.conn) == false then
      record.view.refused = 1
      return
    end
  end
end

-- A hook that throws refuses: it may be what keeps somebody out.
local function ended(f, ok, _, trace, waited)
  local view = f.owner.view
  if trace then
    log.error(("connect of policy %s: %s"):format(f.entry and f.entry.label or "?", trace))
  end
  if not view then return end
  if not ok then view.refused = 1 end
  if waited then C.mg_connect_done(view) end
end

--- A connection was accepted.
---@return boolean at_work
function connection.enter(slot, pointer)
  local view = ffi.cast(view_pointer, pointer)
  local record = { task = task, view = view, conn = describe(view), opened = false }
  live[slot] = record
  return fiber.start(record, run, record, nil, ended)
end

--- Its view dies.
function connection.close(slot)
  local record = live[slot]
  if not record then return end
  live[slot] = nil
  record.view = nil
  exchange.drop_opened(record)
  fiber.cancel_all(record)
end

return connection

-- moongate.connection - a client's connection, as `connect` and `client_hello` hooks see it.
local ffi = require "ffi"
local C = require "moongate.seam"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local hook = require "moongate.hook"
local log = require "moongate.log"
local peer = require "moongate.peer"
local problem = require "moongate.problem"
local state = require "moongate.state"
local tls = require "moongate.tls"

local at = hook.at

local connection = {}

local view_pointer = ffi.typeof "mg_connection_view *"
local live = {}         -- slot -> record

local function task(self)
  return self.view and self.view.task
end

local function string_of(slice)
  return ffi.string(slice.ptr, slice.len)
end

local records = setmetatable({}, { __mode = "k" })     -- conn -> record
local methods = {}

--- In client_hello: shows this certificate, whatever host the client asks for. Raises if it can't be used.
---@param options { cert: string, key?: string, ocsp?: string } paths, or PEM text
function methods:certificate(options)
  local record, place = records[self], problem.place()
  local function fail(message) problem.raise(place, "conn:certificate: " .. message) end
  if not record or not record.view then fail "this connection is on its way already" end
  tls.choose(record.view, options, fail)
end

local meta = { __index = methods }

---@class moongate.Connection
---@field ip string
---@field port integer
---@field local_ip string
---@field local_port integer
---@field accepted number Unix time
---@field ctx table its own
---@field sni string? the host that its ClientHello names, in lower case
---@field alpn string[]? the protocols that it offers
---@field versions string[]? of TLS: "1.2", "1.3"
local function describe(view)
  return setmetatable({
    ip = string_of(view.ip), port = view.port, local_ip = string_of(view.local_ip), local_port = view.local_port,
    accepted = view.accepted, ctx = {},
  }, meta)
end

-- Names, each behind a byte with its length.
local function list_of(slice)
  local list, rest = {}, string_of(slice)
  while rest ~= "" do
    local len = rest:byte()
    list[#list + 1], rest = rest:sub(2, 1 + len), rest:sub(2 + len)
  end
  return list
end

local function describe_hello(conn, view)
  conn.sni = view.sni.len > 0 and string_of(view.sni) or nil
  conn.alpn, conn.versions = list_of(view.alpn), {}
  if view.tls12 then table.insert(conn.versions, "1.2") end
  if view.tls13 then table.insert(conn.versions, "1.3") end
end

local phases = {
  [C.MG_CONNECTION_ACCEPTED] = { name = "connect", hooks = state.connect },
  [C.MG_CONNECTION_HELLO] = { name = "client_hello", hooks = state.client_hello },
  [C.MG_CONNECTION_CHOOSE] = { name = "tcp" },
}

local function choose(record)
  local view = record.view
  local entry = state.tcp[view.route]
  at.hook = entry.number
  local chosen = entry.fn(record.conn)
  if not record.view or chosen == nil or chosen == false then return end
  local upstream = peer.find_upstream(chosen)
  if not upstream then
    error(("it returned %s; return an upstream, its name, or nothing to refuse"):format(tostring(chosen)), 0)
  end
  view.upstream = upstream[1]
end

local function run(record)
  for _, entry in ipairs(record.phase.hooks) do
    at.hook = entry.number
    if entry.fn(record.conn) == false then
      record.view.refused = 1
      return
    end
  end
end

-- A hook that throws refuses: it may be what keeps somebody out.
local function ended(f, ok, _, trace, waited)
  local record = f.owner
  local view = record.view
  if trace then
    local entry = hook.of(f.hook)
    log.error(("%s: %s"):format(entry and hook.who(record.phase.name, entry) or record.phase.name, trace))
  end
  if not view then return end
  if trace then C.mg_connection_threw(state.generation) end
  if not ok then view.refused = 1 end
  if waited then C.mg_connect_done(view) end
end

--- The hooks of its phase are due. It is the same conn in all of them.
---@return boolean at_work
function connection.enter(slot, pointer)
  local record = live[slot]
  if not record then
    local view = ffi.cast(view_pointer, pointer)
    record = { task = task, view = view, conn = describe(view), opened = false }
    live[slot], records[record.conn] = record, record
  end
  record.phase = phases[record.view.phase]
  if record.view.alpn.ptr ~= nil and not record.conn.alpn then describe_hello(record.conn, record.view) end
  return fiber.start(record, record.phase.hooks and run or choose, record, nil, ended)
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

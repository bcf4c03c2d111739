-- moongate.socket - gate.connect: a stream socket of the script's own.
--
-- socket[1] is the mg_socket, false once it is closed, given away or its owner
-- has ended. Sockets that were given to the generation wait in `idle`.
local ffi = require "ffi"
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local reason_of = require "moongate.reason"
local tls = require "moongate.tls"
local text = ffi.string

local socket = {}

local SOME, BYTES, LINE = C.MG_RECEIVE_SOME, C.MG_RECEIVE_BYTES, C.MG_RECEIVE_LINE
local ALL, UNTIL = C.MG_RECEIVE_ALL, C.MG_RECEIVE_UNTIL
local GONE, CUT = C.MG_GONE, C.MG_CUT
local slice = ffi.new "mg_slice"
local out = ffi.new "mg_socket *[1]"
local idle = {}         -- "host:port" -> list of { mg_socket, until when }

---@class moongate.Socket
local methods = {}
local meta = { __index = methods }

local function forget(self)
  local opened = self.owner.opened
  if opened then opened[self] = nil end
  self[1] = false
end

--- Closes it.
function methods:close()
  local s = self[1]
  if not s then return end
  forget(self)
  C.mg_socket_close(s)
end

local function wait(self, ticket)
  local code = fiber.await(ticket)
  if code == GONE then
    self:close()
    fiber.stop()
  end
  return code
end

--- Seconds that each later receive may take; 0: as long as it likes.
---@param seconds number
function methods:timeout(seconds)
  self.seconds = seconds
end

--- Sends bytes; waits when too many are on their way.
---@param bytes string|string[]
---@return boolean? ok, string? reason
function methods:send(bytes)
  local s = self[1]
  if not s then return nil, "closed" end
  if type(bytes) == "table" then bytes = table.concat(bytes) end
  if type(bytes) ~= "string" then error("send takes a string or a list of them, got a " .. type(bytes), 2) end
  local code = wait(self, C.mg_socket_send(s, fiber.task(), bytes, #bytes))
  if code < 0 then return nil, reason_of(code) end
  return true
end

local function receive(self, how, count, pattern)
  local s = self[1]
  if not s then return nil, "closed" end
  local code = wait(self, C.mg_socket_receive(s, fiber.task(), how, count, pattern, pattern and #pattern or 0,
    self.seconds))
  if code ~= 0 and code ~= CUT then return nil, reason_of(code) end
  if C.mg_socket_take(s, slice) < 0 then slice.len = 0 end
  local got = slice.len > 0 and text(slice.ptr, slice.len) or ""
  if code == 0 then return got end
  if how == ALL then return got end
  return nil, "closed", got
end

--- Receives: n bytes; "line", without its end; "all" until the peer closes; without an argument what has arrived, at
--- least a byte.
---@param what? integer|"line"|"all"
---@return string? bytes, string? reason, string? partial
function methods:receive(what)
  if what == nil then return receive(self, SOME, 0) end
  if what == "line" then return receive(self, LINE, 0) end
  if what == "all" then return receive(self, ALL, 0) end
  if type(what) ~= "number" or what < 0 or what % 1 ~= 0 then
    error('receive takes a number of bytes, "line", "all" or nothing', 2)
  end
  if what == 0 then return "" end
  return receive(self, BYTES, what)
end

--- Receives up to a delimiter (plain text), which is taken off.
---@param delimiter string
---@param most? integer bytes
---@return string? bytes, string? reason, string? partial
function methods:receive_until(delimiter, most)
  if type(delimiter) ~= "string" or delimiter == "" then
    error("receive_until takes a string that is not empty", 2)
  end
  return receive(self, UNTIL, most or 0, delimiter)
end

--- Gives it back, for a later gate.connect of this worker to the same address. It can't be used any more here.
---@param seconds? number how long it may stay idle, 60 if not given
---@param most? integer idle ones to this address, 32 if not given
---@return boolean? ok, string? reason
function methods:keepalive(seconds, most)
  local s = self[1]
  if not s then return nil, "closed" end
  local list = idle[self.key] or {}
  if not C.mg_socket_is_open(s) or C.mg_socket_ready(s) > 0 or #list >= (most or 32) then
    self:close()
    return true
  end
  forget(self)
  C.mg_socket_give(s, nil)
  idle[self.key] = list
  list[#list + 1] = { s, C.mg_now() + (seconds or 60) }
  return true
end

-- An idle one that still lives.
local function reuse(key)
  local list = idle[key]
  local now = list and C.mg_now()
  while list and #list > 0 do
    local entry = table.remove(list)
    local s = entry[1]
    if now <= entry[2] and C.mg_socket_is_open(s) and C.mg_socket_ready(s) == 0 then return s end
    C.mg_socket_close(s)
  end
end

local function wrap(s, key, seconds)
  local owner = fiber.owner()
  local self = setmetatable({ s, key = key, seconds = seconds, owner = owner }, meta)
  owner.opened = owner.opened or {}
  owner.opened[self] = true
  return self
end

--- Connects to a host and port, or to "unix:/path".
---@param host string
---@param port? integer
---@param options? { timeout?: number, tls?: true|table } seconds, for connecting and each receive, 10 if not given; tls
--- as in gate.upstream
---@return moongate.Socket? socket, string? reason
function socket.connect(host, port, options)
  if type(port) == "table" then port, options = nil, port end
  if type(host) ~= "string" then error("gate.connect: the host must be a string, got a " .. type(host), 2) end
  local is_path = host:sub(1, 5) == "unix:"
  if not is_path and (type(port) ~= "number" or port < 1 or port > 65535 or port % 1 ~= 0) then
    error("gate.connect: the port must be a whole number from 1 to 65535, got " .. tostring(port), 2)
  end
  local secure = options and options.tls and tls.for_origins(options.tls, nil, function(message)
    error("gate.connect: " .. message, 3)
  end) or nil
  local seconds = options and options.timeout or 10
  if type(seconds) ~= "number" then error("gate.connect: timeout must be a number of seconds", 2) end

  local key, task = is_path and host or host .. ":" .. port, fiber.task()
  if secure then key = key .. " " .. tostring(secure) end
  local s = not (options and options.fresh) and reuse(key)
  if s then
    C.mg_socket_give(s, task)
    return wrap(s, key, seconds)
  end
  local ticket = C.mg_socket_open(task, host, #host, port or 0, secure, seconds, out)
  if ticket == GONE then fiber.stop() end
  if ticket < 0 then return nil, reason_of(ticket) end
  local self = wrap(out[0], key, seconds)
  local code = wait(self, ticket)
  if code < 0 then
    local reason = reason_of(code)
    if code == C.MG_UNTRUSTED then
      C.mg_socket_problem(self[1], slice)
      reason = text(slice.ptr, slice.len)
    end
    self:close()
    return nil, reason
  end
  return self
end

return socket

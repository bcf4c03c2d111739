-- store.redis - a Redis client: one connection a worker, on which the commands of all exchanges are pipelined.
--
--   local redis = require "store.redis"
--   local db = redis "127.0.0.1:6379" { timeout = 1, password = "secret", database = 2 }
--   local far = redis "redis.internal:6380" { tls = true }     -- or a table of options, as in gate.upstream
--
--   local name, problem = db:get("user:" .. id)           -- any command by its name; waits
--   db:set("seen:" .. id, gate.time(), "EX", 60)
--   db:command("HSET", "h", "field", "value")
--
-- A reply is a string, a number, a list, or gate.json.null where Redis says nil. A failure is nil and the reason. What
-- needs a connection of its own (SUBSCRIBE, MULTI over several calls, BLPOP) does not fit here.
local ffi = require "ffi"
local gate = require "moongate"
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local owner = require "moongate.owner"
local reason_of = require "moongate.reason"
local tls = require "moongate.tls"
local text, cast = ffi.string, ffi.cast

local SOME, TIMEOUT, GONE = C.MG_RECEIVE_SOME, C.MG_TIMEOUT, C.MG_GONE
local null = gate.json.null
local bytes_pointer = ffi.typeof "const uint8_t *"
local slice = ffi.new "mg_slice"
local out = ffi.new "mg_socket *[1]"

-- ---- Commands as bytes. ----

local lengths, counts = {}, {}      -- "$5\r\n", "*2\r\n", by number

local function length_of(n)
  local s = lengths[n]
  if not s then
    s = "$" .. n .. "\r\n"
    if n < 4096 then lengths[n] = s end
  end
  return s
end

local function argument(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" then return ("%.17g"):format(value) end
  error(("a Redis command takes strings and numbers, got a %s"):format(kind), 4)
end

local function encode(name, n, a, b, ...)
  local count = counts[n]
  if not count then
    count = "*" .. n + 1 .. "\r\n"
    counts[n] = count
  end
  if n == 0 then return count .. length_of(#name) .. name .. "\r\n" end
  a = argument(a)
  if n == 1 then return count .. length_of(#name) .. name .. "\r\n" .. length_of(#a) .. a .. "\r\n" end
  local parts = { count, length_of(#name), name, "\r\n", length_of(#a), a, "\r\n" }
  local rest = { b, ... }
  for i = 1, n - 1 do
    local value = argument(rest[i])
    local at = #parts
    parts[at + 1], parts[at + 2], parts[at + 3] = length_of(#value), value, "\r\n"
  end
  return table.concat(parts)
end

-- ---- Replies. ----

-- Each takes the bytes p[at] .. p[len - 1] and gives the value and where the next begins; at nil: more is needed, and
-- then, where it is known, how many bytes in all.

local function find_line(p, at, len)
  while at + 1 < len do
    if p[at] == 13 and p[at + 1] == 10 then return at end
    at = at + 1
  end
end

local function read_integer(p, at, stop)
  local value, sign = 0, 1
  if p[at] == 45 then sign, at = -1, at + 1 end
  for i = at, stop - 1 do value = value * 10 + (p[i] - 48) end
  return sign * value
end

local failure_meta = { __tostring = function(self) return self.reason end }

local parse

local function parse_list(p, at, len, count)
  local list = {}
  for i = 1, count do
    local value, after, need = parse(p, at, len)
    if not after then return nil, nil, need end
    at = after
    list[i] = value
  end
  return list, at
end

function parse(p, at, len)
  local stop = at < len and find_line(p, at + 1, len)
  if not stop then return nil, nil end
  local kind = p[at]
  if kind == 36 then                    -- $ bulk
    local n = read_integer(p, at + 1, stop)
    if n < 0 then return null, stop + 2 end
    local ends = stop + 2 + n
    if ends + 2 > len then return nil, nil, ends + 2 end
    return text(p + stop + 2, n), ends + 2
  elseif kind == 43 then                -- + status
    return text(p + at + 1, stop - at - 1), stop + 2
  elseif kind == 58 then                -- : integer
    return read_integer(p, at + 1, stop), stop + 2
  elseif kind == 45 then                -- - error
    return setmetatable({ reason = text(p + at + 1, stop - at - 1) }, failure_meta), stop + 2
  elseif kind == 42 then                -- * list
    local n = read_integer(p, at + 1, stop)
    if n < 0 then return null, stop + 2 end
    return parse_list(p, stop + 2, len, n)
  end
  error("not a Redis reply", 0)
end

-- ---- The connection. ----

-- Who waits for a reply stands in line.fibers and line.serials, from `first` to `last`.
local function answer(line, value)
  local i = line.first
  local f, serial = line.fibers[i], line.serials[i]
  if not f then error("a reply to no command", 0) end
  line.fibers[i], line.serials[i] = nil, nil
  line.first = i + 1
  fiber.settle(f, serial, value)
end

local function break_line(line, reason)
  if line.broken then return end
  line.broken = reason
  if line.client.line == line then line.client.line = false end
  local failure = setmetatable({ reason = reason }, failure_meta)
  while line.first <= line.last do answer(line, failure) end
  if line.socket then C.mg_socket_close(line.socket) end
  line.socket = nil
end

-- Hands out all whole replies in p; the bytes of one that is not whole yet, and how many it needs if that is known.
local function take_replies(line, p, len)
  local at = 0
  while at < len do
    local value, after, need = parse(p, at, len)
    if not after then return text(p + at, len - at), need and need - at end
    answer(line, value)
    at = after
  end
end

local function collect(line, rest)
  if rest then
    line.parts[#line.parts + 1] = rest
    line.held = line.held + #rest
  end
end

-- What has arrived, behind what was not whole before.
local function arrive(line)
  if line.held == 0 then
    local rest, need = take_replies(line, cast(bytes_pointer, slice.ptr), slice.len)
    line.need = need or 0
    collect(line, rest)
    return
  end
  collect(line, text(slice.ptr, slice.len))
  if line.held < line.need then return end
  local whole = table.concat(line.parts)
  line.parts, line.held = {}, 0
  local rest, need = take_replies(line, cast(bytes_pointer, whole), #whole)
  line.need = need or 0
  collect(line, rest)
end

local function read_replies(line)
  local s, task, seconds = line.socket, line.owner:task(), line.client.timeout
  local before
  while true do
    local code = fiber.wait(C.mg_socket_receive(s, task, SOME, 0, nil, 0, seconds))
    if code == 0 then
      code = C.mg_socket_take(s, slice)
      if code == 0 then arrive(line) end
    elseif code == TIMEOUT then
      if line.first <= line.last and before == line.first then return "timeout" end
      before, code = line.first, 0
    end
    if code ~= 0 then return reason_of(code) end
  end
end

local function serve(line)
  local client = line.client
  local ticket = C.mg_socket_open(line.owner:task(), client.host, #client.host, client.port,
    client.secure or nil, client.timeout, out)
  if ticket < 0 then
    line.broken = reason_of(ticket)
    return
  end
  line.socket = out[0]
  local code = fiber.wait(ticket)
  if code < 0 then
    break_line(line, reason_of(code))
    return
  end
  line.open = true
  if line.waiting then C.mg_socket_send(line.socket, line.owner:task(), line.waiting, #line.waiting) end
  line.waiting = nil
  break_line(line, read_replies(line))
end

local function ended(f, ok, problem)
  local line = f.a
  if not line.owner.pointer then line.socket = nil end      -- the core has closed it already
  if not line.broken then break_line(line, ok and "closed" or tostring(problem)) end
  line.owner:close()
end

local function expect_greeting(line, name, ...)
  line.waiting = (line.waiting or "") .. encode(name, select("#", ...), ...)
  line.last = line.last + 1
  line.fibers[line.last], line.serials[line.last] = { parked = 0 }, -1
end

local function open_line(client)
  local own = owner.new()
  if not own then return nil end
  local line = {
    client = client, owner = own, fibers = {}, serials = {}, first = 1, last = 0, parts = {}, held = 0, need = 0,
  }
  if client.user then
    expect_greeting(line, "AUTH", client.user, client.password or "")
  elseif client.password then
    expect_greeting(line, "AUTH", client.password)
  end
  if client.database then expect_greeting(line, "SELECT", client.database) end
  client.line = line
  fiber.later(own, serve, line, nil, ended)
  return line
end

-- ---- The client. ----

---@class store.redis.Client
local client_methods = {}

local function finish(value)
  if getmetatable(value) == failure_meta then return nil, value.reason end
  return value
end

local function send(self, bytes)
  local line = self.line or open_line(self)
  if not line then return nil, "out of memory" end
  local ticket = 0
  if line.open then
    ticket = C.mg_socket_send(line.socket, fiber.task(), bytes, #bytes)
    if ticket < 0 then return nil, reason_of(ticket) end
  else
    line.waiting = (line.waiting or "") .. bytes
  end
  return line, ticket
end

--- Sends a command and waits for its reply.
---@param name string
---@param ... string|number
---@return any reply, string? reason
function client_methods:command(name, ...)
  local bytes = encode(name, select("#", ...), ...)
  local line, ticket = send(self, bytes)
  if not line then return nil, ticket end
  local f, serial = fiber.promise()
  local last = line.last + 1
  line.last = last
  line.fibers[last], line.serials[last] = f, serial
  -- When too much is queued for Redis, its reply comes no sooner than there is room, so only the reply is waited for.
  if ticket > 0 then C.mg_ticket_cancel(fiber.task(), ticket) end
  local value = fiber.park()
  if value == GONE then fiber.stop() end
  return finish(value)
end

local client_meta = {
  __index = function(_, name)
    local method = client_methods[name]
    if method then return method end
    if type(name) ~= "string" then return nil end
    local upper = name:upper()
    method = function(self, ...) return client_methods.command(self, upper, ...) end
    client_methods[name] = method
    return method
  end,
}

local shape = {
  timeout = { "seconds", above = 0, default = 1 }, user = { "string" }, password = { "string" }, database = { "count" },
  tls = { "any" },
}

local function fail(message) error("store.redis: " .. message, 0) end

---@class store.redis.Options
---@field timeout? number seconds, 1 if not given
---@field user? string of an access list
---@field password? string
---@field database? integer
---@field tls? true|table

--- A client of the server at this address ("host:port" or "unix:/path"), made by calling the result with its options.
---@param address string
---@return fun(options?: store.redis.Options): store.redis.Client
return function(address)
  local host, port = address:match "^(.*):(%d+)$"
  if address:sub(1, 5) == "unix:" then host, port = address, 0 end
  if not host then error(('store.redis: the address must be like "127.0.0.1:6379", got "%s"'):format(address), 2) end
  return function(given)
    local options = gate.options("store.redis", given, shape)
    return setmetatable({
      host = host, port = tonumber(port), line = false, timeout = options.timeout, user = options.user or false,
      password = options.password or false, database = options.database or false,
      secure = options.tls and tls.for_origins(options.tls, nil, fail) or false,
    }, client_meta)
  end
end

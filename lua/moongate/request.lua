-- moongate.request - the request as policies see it.
--
-- req[1] is the mg_view, false once the exchange is over; req[2] the runtime's
-- record. Everything else is read from the core when it is asked for.
local ffi = require "ffi"
local C = require "moongate.seam"
local body = require "moongate.body"
local escape = require "moongate.escape"
local exchange = require "moongate.exchange"
local headers = require "moongate.headers"
local peer = require "moongate.peer"
local tls = require "moongate.tls"
local websocket = require "moongate.websocket"
local text = ffi.string

local request = {}

local slice = ffi.new "mg_slice"
local id_buffer = ffi.new "char[33]"
local versions = { [10] = "1.0", [11] = "1.1", [20] = "2" }

local function over()
  error("this request is over", 3)
end

local function string_of(s)
  return text(s.ptr, s.len)
end

-- ---- What can be read: functions of the view and the record. ----

local readers = {}

function readers.method(v) return string_of(v.method) end
function readers.scheme(v) return string_of(v.scheme) end
function readers.host(v) return string_of(v.host) end
function readers.path(v) return string_of(v.path) end
function readers.raw_path(v) return string_of(v.raw_path) end
function readers.version(v) return versions[v.version] end
function readers.started(v) return v.started end

function readers.query(v)
  local query = v.query
  if query.ptr ~= nil then return string_of(query) end
end

function readers.id(v)
  C.mg_view_id(v, id_buffer)
  return text(id_buffer, 16)
end

function readers.trace_id(v)
  if C.mg_view_trace(v, id_buffer) == 0 then return text(id_buffer, 32) end
end

function readers.headers(v, x)
  local h = x.headers
  if not h then
    h = headers.of_request(v)
    x.headers = h
  end
  return h
end

function readers.ctx(_, x)
  local ctx = x.ctx
  if not ctx then
    ctx = {}
    x.ctx = ctx
  end
  return ctx
end

function readers.args(v, x)
  local query = readers.query(v) or ""
  if x.query ~= query then
    x.query, x.args = query, escape.parse_query(query)
  end
  return x.args
end

function readers.cookies(v, x)
  if x.cookies then return x.cookies end
  local out = {}
  if C.mg_field_get(v.request, "cookie", 6, slice) == 0 then
    for name, value in string_of(slice):gmatch "%s*([^=;,%s]+)%s*=%s*([^;]*)" do
      if out[name] == nil then out[name] = value:match '^"(.*)"%s*$' or value:match "^.*%S" or "" end
    end
  end
  x.cookies = out
  return out
end

function readers.params(v, x)
  if x.params then return x.params end
  local out, route = {}, v.route >= 0 and (x.route or exchange.find_route(x))
  if route and v.params ~= nil then
    for i, name in ipairs(route.params) do out[name] = string_of(v.params[i - 1]) end
  end
  x.params = out
  return out
end

function readers.client(v)
  return { ip = string_of(v.client_ip), port = v.client_port }
end

function readers.server(v)
  return { port = v.local_port }
end

function readers.tls(v, x)
  if v.tls == 0 then return nil end
  local about = x.tls
  if not about then
    about = tls.about(v)
    x.tls = about
  end
  return about
end

function readers.route(v, x)
  if v.route < 0 then return nil end
  local route = x.route or exchange.find_route(x)
  return route.name or route.pattern
end

function readers.upstream(v)
  if v.upstream ~= nil then return peer.upstream_of(v.upstream) end
end

function readers.peer(v)
  if v.peer ~= nil then return peer.of(v.peer) end
end

-- ---- What can be assigned. ----

local parts = {
  method = C.MG_PART_METHOD, host = C.MG_PART_HOST, path = C.MG_PART_PATH, raw_path = C.MG_PART_RAW_PATH,
  query = C.MG_PART_QUERY,
}

local function set_part(v, key, value)
  if value == nil and key == "query" then value = "" end
  if type(value) ~= "string" then error(("req.%s must be a string, got a %s"):format(key, type(value)), 3) end
  if C.mg_view_set(v, parts[key], value, #value) < 0 then
    error(('req.%s can\'t be "%s"'):format(key, value), 3)
  end
end

local function set_trace(v, value)
  if type(value) ~= "string" or C.mg_view_set_trace(v, value, #value) < 0 then
    error("req.trace_id must be 32 hex digits that are not all 0, got " .. tostring(value), 3)
  end
end

local function set_upstream(v, value)
  local upstream = value
  if value ~= nil then
    upstream = peer.find_upstream(value)
    if not upstream then error("req.upstream must be an upstream, its name or nil", 3) end
  end
  if C.mg_view_set_upstream(v, upstream and upstream[1] or nil) < 0 then
    error("req.upstream can't be changed any more: a try has begun", 3)
  end
end

-- ---- Methods. ----

---@class moongate.Request
---@field method string assignable
---@field scheme string
---@field host string in lower case, without the port; assignable
---@field path string decoded and normalised; assignable
---@field raw_path string as it came; assignable, encoded
---@field query string? assignable
---@field args table<string, string|string[]> the query, decoded
---@field version string "1.0", "1.1" or "2"
---@field headers moongate.Headers
---@field cookies table<string, string>
---@field params table<string, string> from the route's pattern; the rest behind a last * is params["*"]
---@field client { ip: string, port: integer }
---@field server { port: integer } where the client connected to
---@field tls moongate.TLS? nil in clear text
---@field id string 16 hex digits
---@field ctx table the exchange's own, for policies to share
---@field route string? the route's name, or its pattern
---@field upstream moongate.Upstream? assignable, also by name
---@field peer moongate.Peer? of the current or last try
---@field started number Unix time
local methods = {}

--- The token of "Authorization: Bearer ...", or nil.
---@return string?
function methods:bearer()
  local v = self[1] or over()
  if C.mg_field_get(v.request, "authorization", 13, slice) ~= 0 then return nil end
  if C.mg_bearer(slice.ptr, slice.len, slice) == 0 then return string_of(slice) end
end

--- The whole body, decoded, at most max_text_size long; it is still forwarded as it came.
---@param options? { decode: boolean? } false: as it came
---@return string? text, string? reason, integer? status that tells it to the client
function methods:text(options)
  return body.text(self[1] and self[2] or over(), C.MG_SIDE_REQUEST, options)
end

--- The whole body as JSON.
---@return any value, string? reason, integer? status
function methods:json()
  return body.json(self[1] and self[2] or over(), C.MG_SIDE_REQUEST)
end

--- The pieces of the body: `for chunk in req:chunks() do`. What is taken so is not forwarded.
---@return fun(): string?
function methods:chunks()
  return body.chunks(self[1] and self[2] or over(), C.MG_SIDE_REQUEST)
end

--- How long the body of this request may be, if that is less than max_body_size says. From the access phase on.
---@param most number bytes
---@return boolean? ok, string? reason, integer? status that tells it to the client
function methods:limit_body(most)
  local code = C.mg_view_bound_body(self[1] or over(), most)
  if code == 0 then return true end
  if code == C.MG_ABSENT then error("req:limit_body: the request has no route yet", 2) end
  return nil, ("the body is longer than %d bytes"):format(most), 413
end

--- Forwards the request and waits for the response's head. In handlers and handle hooks only.
---@param upstream? moongate.Upstream|string in place of req.upstream
---@return moongate.Response
function methods:forward(upstream)
  local v = self[1] or over()
  if upstream ~= nil then set_upstream(v, upstream) end
  return request.forward(self[2])
end

--- Sends a message of our own on a WebSocket whose messages have a hook.
---@param to "client"|"origin"
---@param data string
---@param kind? "text"|"binary" "text" if not said
---@return boolean? sent, string? reason
function methods:send(to, data, kind)
  return websocket.send(self[1] or over(), to, data, kind)
end

--- Closes such a WebSocket, both ways.
---@param code? integer 1000 if not said
---@param reason? string
---@return boolean? closed, string? why_not
function methods:close(code, reason)
  return websocket.close(self[1] or over(), code, reason)
end

local meta = {
  __index = function(self, key)
    local read = readers[key]
    if read then return read(self[1] or over(), self[2]) end
    local method = methods[key]
    if method then return method end
    error(("a request has no '%s'; values of your own belong in req.ctx"):format(tostring(key)), 2)
  end,
  __newindex = function(self, key, value)
    local v = self[1] or over()
    if parts[key] then
      set_part(v, key, value)
    elseif key == "upstream" then
      set_upstream(v, value)
    elseif key == "trace_id" then
      set_trace(v, value)
    else
      error(("req.%s can't be assigned; values of your own belong in req.ctx"):format(tostring(key)), 2)
    end
  end,
}

--- The req of an exchange's record.
function request.of(x)
  local req = x.req
  if not req then
    req = setmetatable({ x.view, x }, meta)
    x.req = req
  end
  return req
end

--- Set by handle.lua: forwards for the record x.
request.forward = nil

return request

-- moongate.fetch - gate.fetch: an HTTP request of the script's own.
--
-- fetched[1] is the mg_fetch while its body still streams, false otherwise.
local ffi = require "ffi"
local C = require "moongate.seam"
local escape = require "moongate.escape"
local fiber = require "moongate.fiber"
local headers = require "moongate.headers"
local json = require "moongate.json"
local reason_of = require "moongate.reason"
local schema = require "moongate.schema"
local tls = require "moongate.tls"
local text = ffi.string

local fetch = {}

local GONE, ABSENT = C.MG_GONE, C.MG_ABSENT
local slice = ffi.new "mg_slice"
local out = ffi.new "mg_fetch *[1]"

---@class moongate.FetchOptions
---@field method? string GET, or POST when there is a body
---@field headers? table<string, string|number|string[]>
---@field body? string|table a table is sent as JSON
---@field query? table<string, any> put behind the URL's own
---@field timeout? number seconds up to the head, and then between two pieces; 30 if not given
---@field max_size? number|string of the body, "10M" if not given; 0: no bound
---@field tls? table for https, as in gate.upstream
---@field stream? boolean the body is not read at once: read it to its end, or close()

---@class moongate.Fetched
---@field status integer 0 if there was no answer
---@field ok boolean a status from 200 to 299
---@field headers moongate.Headers
---@field problem string? why there was no answer
---@field bytes integer of the body, so far
---@field trailers moongate.Headers? once the body was read to its end
local fetched = {}
local meta = { __index = fetched }

local function failed(problem)
  return setmetatable({ false, status = 0, ok = false, headers = headers.none(), problem = problem, body = "",
    bytes = 0 }, meta), problem
end

local function close(self)
  local f = self[1]
  if not f then return end
  self[1] = false
  local opened = self.owner.opened
  if opened then opened[self] = nil end
  C.mg_fetch_close(f)
end

-- The next piece; nil at the end, or nil and the reason.
local function read(self)
  local code = fiber.await(C.mg_fetch_read(self[1]))
  if code == GONE then
    close(self)
    fiber.stop()
  end
  if code == 0 then code = C.mg_fetch_take(self[1], slice) end
  if code == 0 then
    self.bytes = self.bytes + slice.len
    if self.max_size > 0 and self.bytes > self.max_size then
      close(self)
      return nil, "the body is longer than max_size"
    end
    return text(slice.ptr, slice.len)
  end
  if code == ABSENT then
    local trailers = C.mg_fetch_trailers(self[1])
    if trailers ~= nil then self.trailers = headers.keep(trailers) end
  end
  close(self)
  if code == ABSENT then return nil end
  return nil, code == C.MG_CUT and "the body broke off" or reason_of(code)
end

local function read_all(self)
  local pieces, problem = {}, nil
  while self[1] do
    local piece, reason = read(self)
    if not piece then
      problem = reason
      break
    end
    pieces[#pieces + 1] = piece
  end
  if problem then return nil, problem end
  self.body = table.concat(pieces)
  return self.body
end

--- The whole body; nil and the reason.
---@return string? text, string? reason
function fetched:text()
  if self.body then return self.body end
  if not self[1] then return nil, "the body was read already, or its exchange is over" end
  return read_all(self)
end

--- The whole body as JSON; nil and the reason.
---@return any value, string? reason
function fetched:json()
  local whole, problem = self:text()
  if not whole then return nil, problem end
  return json.decode(whole)
end

--- The pieces of the body: one, unless it was fetched with stream = true. Raises if it breaks off.
---@return fun(): string?
function fetched:chunks()
  local whole = self.body
  return function()
    if whole then
      local piece = whole
      whole = nil
      return piece ~= "" and piece or nil
    end
    if not self[1] then return nil end
    local piece, problem = read(self)
    if problem then error(problem, 2) end
    return piece
  end
end

--- Lets go of a body that streams and is not wanted.
function fetched:close()
  close(self)
end

--- Is this what gate.fetch returned?
function fetch.is(value)
  return getmetatable(value) == meta
end

--- Its body, if it is here already.
function fetch.whole(self)
  return self.body
end

local function parse(url)
  local scheme, authority, target = url:match "^(%a[%w+.-]*)://([^/?#]*)([^#]*)"
  if not scheme then return nil, "not a URL: " .. url end
  scheme = scheme:lower()
  if scheme ~= "http" and scheme ~= "https" then return nil, "the URL must begin with http:// or https://" end
  if authority:find("@", 1, true) then return nil, "the URL can't have a name and password in it" end
  local host, port = authority:match "^(%[[%x:.]+%])(.*)$"
  if not host then host, port = authority:match "^([^:]+)(.*)$" end
  if not host or not (port == "" or port:find "^:%d+$") then return nil, "the URL has no valid host: " .. url end
  port = port == "" and (scheme == "https" and 443 or 80) or tonumber(port:sub(2))
  if port < 1 or port > 65535 then return nil, "the URL has no valid port: " .. url end
  if target:sub(1, 1) ~= "/" then target = "/" .. target end
  if target:find "[%c%s\128-\255]" then return nil, "the URL has bytes that must be escaped: " .. url end
  return host, port, target, scheme == "https"
end

local shape = {
  method = schema.text(), headers = schema.table(), query = schema.table(), timeout = schema.seconds { above = 0 },
  max_size = schema.size(), stream = schema.flag(), tls = schema.table(),
  body = schema.any("a string, or a table (sent as JSON)", function(value)
    if type(value) == "string" or type(value) == "table" then return value end
  end),
}
local none = {}

local function fail_option(problem)
  error("gate.fetch: " .. problem, 0)
end

local function write_head(f, options)
  local m = C.mg_fetch_request(f)
  for name, value in pairs(options.headers or none) do headers.set(m, name, value) end
  if type(options.body) == "table" and C.mg_field_get(m, "content-type", 12, slice) ~= 0 then
    headers.set(m, "content-type", "application/json")
  end
end

-- What a call of the core has opened.
local function take(code, options)
  if code == GONE then fiber.stop() end
  if code < 0 then return nil, reason_of(code) end
  local owner = fiber.owner()
  local self = setmetatable({ out[0], owner = owner, bytes = 0, max_size = options.max_size or 10 * 2 ^ 20 }, meta)
  owner.opened = owner.opened or {}
  owner.opened[self] = true
  return self
end

local function open(url, options, body)
  local host, port, target, secure = parse(url)
  if not host then return nil, port end
  if options.query then
    target = target .. (target:find("?", 1, true) and "&" or "?") .. escape.make_query(options.query)
  end
  local method = options.method or body and "POST" or "GET"
  local settings = secure and tls.for_origins(options.tls or true, nil, fail_option) or nil
  return take(C.mg_fetch_open(fiber.task(), host, #host, port, settings, method, #method, target, #target, out),
    options)
end

local function problem_of(f, code)
  C.mg_fetch_problem(f, slice)
  if slice.ptr ~= nil and slice.len > 0 then return text(slice.ptr, slice.len) end
  return reason_of(code)
end

local function encode_body(body)
  if type(body) ~= "table" then return body end
  local encoded, reason = json.encode(body)
  if not encoded then error("gate.fetch: the body can't be JSON: " .. reason, 3) end
  return encoded
end

local function ask(self, options, body)
  local f = self[1]
  local written, refusal = pcall(write_head, f, options)
  if not written then
    close(self)
    error(refusal, 0)
  end
  local code = fiber.await(C.mg_fetch_send(f, body, body and #body or 0, options.timeout or 30))
  if code == GONE then
    close(self)
    fiber.stop()
  elseif code < 0 then
    local problem = problem_of(f, code)
    close(self)
    return failed(problem)
  end
  self.status = C.mg_fetch_status(f)
  self.ok = self.status >= 200 and self.status <= 299
  self.headers = headers.keep(C.mg_fetch_response(f))
  if options.stream then return self end
  local whole, problem = read_all(self)
  if not whole then return failed(problem) end
  return self
end

--- Asks a peer, as its upstream's requests would go there: its protocol and its TLS.
---@param pointer ffi.cdata* mg_peer
---@param target string
---@param options { method: string, headers?: table, body?: string, port?: integer, timeout: number, max_size: integer }
---@return moongate.Fetched answer, string? problem
function fetch.of_peer(pointer, target, options)
  local method = options.method
  local self, problem = take(C.mg_fetch_open_peer(fiber.task(), pointer, options.port or 0, method, #method, target,
    #target, out), options)
  if not self then return failed(problem) end
  return ask(self, options, options.body)
end

--- Asks an HTTP server. Redirects are not followed.
---
--- The first value is there in any case: with ok = false and status = 0 when there was no answer, and then the second
--- is the reason.
---@param url string "http[s]://host[:port]/path?query"
---@param options? moongate.FetchOptions
---@return moongate.Fetched answer, string? problem
function fetch.fetch(url, options)
  if type(url) ~= "string" then error("gate.fetch: the URL must be a string, got a " .. type(url), 2) end
  options = options and schema.read(options, shape, fail_option) or none
  local body = encode_body(options.body)
  local self, problem = open(url, options, body)
  if not self then return failed(problem) end
  return ask(self, options, body)
end

return fetch

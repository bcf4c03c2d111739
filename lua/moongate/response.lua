-- moongate.response - the response as policies see it.
--
-- res[1] is the mg_view, false when the exchange is over or another response
-- has taken this one's place; res[2] the runtime's record; res[3] the headers, once they were asked for.
local C = require "moongate.seam"
local body = require "moongate.body"
local edit = require "moongate.edit"
local headers = require "moongate.headers"
local peer = require "moongate.peer"

local response = {}

local function over()
  error("this response is over: its request has ended, or another response took its place", 3)
end

---@class moongate.Response
---@field status integer assignable
---@field ok boolean a status from 200 to 299
---@field headers moongate.Headers
---@field peer moongate.Peer? whose response it is; nil if it is the proxy's own
---@field bytes number of its body that went to the client
local readers = {}

function readers.status(v) return v.status end
function readers.ok(v) return v.status >= 200 and v.status <= 299 end
function readers.bytes(v) return v.bytes_out end

function readers.peer(v)
  if v.from_peer ~= 0 and v.peer ~= nil then return peer.of(v.peer) end
end

local methods = {}

--- The whole body, decoded, at most max_text_size long; it is still relayed as it came.
---@param options? { decode: boolean? } false: as it came
---@return string? text, string? reason, integer? status that tells it to the client
function methods:text(options)
  return body.text(self[1] and self[2] or over(), C.MG_SIDE_RESPONSE, options)
end

--- The whole body as JSON.
---@return any value, string? reason, integer? status
function methods:json()
  return body.json(self[1] and self[2] or over(), C.MG_SIDE_RESPONSE)
end

--- The pieces of the body. What is taken so does not reach the client.
---@return fun(): string?
function methods:chunks()
  return body.chunks(self[1] and self[2] or over(), C.MG_SIDE_RESPONSE)
end

--- Puts `to` in the place of every `from` (plain text) in the body, while it streams by.
---@param from string
---@param to string
---@param count? integer at most so many
---@return moongate.Response self
function methods:replace(from, to, count)
  edit.replace(self[1] and self[2] or over(), from, to, count)
  return self
end

--- Sends the body through fn(chunk) -> chunk, which is called with nil at its end and may return the rest.
---@param fn fun(chunk: string?): string?
---@return moongate.Response self
function methods:map(fn)
  edit.map(self[1] and self[2] or over(), fn)
  return self
end

--- Takes the coding off the body (gzip, deflate, br, zstd), so that response_body hooks see plain bytes; nothing if it
--- has none. replace and map do so by themselves.
---@return moongate.Response self
function methods:decode()
  edit.decode(self[1] and self[2] or over())
  return self
end

--- Puts a coding on the body, behind all hooks and edits, and sets Content-Encoding.
---@param coding "gzip"|"br"|"zstd"
---@param level? integer the library's own
---@return moongate.Response self
function methods:encode(coding, level)
  edit.encode(self[1] and self[2] or over(), coding, level)
  return self
end

local meta = {
  __index = function(self, key)
    if key == "headers" then
      local h = self[3]
      if not h then
        h = headers.of_response(self[1] or over())
        self[3] = h
      end
      return h
    end
    local read = readers[key]
    if read then return read(self[1] or over()) end
    local method = methods[key]
    if method then return method end
    error(("a response has no '%s'"):format(tostring(key)), 2)
  end,
  __newindex = function(self, key, value)
    local v = self[1] or over()
    if key ~= "status" then error(("res.%s can't be assigned"):format(tostring(key)), 2) end
    if type(value) ~= "number" then error("res.status must be a number, got a " .. type(value), 2) end
    local code = C.mg_view_set_status(v, value)
    if code == C.MG_TOO_LATE then error("res.status can't be changed any more: the head has gone out", 2) end
    if code < 0 then error(("res.status must be from 200 to 599, got %s"):format(tostring(value)), 2) end
  end,
}

response.meta = meta

--- The res of an exchange's record; nil while there is no response.
function response.of(x)
  local res = x.res
  if not res then
    local view = x.view
    if view.response == nil then return nil end
    res = setmetatable({ view, x, false }, meta)
    x.res = res
  end
  return res
end

return response

-- moongate.websocket - what a script itself sends on a WebSocket whose messages have a hook.
local C = require "moongate.seam"
local fiber = require "moongate.fiber"

local websocket = {}

local side_to = { origin = C.MG_SIDE_REQUEST, client = C.MG_SIDE_RESPONSE }

local function explain(code)
  if code == C.MG_ABSENT then return "this is no WebSocket whose messages have a hook" end
  if code == C.MG_GONE then return "it is closed" end
  if code == C.MG_MALFORMED then return "a text must be UTF-8" end
  if code == C.MG_BUSY then return "too much is queued, and another fiber waits to send there" end
  return ("it can't be sent (%d)"):format(code)
end

--- As req:send.
function websocket.send(view, to, data, kind)
  local side = side_to[to]
  if not side then error('a message is sent to "client" or "origin"', 3) end
  if type(data) ~= "string" then error(("a message must be a string, got a %s"):format(type(data)), 3) end
  if kind ~= nil and kind ~= "text" and kind ~= "binary" then error('a message is "text" or "binary"', 3) end
  local code = C.mg_websocket_send(view, side, kind == "binary", data, #data)
  if code > 0 then code = fiber.wait(code) end
  if code < 0 then return nil, explain(code) end
  return true
end

--- As req:close.
function websocket.close(view, code, reason)
  code, reason = code or 1000, reason or ""
  if type(code) ~= "number" or type(reason) ~= "string" then
    error("req:close takes a code and a reason: a number and a string", 3)
  end
  local status = C.mg_websocket_close(view, code, reason, #reason)
  if status == C.MG_MALFORMED then
    error(("%s is no close code that may be sent, or the reason is longer than 123 bytes of UTF-8"):format(code), 3)
  end
  if status < 0 then return nil, explain(status) end
  return true
end

return websocket

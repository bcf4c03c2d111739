-- moongate.message - the messages of a WebSocket on their way through message hooks.
local ffi = require "ffi"
local C = require "moongate.seam"
local exchange = require "moongate.exchange"
local hook = require "moongate.hook"
local request = require "moongate.request"
local at = hook.at
local text = ffi.string

local message = {}

local slice = ffi.new "mg_slice"
local side_from = { client = C.MG_SIDE_REQUEST, origin = C.MG_SIDE_RESPONSE }

---@class moongate.Message
---@field data string its bytes
---@field text string? the same, if it is a text
---@field binary boolean

local function check(made, entry)
  if made ~= nil and made ~= false and type(made) ~= "string" then
    error(("%s returned a %s; return a string, false to drop the message, or nothing")
      :format(hook.who("message", entry), type(made)), 0)
  end
  return made
end

--- The work of a message phase; `from` is who has sent it.
---@param from "client"|"origin"
function message.build(list, from, route)
  local side = side_from[from]
  return function(slot, pointer)
    local x = exchange.begin(slot, pointer, route)
    local view, req = x.view, x.req or request.of(x)
    local kind = C.mg_websocket_message(view, side, slice)
    if kind < 0 then return end
    local came = slice.len > 0 and text(slice.ptr, slice.len) or ""
    local data = came
    for i = 1, #list do
      local entry = list[i]
      at.hook = entry.number
      local given = { data = data, text = kind == 0 and data or nil, binary = kind == 1 }
      local made = check(entry.fn(req, given, from), entry)
      if made == false then
        C.mg_websocket_drop(view, side)
        return
      end
      if made ~= nil then data = made end
    end
    if data ~= came and C.mg_websocket_replace(view, side, data, #data) == C.MG_MALFORMED then
      error("a message hook returned what is no UTF-8 in place of a text", 0)
    end
  end
end

return message

-- moongate.body - the body of a request or a response, whole or in pieces.
local ffi = require "ffi"
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local json = require "moongate.json"
local state = require "moongate.state"
local text = ffi.string

local body = {}

local FULL, CUT, TOO_LATE, ABSENT = C.MG_FULL, C.MG_CUT, C.MG_TOO_LATE, C.MG_ABSENT
local slice = ffi.new "mg_slice"

local function size_text(bytes)
  for _, unit in ipairs { { "G", 2 ^ 30 }, { "M", 2 ^ 20 }, { "K", 2 ^ 10 } } do
    if bytes >= unit[2] and bytes % unit[2] == 0 then return ("%d%s"):format(bytes / unit[2], unit[1]) end
  end
  return ("%d"):format(bytes)
end

local function explain(code, most)
  if code == FULL then return ("the body is longer than max_text_size (%s)"):format(size_text(most)) end
  if code == CUT then return "the body broke off" end
  if code == TOO_LATE then return "the body is on its way already" end
  if code == ABSENT then return "there is no body" end
  return ("the body can't be read (%d)"):format(code)
end

--- All of the body; it stays in place and is relayed later. nil and the reason when it is longer than max_text_size.
---@return string? text, string? reason
function body.text(x, side)
  local route = x.route
  local most = route and route.max_text_size or state.settings.max_text_size
  local code = fiber.wait(C.mg_body_collect(x.view, side, most))
  if code < 0 then return nil, explain(code, most) end
  code = C.mg_body_text(x.view, side, slice)
  if code < 0 then return nil, explain(code, most) end
  return slice.len > 0 and text(slice.ptr, slice.len) or ""
end

--- The body as JSON; nil and the reason.
---@return any value, string? reason
function body.json(x, side)
  local whole, reason = body.text(x, side)
  if not whole then return nil, reason end
  return json.decode(whole)
end

--- An iterator over the pieces. What is taken so is not relayed. Raises if the body breaks off.
---@return fun(): string?
function body.chunks(x, side)
  local view = x.view
  return function()
    if x.view ~= view then error("this request is over", 2) end
    local code = fiber.wait(C.mg_body_read(view, side))
    if code < 0 then error(explain(code), 2) end
    code = C.mg_body_take(view, side, slice)
    if code == ABSENT then return nil end
    if code < 0 then error(explain(code), 2) end
    return text(slice.ptr, slice.len)
  end
end

return body

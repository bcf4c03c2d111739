-- moongate.body - the body of a request or a response, whole or in pieces.
local ffi = require "ffi"
local C = require "moongate.seam"
local coding = require "moongate.coding"
local fiber = require "moongate.fiber"
local json = require "moongate.json"
local schema = require "moongate.schema"
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

-- What to answer when a body can't be read: the client's fault, or the origin's.
local function status_of(code, side)
  if code == TOO_LATE or code == ABSENT then return 500 end
  if side == C.MG_SIDE_RESPONSE then return 502 end
  return code == FULL and 413 or 400
end

local function collect(x, side, most)
  local code = fiber.wait(C.mg_body_collect(x.view, side, most))
  if code >= 0 then code = C.mg_body_text(x.view, side, slice) end
  if code < 0 then return nil, explain(code, most), status_of(code, side) end
  return slice.len > 0 and text(slice.ptr, slice.len) or ""
end

-- The coding a body has come in; nil and its name if it can't be decoded.
local function coding_of(x, side)
  local m = side == C.MG_SIDE_REQUEST and x.view.request or x.view.response
  local coded = side == C.MG_SIDE_RESPONSE and x.coded
  if coded and (coded.decode or coded.encode) then return coded.decode end  -- the head tells of what goes out
  if C.mg_field_get(m, "content-encoding", 16, slice) ~= 0 then return nil end
  return coding.read(text(slice.ptr, slice.len))
end

local text_options = { decode = schema.flag { default = true } }

local function fail_option(problem) error("text: " .. problem, 0) end

--- All of the body, decoded unless the options say decode = false; it stays in place and is relayed as it came. nil,
--- the reason and a status to answer with when it is
--- longer than max_text_size, breaks off, or is not in the coding that its head tells of.
---@return string? text, string? reason, integer? status
function body.text(x, side, options)
  local route = x.route
  local most = route and route.max_text_size or state.settings.max_text_size
  local number, unknown
  if not options or schema.read(options, text_options, fail_option).decode then number, unknown = coding_of(x, side) end
  if unknown then
    return nil, ("the body comes as %s, which can't be decoded"):format(unknown),
      side == C.MG_SIDE_REQUEST and 415 or 502
  end
  local whole, reason, status = collect(x, side, most)
  if not whole or whole == "" or not number then return whole, reason, status end
  local plain, code, why = coding.decode(x.view, number, whole, most)
  if plain then return plain end
  return nil, code == FULL and explain(code, most) or why, status_of(code, side)
end

--- The body as JSON; nil, the reason and a status to answer with.
---@return any value, string? reason, integer? status
function body.json(x, side)
  local whole, reason, status = body.text(x, side)
  if not whole then return nil, reason, status end
  local value, problem = json.decode(whole)
  if problem then return nil, problem, status_of(C.MG_MALFORMED, side) end
  return value
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

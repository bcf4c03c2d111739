-- moongate.filter - bodies on their way through request_body and response_body hooks and a response's own edits.
local ffi = require "ffi"
local C = require "moongate.seam"
local coding = require "moongate.coding"
local exchange = require "moongate.exchange"
local hook = require "moongate.hook"
local request = require "moongate.request"
local response = require "moongate.response"
local at = hook.at
local text = ffi.string

local filter = {}

local slice = ffi.new "mg_slice"
local edit_entry = hook.new("edit", nil, "an edit of the response's body", true)

local function check(piece, entry, phase)
  if piece ~= nil and type(piece) ~= "string" then
    error(("%s returned a %s; return a string, or nothing"):format(hook.who(phase, entry), type(piece)), 0)
  end
  return piece
end

-- The piece that the phase was entered with, and whether it is the end.
local function take(view, side)
  if C.mg_body_piece(view, side, slice) == C.MG_ABSENT then return "", true end
  return text(slice.ptr, slice.len), false
end

local function give(view, side, piece, data)
  if data ~= piece then C.mg_body_replace(view, side, data, #data) end
end

--- The work of the request_body phase.
function filter.request(list, route)
  return function(slot, pointer)
    local x = exchange.begin(slot, pointer, route)
    local view, req = x.view, x.req or request.of(x)
    local piece, last = take(view, C.MG_SIDE_REQUEST)
    local data = piece
    for i = 1, #list do
      local entry = list[i]
      at.hook = entry.number
      if data ~= "" then data = check(entry.fn(req, data), entry, "request_body") or data end
      if last then data = data .. (check(entry.fn(req, nil), entry, "request_body") or "") end
    end
    give(view, C.MG_SIDE_REQUEST, piece, data)
  end
end

--- The work of the response_body phase.
function filter.response(list, route)
  return function(slot, pointer)
    local x = exchange.begin(slot, pointer, route)
    local view, req, res = x.view, x.req or request.of(x), x.res or response.of(x)
    local piece, last = take(view, C.MG_SIDE_RESPONSE)
    local data, coded = piece, x.coded
    if coded then
      at.hook = edit_entry.number
      data = coding.before(coded, view, C.MG_SIDE_RESPONSE, piece, last)
    end
    for i = 1, #list do
      local entry = list[i]
      at.hook = entry.number
      if data ~= "" then data = check(entry.fn(req, res, data), entry, "response_body") or data end
      if last then data = data .. (check(entry.fn(req, res, nil), entry, "response_body") or "") end
    end
    local edits = x.filters
    for i = 1, edits and #edits or 0 do
      at.hook = edit_entry.number
      if data ~= "" then data = check(edits[i](data), edit_entry, "the body edit") or data end
      if last then data = data .. (check(edits[i](nil), edit_entry, "the body edit") or "") end
    end
    if coded then
      at.hook = edit_entry.number
      data = coding.after(coded, view, C.MG_SIDE_RESPONSE, data, last)
      C.mg_body_replace(view, C.MG_SIDE_RESPONSE, data, #data)
    else
      give(view, C.MG_SIDE_RESPONSE, piece, data)
    end
  end
end

return filter

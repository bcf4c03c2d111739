-- moongate.hooks - the phases: how each calls its hooks and what it makes of what they return.
--
-- Each is work(x, list) and runs in a fiber. The fiber's `entry` is the hook at
-- work, so that an error can say whose it is. Lists are walked by goto, since the
-- compiler gives up a loop that is mostly run once.
local ffi = require "ffi"
local C = require "moongate.seam"
local answer = require "moongate.answer"
local fiber = require "moongate.fiber"
local handle = require "moongate.handle"
local peer = require "moongate.peer"
local request = require "moongate.request"
local response = require "moongate.response"
local current, wait, text = fiber.current, fiber.wait, ffi.string
local apply, request_of, response_of = answer.apply, request.of, response.of

local hooks = {}

-- ---- Hooks that may answer. ----

local function answering(phase)
  return function(x, list)
    local f, req = current(), x.req or request_of(x)
    local i, entry = 1, list[1]
    ::again::
    f.entry = entry
    local status, body, headers = entry.fn(req)
    if status ~= nil then
      apply(x, entry, phase, status, body, headers)
      return
    end
    i = i + 1
    entry = list[i]
    if entry then goto again end
  end
end

hooks[C.MG_PHASE_REQUEST] = answering "request"
hooks[C.MG_PHASE_ACCESS] = answering "access"
hooks[C.MG_PHASE_HANDLE] = handle.run
hooks[C.MG_PHASE_RESPONSE] = handle.run_response

hooks[C.MG_PHASE_ATTEMPT] = function(x, list)
  local f, view, req = current(), x.view, x.req or request_of(x)
  local p, h = peer.of(view.peer), req.headers
  h[1] = view.attempt
  local i, entry = 1, list[1]
  ::again::
  f.entry = entry
  local status, body, headers = entry.fn(req, p)
  if status ~= nil then
    apply(x, entry, "attempt", status, body, headers)
    return
  end
  i = i + 1
  entry = list[i]
  if entry then goto again end
end

hooks[C.MG_PHASE_ERROR] = function(x, list)
  local f, view, req = current(), x.view, x.req or request_of(x)
  local reason = view.failure_text
  local err = { status = view.status, reason = reason.ptr ~= nil and text(reason.ptr, reason.len) or nil }
  for i = 1, #list do
    local entry = list[i]
    f.entry = entry
    local status, body, headers = entry.fn(req, err)
    if status ~= nil then
      apply(x, entry, "error", status, body, headers)
      return
    end
  end
end

-- ---- Hooks that decide. ----

hooks[C.MG_PHASE_BALANCE] = function(x, list)
  local f, view, req = current(), x.view, x.req or request_of(x)
  local peers = peer.candidates(view)
  local i, entry = 1, list[1]
  ::again::
  f.entry = entry
  local picked = entry.fn(req, peers)
  if picked ~= nil then
    if not peer.is(picked) then
      error(("balance of policy %s returned a %s; return one of the peers it was given, or nothing")
        :format(entry.label, type(picked)), 0)
    end
    if C.mg_balance_pick(view, picked[1]) == 0 then return end
  end
  i = i + 1
  entry = list[i]
  if entry then goto again end
end

hooks[C.MG_PHASE_RETRY] = function(x, list)
  local f, view, req = current(), x.view, x.req or request_of(x)
  local reason = view.failure_text
  local failure = {
    peer = view.peer ~= nil and peer.of(view.peer) or nil, number = view.tries,
    status = view.failure == C.MG_FAIL_STATUS and view.status or nil,
    reason = reason.ptr ~= nil and text(reason.ptr, reason.len) or nil,
  }
  for i = 1, #list do
    local entry = list[i]
    f.entry = entry
    local again = entry.fn(req, failure)
    if again ~= nil then
      if type(again) ~= "boolean" then
        error(("retry of policy %s returned a %s; return true, false or nothing"):format(entry.label, type(again)), 0)
      end
      C.mg_retry_verdict(view, again)
      return
    end
  end
end

-- ---- Hooks that look. ----

hooks[C.MG_PHASE_LOG] = function(x, list)
  local f, req, res = current(), x.req or request_of(x), x.res or response_of(x)
  local i, entry = 1, list[1]
  ::again::
  f.entry = entry
  entry.fn(req, res)
  i = i + 1
  entry = list[i]
  if entry then goto again end
end

-- ---- Bodies. ----

local slice = ffi.new "mg_slice"

local function check_piece(piece, entry, phase)
  if piece ~= nil and type(piece) ~= "string" then
    error(("%s of policy %s returned a %s; return a string, or nothing"):format(phase, entry.label, type(piece)), 0)
  end
  return piece
end

-- One filter: `data` and then, if it is the last, the end. What comes out of it.
local function step_filter(call, entry, data, last)
  local out = data
  if data ~= "" then out = check_piece(call(data), entry, "a body edit") or data end
  if last then
    local rest = check_piece(call(nil), entry, "a body edit")
    if rest then out = out .. rest end
  end
  return out
end

local edits = { label = "res:map" }

-- The piece that the phase was entered with goes through all filters.
local function run_body(x, side, list, edits_too, make_call)
  local f, view = current(), x.view
  local last = C.mg_body_piece(view, side, slice) == C.MG_ABSENT
  local piece = last and "" or text(slice.ptr, slice.len)
  local data = piece
  for i = 1, list and #list or 0 do
    f.entry = list[i]
    data = step_filter(make_call(x, list[i].fn), list[i], data, last)
  end
  for i = 1, edits_too and #edits_too or 0 do
    f.entry = edits
    data = step_filter(edits_too[i], edits, data, last)
  end
  if data ~= piece then C.mg_body_replace(view, side, data, #data) end
end

local function call_request(x, fn)
  local req = x.req or request_of(x)
  return function(chunk) return fn(req, chunk) end
end

local function call_response(x, fn)
  local req, res = x.req or request_of(x), x.res or response_of(x)
  return function(chunk) return fn(req, res, chunk) end
end

hooks[C.MG_PHASE_REQUEST_BODY] = function(x, list)
  run_body(x, C.MG_SIDE_REQUEST, list, nil, call_request)
end

hooks[C.MG_PHASE_RESPONSE_BODY] = function(x, list)
  run_body(x, C.MG_SIDE_RESPONSE, list, x.filters or nil, call_response)
end

local producing = { label = "the answer's function" }

hooks[C.MG_PHASE_PRODUCE] = function(x)
  local view, fn = x.view, x.producer
  current().entry = producing
  if not fn then return end
  while true do
    local chunk = fn()
    if chunk == nil then break end
    if type(chunk) ~= "string" then
      error(("the function that makes the body returned a %s; return a string, or nil at the end")
        :format(type(chunk)), 0)
    end
    if #chunk > 0 and wait(C.mg_answer_write(view, chunk, #chunk)) < 0 then return end
  end
  C.mg_answer_end(view)
end

return hooks

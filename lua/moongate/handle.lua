-- moongate.handle - the onion: handle hooks around a handler, or around what an origin answers.
--
-- Each layer's `next` knows its list and its depth, not its exchange, so it is
-- made once and not for each request.
local C = require "moongate.seam"
local answer = require "moongate.answer"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local peer = require "moongate.peer"
local request = require "moongate.request"
local response = require "moongate.response"
local current = fiber.current
local apply, request_of, response_of = answer.apply, request.of, response.of

local handle = {}

local none = {}
local handler_entry = { label = "the route's handler" }

--- The response hooks, once an exchange.
function handle.run_response(x, list)
  if x.responded or not list then return end
  x.responded = true
  local f, req = current(), x.req or request_of(x)
  local i, entry = 1, list[1]
  ::again::
  f.entry = entry
  local status, body, headers = entry.fn(req, x.res or response_of(x))
  if status ~= nil then
    apply(x, entry, "response", status, body, headers)
    return
  end
  i = i + 1
  entry = list[i]
  if entry then goto again end
end

local function run_response(x)
  handle.run_response(x, x.route.hooks[C.MG_PHASE_RESPONSE])
end

local function forward(x)
  local code = C.mg_forward(x.view)
  if code == C.MG_NO_PEER then
    error("there is nowhere to forward to: set req.upstream, or return an answer", 0)
  elseif code == C.MG_TOO_LATE then
    error("the request can't be forwarded now: only a handler or a handle hook can, while the request's body was not "
      .. "read and the response's head has not gone out", 0)
  end
  exchange.drop_response(x)
  x.filters, x.producer = false, false
  code = fiber.wait(code)
  if code < 0 then error(("forwarding failed (%d)"):format(code), 0) end
  return response_of(x)
end

request.forward = forward

-- The route's own end: its handler, or its upstream.
local function innermost(x)
  local handler = x.route.handler
  if not handler then
    forward(x)
    return
  end
  local f, before = current(), x.res
  f.entry = handler_entry
  local status, body, headers = handler(x.req)
  if peer.is_upstream(status) then
    C.mg_view_set_upstream(x.view, status[1])
    forward(x)
  elseif status ~= nil then
    apply(x, handler_entry, "handler", status, body, headers)
  elseif x.res == before or not x.res then
    if x.view.upstream == nil then
      error("the handler returned nothing; return a status, a response or an upstream", 0)
    end
    forward(x)
  end
end

local run_layer

local function make_next(list, i)
  return function(req)
    local x = req and req[2] or fiber.owner()
    local f = current()
    local entry = f.entry
    local res = run_layer(x, list, i)
    f.entry = entry
    return res
  end
end

-- Runs layer i of the onion and all within; its response.
function run_layer(x, list, i)
  if x.reached < i then x.reached = i end
  local entry = list[i]
  if not entry then
    innermost(x)
    run_response(x)
    return response_of(x)
  end
  local nexts = list.nexts
  if not nexts then
    nexts = {}
    list.nexts = nexts
  end
  local inner = nexts[i]
  if not inner then
    inner = make_next(list, i + 1)
    nexts[i] = inner
  end

  current().entry = entry
  local status, body, headers = entry.fn(x.req, inner)
  if status ~= nil then
    if peer.is_upstream(status) then
      C.mg_view_set_upstream(x.view, status[1])
      forward(x)
    else
      apply(x, entry, "handle", status, body, headers)
    end
  elseif x.reached <= i and not x.res then
    return run_layer(x, list, i + 1)
  end
  return response_of(x)
end

--- The handle phase.
function handle.run(x, list)
  if not x.req then request_of(x) end
  x.reached = 0
  run_layer(x, list or none, 1)
  if x.view.response == nil then
    error("it ended without an answer: what forwards the request failed, and the error was caught", 0)
  end
  run_response(x)
end

return handle

-- moongate.handle - the onion: handle hooks around a handler, or around what an origin answers.
--
-- Each layer's `next` knows its list and its depth, not its exchange, so it is
-- made once and not for each request.
local C = require "moongate.seam"
local answer = require "moongate.answer"
local exchange = require "moongate.exchange"
local fiber = require "moongate.fiber"
local hook = require "moongate.hook"
local peer = require "moongate.peer"
local request = require "moongate.request"
local response = require "moongate.response"
local at = hook.at
local begin, current = exchange.begin, fiber.current
local apply, request_of, response_of = answer.apply, request.of, response.of

local handle = {}

local function forward(x)
  local code = C.mg_forward(x.view)
  if code == C.MG_NO_PEER then
    error("there is nowhere to forward to: set req.upstream, or return an answer", 0)
  elseif code == C.MG_TOO_LATE then
    error("the request can't be forwarded now: only a handler or a handle hook can, while the request's body was not "
      .. "read and the response's head has not gone out", 0)
  end
  exchange.drop_response(x)
  x.filters, x.coded, x.producer = false, false, false
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
  local before, entry = x.res, x.route.handler_entry
  at.hook = entry.number
  local status, body, headers = handler(x.req)
  if peer.is_upstream(status) then
    C.mg_view_set_upstream(x.view, status[1])
    forward(x)
  elseif status ~= nil then
    apply(x, entry, "handler", status, body, headers)
  elseif x.res == before or not x.res then
    if x.view.upstream == nil then
      error("the handler returned nothing; return a status, a response or an upstream", 0)
    end
    forward(x)
  end
end

-- What came is shown to those who have asked for that, the inmost first, before any response hook sees it.
local function show(x)
  local look = x.looks
  repeat
    at.hook = look.entry.number
    local status, body, headers = look.fn(x.req, response_of(x))
    if status ~= nil then apply(x, look.entry, "handle", status, body, headers) end
    look = look.outer
  until not look
end

local run_layer

-- An onion: its hooks in order, `next` by depth, and the work of its response hooks.
local function make_next(onion, i)
  local entry = onion[i - 1]
  return function(req, look)
    local x = req and req[2] or fiber.owner()
    local number, outer = at.hook, x.looks
    if look then x.looks = { fn = look, entry = entry, outer = outer } end
    local res = run_layer(onion, x, i)
    at.hook, x.looks = number, outer
    return res
  end
end

-- Runs layer i of the onion and all within; its response.
function run_layer(onion, x, i)
  if x.reached < i then x.reached = i end
  local entry = onion[i]
  if not entry then
    innermost(x)
    if x.looks then show(x) end
    onion.respond(x, current())
    return response_of(x)
  end

  at.hook = entry.number
  local status, body, headers = entry.fn(x.req, onion.nexts[i])
  if status ~= nil then
    if peer.is_upstream(status) then
      C.mg_view_set_upstream(x.view, status[1])
      forward(x)
    else
      apply(x, entry, "handle", status, body, headers)
    end
  elseif x.reached <= i and not x.res then
    return run_layer(onion, x, i + 1)
  end
  return response_of(x)
end

--- The work of the handle phase.
---@param list table[] its hooks
---@param respond fun(x: table, f: table) the response hooks: they run once an exchange, inside of the onion
---@param route table
---@return function work
function handle.build(list, respond, route)
  local onion = { nexts = {}, respond = respond }
  for i, entry in ipairs(list) do
    onion[i] = entry
    onion.nexts[i] = make_next(onion, i + 1)
  end
  return function(slot, pointer)
    local x, f = begin(slot, pointer, route)
    if not x.req then request_of(x) end
    x.reached = 0
    run_layer(onion, x, 1)
    if x.view.response == nil then
      error("it ended without an answer: what forwards the request failed, and the error was caught", 0)
    end
    respond(x, f)
  end
end

return handle

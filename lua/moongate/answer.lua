-- moongate.answer - what a hook or handler returns, made the response.
local C = require "moongate.seam"
local exchange = require "moongate.exchange"
local fetch = require "moongate.fetch"
local headers = require "moongate.headers"
local hook = require "moongate.hook"
local json = require "moongate.json"
local response = require "moongate.response"

local who = hook.who

local answer = {}

-- Of a response fetched elsewhere, these said how it came, not what it is.
local dropped = {
  connection = true, ["keep-alive"] = true, ["proxy-connection"] = true, te = true, trailer = true,
  ["transfer-encoding"] = true, upgrade = true, ["content-length"] = true, ["proxy-authenticate"] = true,
}

local slice = require("ffi").new "mg_slice"

local function has_field(m, name)
  return C.mg_field_get(m, name, #name, slice) == 0
end

local function begin(x, entry, phase, status)
  if status % 1 ~= 0 or status < 200 or status > 599 then
    error(("%s returned the status %s; return one from 200 to 599"):format(who(phase, entry), tostring(status)), 0)
  end
  local code = C.mg_answer(x.view, status)
  if code < 0 then
    error(("%s answers, but the response's head has gone out"):format(who(phase, entry)), 0)
  end
  exchange.drop_response(x)
  x.producer, x.filters, x.coded = false, false, false
  return x.view.response
end

local function set_headers(m, given, entry, phase)
  if given == nil then return end
  if type(given) ~= "table" then
    error(("%s returned a %s as headers; return a table"):format(who(phase, entry), type(given)), 0)
  end
  for name, value in pairs(given) do
    if type(name) ~= "string" then
      error(("%s returned headers with a %s as a name"):format(who(phase, entry), type(name)), 0)
    end
    headers.set(m, name, value)
  end
end

local function set_type(m, value)
  if not has_field(m, "content-type") then C.mg_field_set(m, "content-type", 12, value, #value) end
end

local function produce(x, fn)
  x.producer = fn
  C.mg_answer_produce(x.view)
end

local function write_body(x, m, body, entry, phase)
  local kind = type(body)
  if kind == "number" then body, kind = tostring(body), "string" end
  if kind == "string" then
    set_type(m, "text/plain; charset=utf-8")
    C.mg_answer_write(x.view, body, #body)
  elseif kind == "table" then
    local text, reason = json.encode(body)
    if not text then
      error(("%s returned a table that can't be JSON: %s"):format(who(phase, entry), reason), 0)
    end
    set_type(m, "application/json")
    C.mg_answer_write(x.view, text, #text)
  elseif kind == "function" then
    produce(x, body)
  elseif body ~= nil then
    error(("%s returned a %s as the body; return a string, a table or a function"):format(who(phase, entry), kind), 0)
  end
end

-- A response that was fetched elsewhere becomes this exchange's.
local function pass_on(x, entry, phase, fetched)
  local m = begin(x, entry, phase, fetched.status)
  for name, value in pairs(fetched.headers) do
    if not dropped[name:lower()] then C.mg_field_add(m, name, #name, value, #value) end
  end
  local whole = fetch.whole(fetched)
  if whole then
    C.mg_answer_write(x.view, whole, #whole)
  else
    produce(x, fetched:chunks())
  end
end

--- Makes the response of what a hook returned; false if that was nothing.
---@param entry table the hook's, for messages
---@param phase string
---@return boolean
function answer.apply(x, entry, phase, status, body, given)
  if status == nil then return false end
  if type(status) == "number" then
    local m = begin(x, entry, phase, status)
    set_headers(m, given, entry, phase)
    if body ~= nil then write_body(x, m, body, entry, phase) end
    return true
  end

  local kind = getmetatable(status)
  if kind == response.meta then
    if status == x.res then return true end
    error(("%s returned a response that is over, or another request's"):format(who(phase, entry)), 0)
  elseif fetch.is(status) then
    if status.status == 0 then return answer.apply(x, entry, phase, 502, "the fetch failed\n") end
    pass_on(x, entry, phase, status)
    return true
  end
  error(("%s returned a %s; return a status from 200 to 599, a response, or nothing"):format(who(phase, entry),
    type(status)), 0)
end

return answer

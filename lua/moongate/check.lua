-- moongate.check - what `moongate check` prints: all that a script declared, as the core understood it.
local ffi = require "ffi"
local C = require "moongate.seam"
local declared = require "moongate.declared"
local health = require "moongate.health"
local policy = require "moongate.policy"
local schema = require "moongate.schema"
local state = require "moongate.state"

local function print_line(indent, ...)
  local words = {}
  for i = 1, select("#", ...) do
    local word = select(i, ...)
    if word and word ~= "" then words[#words + 1] = word end
  end
  io.write(("  "):rep(indent), table.concat(words, "  "), "\n")
end

local function limit_text(key, value)
  local is_size = key:find "_size$" or key == "stream_window" or key:find "^max_chunk"
  return key .. " " .. (is_size and schema.size_text(value) or ("%g"):format(value))
end

-- The limits in `given`, over gate.set's, that are not the core's defaults.
local function unusual_limits(keys, given)
  local usual, out = ffi.new "mg_limits", {}
  C.mg_limits_default(usual)
  for _, key in ipairs(keys) do
    local value = given[key]
    if value == nil then value = declared.set[key] end
    if value ~= nil and value ~= tonumber(usual[key]) then out[#out + 1] = limit_text(key, value) end
  end
  return table.concat(out, ", ")
end

local listen_limits = {
  "max_head_size", "max_fields", "max_target_size", "max_chunk_line", "max_chunk_extensions", "max_trailer_size",
  "max_message_size",
  "max_body_size", "max_connections", "keepalive_requests",
  "max_concurrent_streams", "stream_window", "max_resets", "max_control_frames",
  "head_timeout", "body_timeout", "send_timeout", "idle_timeout", "half_close_timeout",
}
local route_limits = { "max_body_size", "max_text_size", "max_message_size", "body_timeout", "send_timeout" }

local function print_listeners()
  print_line(0, "listeners")
  for _, l in ipairs(declared.listens) do
    print_line(1, l.address, "(" .. (l.place or "?") .. ")")
    if l.trusted then print_line(2, "trusted: " .. table.concat(l.trusted, ", ")) end
    if l.tcp then print_line(2, "tcp -> " .. (l.upstream and "upstream " .. l.upstream.name or "by a choice")) end
    if l.proxy_protocol then print_line(2, "PROXY protocol") end
    local limits = unusual_limits(listen_limits, l.limits)
    if limits ~= "" then print_line(2, "limits: " .. limits) end
  end
end

local function print_policies(policies)
  for _, p in ipairs(policies) do
    print_line(2, ("policy %s: %s"):format(p.label, policy.phases_text(p)))
  end
end

local function print_route(r)
  local methods = #r.methods > 0 and table.concat(r.methods, ",") or "any method"
  local to = r.ends_at and "upstream " .. r.ends_at.name or "handler"
  print_line(1, r.pattern, methods, "-> " .. to, r.name and '"' .. r.name .. '"', "(" .. (r.place or "?") .. ")")
  print_policies(r.policies)
  if next(r.limits) then
    print_line(2, "limits: " .. unusual_limits(route_limits, r.limits))
  end
end

local function print_routes()
  if #declared.uses > 0 then
    print_line(0, "for every exchange")
    print_policies(declared.uses)
  end
  print_line(0, "routes, in match order")
  for n = 0, #declared.routes - 1 do
    local number = C.mg_route_in_order(state.generation, n)
    if number < 0 then break end
    print_route(declared.by_number[number])
  end
end

local function print_upstreams()
  if #declared.upstreams == 0 then return end
  print_line(0, "upstreams")
  for _, u in ipairs(declared.upstreams) do
    print_line(1, u.name, "balance " .. u.balancer, u.attempt and "attempt hook", u.retry and "retry hook",
      health.text(u.options), "(" .. (u.place or "?") .. ")")
    for _, p in ipairs(u.peers) do
      print_line(2, p.address, p.weight ~= 1 and ("weight %g"):format(p.weight), p.zone ~= "" and "zone " .. p.zone)
    end
  end
end

--- Prints listeners, routes in match order, upstreams with their peers.
return function()
  print_listeners()
  print_routes()
  print_upstreams()
  io.flush()
end

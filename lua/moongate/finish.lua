-- moongate.finish - after the script's top level: all that was declared goes to the core.
--
-- Only now is it known what gate.set and gate.use say for everything, so here
-- limits are settled and the lists of hooks are built. A mistake found here
-- carries the line of its declaration.
local ffi = require "ffi"
local C = require "moongate.seam"
local balance = require "moongate.balance"
local core = require "moongate.core"
local declared = require "moongate.declared"
local hook = require "moongate.hook"
local on_fail = require "moongate.on_fail"
local policy = require "moongate.policy"
local problem = require "moongate.problem"
local state = require "moongate.state"
local tcp = require "moongate.tcp"

local limit_keys = {
  "max_head_size", "max_fields", "max_target_size", "max_chunk_line", "max_chunk_extensions", "max_trailer_size",
  "max_message_size",
  "max_body_size", "max_text_size", "max_connections", "keepalive_requests",
  "max_concurrent_streams", "stream_window", "max_resets", "max_control_frames",
  "handshake_timeout", "head_timeout", "body_timeout", "send_timeout", "idle_timeout", "half_close_timeout",
}
local number_keys = {
  "workers", "drain_timeout", "cpu_budget", "memory_limit", "shared_size", "log_flush", "load_budget",
  "max_decoded_size", "max_decoded_ratio", "max_trips", "trips_window",
  "blocking_threshold",
}
local text_keys = { "access_log", "error_log", "log_format", "log_level" }
local word_keys = { "log_fields", "resolver" }

local function apply_settings(set)
  local settings = C.mg_generation_settings(state.generation)
  for _, key in ipairs(number_keys) do
    if set[key] then settings[key] = set[key] end
  end
  for key, value in pairs(set.probation or {}) do
    settings[key == "time" and "probation" or "probation_" .. key] = value
  end
  state.settings.hook_metrics = set.hook_metrics
  for _, key in ipairs { "max_decoded_size", "max_decoded_ratio" } do
    state.settings[key] = tonumber(settings[key])
  end
  local function set_text(key, value)
    C.mg_settings_text(state.generation, settings[key], value, #value)
  end
  for _, key in ipairs(text_keys) do
    if set[key] then set_text(key, set[key]) end
  end
  for _, key in ipairs(word_keys) do
    if set[key] then set_text(key, table.concat(set[key], ",")) end
  end
end

-- Writes the given ones over what stands in `to`; whether there were any.
local function apply_limits(to, given)
  local any = false
  for _, key in ipairs(limit_keys) do
    if given[key] ~= nil then to[key], any = given[key], true end
  end
  return any
end

-- Route patterns name their params; the rest that a last * stands for is called "*".
local function param_names(pattern)
  local names = {}
  for segment in (pattern:match("/.*") or ""):gmatch("[^/]+") do
    if segment:sub(1, 1) == ":" then names[#names + 1] = segment:sub(2) end
  end
  if pattern:sub(-1) == "*" then names[#names + 1] = "*" end
  return names
end

-- May Lua send an exchange of this route elsewhere than to the route's upstream?
local function may_choose(own, handler)
  if handler then return true end
  for _, list in ipairs { declared.uses, own } do
    for _, p in ipairs(list) do
      if p.hooks.request or p.hooks.access or p.hooks.handle then return true end
    end
  end
  return false
end

-- One hook for the functions `name` of several upstreams.
local function chosen(name)
  local functions, any = {}, false
  for _, u in ipairs(declared.upstreams) do
    if type(u[name]) == "function" then functions[u.object], any = u[name], true end
  end
  return any and function(req, second)
    local upstream = req.upstream
    local fn = upstream and functions[upstream]
    if fn then return fn(req, second) end
  end
end

-- The upstreams' own hooks, which run nearest to the origin: after the policies' on the way there, before them back.
local function upstream_hooks(upstream, own, handler)
  local last, choose = {}, may_choose(own, handler)
  for _, name in ipairs { "balance", "attempt", "retry", "response", "log" } do
    local fn
    if choose then
      fn = chosen(name)
    elseif upstream and type(upstream[name]) == "function" then
      fn = upstream[name]
    end
    if fn then
      local label = choose and "upstreams" or ('upstream "%s"'):format(upstream.name)
      last[name] = hook.new(name, fn, label)
      if name == "balance" then last[name].pick = balance.of_peers(fn) end
    end
  end
  return last
end

-- The route of a listener that passes bytes on, and its part of the spec.
local function tcp_route(l, spec)
  local upstream, chooser = tcp.resolve(l, function(message) problem.raise(l.place, "gate.listen: " .. message) end)
  local hooks, wants = tcp.hooks(policy.hooks(declared.uses, {}, upstream_hooks(upstream, {}, chooser)))
  tcp.fill(spec, l, upstream, wants)
  l.upstream = upstream
  return {
    name = l.name, pattern = l.address, params = {}, hooks = hooks, chooser = chooser,
    upstream = upstream and upstream.object,
  }
end

local function declare_listens(base)
  for _, l in ipairs(declared.listens) do
    local spec, trusted = ffi.new "mg_listen_spec", table.concat(l.trusted or {}, ",")
    core.put(spec.address, l.address)
    core.put(spec.trusted, trusted)
    core.put(spec.where, l.place or "")
    spec.backlog, spec.http2, spec.tls, spec.proxy_protocol = l.backlog, l.http2, l.tls, l.proxy_protocol
    ffi.copy(spec.limits, base, ffi.sizeof "mg_limits")
    apply_limits(spec.limits, l.limits)
    local route = l.tcp and tcp_route(l, spec)
    local number = C.mg_declare_listen(state.generation, spec)
    if number < 0 then problem.raise(l.place, "gate.listen: " .. core.refusal()) end
    if route then
      route.max_text_size = tonumber(base.max_text_size)
      state.routes[number], state.tcp[number] = route, route.chooser
    end
  end
end

local function find_upstream(r, named)
  if named == nil then return nil end
  local u = declared.upstreams[named]
  if not u then
    local names = {}
    for _, other in ipairs(declared.upstreams) do names[other.name] = true end
    local remedy = next(names) and problem.remedy(named, names) or "; declare it with gate.upstream"
    problem.raise(r.place, ('route "%s": there is no upstream %s%s')
      :format(r.pattern, problem.show(named), remedy))
  end
  return u
end

local function route_spec(r, upstream, wants, base)
  local spec = ffi.new "mg_route_spec"
  core.put(spec.pattern, r.pattern)
  core.put(spec.methods, r.methods_text)
  core.put(spec.name, r.name or "")
  core.put(spec.where, r.place or "")
  spec.upstream = upstream and upstream.pointer or nil
  spec.wants = wants
  spec.attempts = r.attempts
  if r.mirror then
    local to = find_upstream(r, r.mirror.upstream)
    spec.mirror, r.mirror.upstream = to.pointer, to.name
    spec.mirror_share = r.mirror.share
    spec.mirror_max_body, spec.mirror_max_active = r.mirror.max_body, r.mirror.max_active
  end
  ffi.copy(spec.limits, base, ffi.sizeof "mg_limits")
  spec.own_limits = apply_limits(spec.limits, r.limits)
  return spec
end

local function refuse_route(r)
  local message = "gate.route: " .. core.refusal()
  for _, other in ipairs(declared.routes) do
    if other == r then break end
    if other.pattern == r.pattern then
      message = ("%s (another route with this pattern stands at %s)"):format(message, other.place)
      break
    end
  end
  problem.raise(r.place, message)
end

local function declare_routes(base)
  local plain = {}          -- lists of hooks that routes without policies share, by where they end
  for _, r in ipairs(declared.routes) do
    local upstream = find_upstream(r, r.upstream)
    local key = r.policies[1] == nil and (r.handler and "handler" or upstream)
    local built = key and plain[key]
    if not built then
      built = { policy.hooks(declared.uses, r.policies, upstream_hooks(upstream, r.policies, r.handler)) }
      if key then plain[key] = built end
    end
    local hooks, wants = built[1], built[2]
    if r.handler then wants = bit.bor(wants, 2 ^ C.MG_PHASE_HANDLE) end

    r.methods_text = table.concat(r.methods, ",")
    local number = C.mg_declare_route(state.generation, route_spec(r, upstream, wants, base))
    if number < 0 then refuse_route(r) end
    r.number, r.ends_at = number, upstream
    state.routes[number] = {
      name = r.name, pattern = r.pattern, params = param_names(r.pattern), hooks = hooks, handler = r.handler,
      handler_entry = r.handler and hook.new("handler", r.handler, "the route's handler", true),
      upstream = upstream and upstream.object, max_text_size = r.limits.max_text_size or tonumber(base.max_text_size),
    }
    declared.by_number[number] = r
  end
end

local function declare_uses(base)
  local hooks, wants = policy.hooks(declared.uses, {}, upstream_hooks(nil, {}, nil))
  state.routes[-1] = { params = {}, hooks = hooks, max_text_size = tonumber(base.max_text_size) }

  policy.collect(state.use_request, "request", declared.uses)
  policy.collect(state.connect, "connect", declared.uses)
  policy.collect(state.client_hello, "client_hello", declared.uses)
  for _, name in ipairs { "init", "exit", "peer" } do
    policy.collect(state[name], name, declared.uses)
    for _, r in ipairs(declared.routes) do policy.collect(state[name], name, r.policies) end
  end
  local lists = {
    [C.MG_PHASE_REQUEST] = state.use_request, [C.MG_PHASE_COUNT] = state.connect,
    [C.MG_PHASE_COUNT + 1] = state.init, [C.MG_PHASE_COUNT + 2] = state.exit,
    [C.MG_PHASE_COUNT + 3] = state.client_hello,
  }
  for number, list in pairs(lists) do
    if #list > 0 then wants = wants + 2 ^ number end
  end
  C.mg_declare_use(state.generation, wants)
end

local function speaks_http()
  for _, l in ipairs(declared.listens) do
    if not l.tcp then return true end
  end
end

--- Hands everything to the core, which checks the whole and compiles the routes.
---@param script? string the script's name, for mistakes that have no line
return function(script)
  script = script or (declared.place and declared.place:match("^(.*):%d+$"))
  declared.finished = true
  if #declared.listens == 0 then
    problem.raise(script, 'it listens nowhere; begin with gate.listen "127.0.0.1:8080"')
  elseif #declared.routes == 0 and speaks_http() then
    problem.raise(script, 'it has no route; add gate.route { "/*", upstream = ... } or one with a handler')
  end

  local base = ffi.new "mg_limits"
  C.mg_limits_default(base)
  apply_limits(base, declared.set)
  state.settings.max_text_size = tonumber(base.max_text_size)
  apply_settings(declared.set)
  declare_listens(base)
  declare_routes(base)
  declare_uses(base)
  if C.mg_declare_done(state.generation) < 0 then problem.raise(script, core.refusal()) end
  on_fail.apply()
end

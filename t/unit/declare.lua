-- Declaring, under plain luajit: what the core is asked for, and how mistakes read.
--
--   luajit t/unit/declare.lua          from the top of the tree
local ffi = require "ffi"

-- ---- A core that files what it is told. ----

local function read_file(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end
local cdef = ("\n" .. read_file "include/slice.h" .. read_file "include/seam.h"):gsub("\n#[^\n]*", "")
ffi.cdef(cdef)

local seen, core_problem

local function text_of(s)
  return s.ptr ~= nil and ffi.string(s.ptr, s.len) or ""
end

local fake = {}
function fake.mg_limits_default(l)
  l.max_head_size, l.max_fields, l.max_text_size, l.head_timeout, l.body_timeout = 32768, 128, 2 ^ 20, 10, 30
end
function fake.mg_upstream_default(u)
  u.attempts, u.keepalive, u.connect_timeout, u.retry_budget = 2, 64, 3, 0.2
end
function fake.mg_declare_upstream(_, spec)
  if core_problem then return nil end
  local u = { name = text_of(spec.name), where = text_of(spec.where), attempts = spec.attempts,
    keepalive = spec.keepalive, balance = spec.balance, on = spec.retry_on, statuses = spec.retry_status_count,
    first_status = spec.retry_status[0], connect_timeout = spec.connect_timeout, peers = {} }
  seen.upstreams[#seen.upstreams + 1] = u
  return ffi.cast("mg_upstream *", #seen.upstreams)
end
function fake.mg_declare_peer(u, address, len, weight, zone, zlen)
  local peers = seen.upstreams[tonumber(ffi.cast("intptr_t", u))].peers
  peers[#peers + 1] = { ffi.string(address, len), weight, ffi.string(zone, zlen) }
  return ffi.cast("mg_peer *", #peers)
end
function fake.mg_declare_listen(_, spec)
  if core_problem then return -5 end
  seen.listens[#seen.listens + 1] = { address = text_of(spec.address), trusted = text_of(spec.trusted),
    where = text_of(spec.where), head = spec.limits.max_head_size, head_timeout = spec.limits.head_timeout,
    body = tonumber(spec.limits.max_body_size) }
  return 0
end
function fake.mg_declare_route(_, spec)
  if core_problem then return -5 end
  seen.routes[#seen.routes + 1] = { pattern = text_of(spec.pattern), methods = text_of(spec.methods),
    wants = spec.wants, own = spec.own_limits, body = tonumber(spec.limits.max_body_size),
    upstream = spec.upstream ~= nil }
  return #seen.routes - 1
end
function fake.mg_declare_use(_, wants) seen.use = wants end
local hook_count = 0
function fake.mg_declare_hook()
  hook_count = hook_count + 1
  return hook_count
end
function fake.mg_declare_policy() return 1 end
function fake.mg_policy_is_out() return false end
function fake.mg_lua_count() return { fibers = 0, requests = 0, settled = 0, hook = 0, tripped = 0, out = 0 } end
function fake.mg_declare_done() return 0 end
function fake.mg_problem(out) out.ptr, out.len = core_problem, #core_problem end
function fake.mg_generation_settings() return seen.settings end
function fake.mg_settings_text(_, slice, ptr, len)
  seen.kept[#seen.kept + 1] = ptr
  slice.ptr, slice.len = ptr, len
end
function fake.mg_route_in_order(_, n) return n < #seen.routes and #seen.routes - 1 - n or -1 end
setmetatable(fake, { __index = ffi.C })

package.path = "lua/?.lua;" .. package.path
package.preload["moongate.seam"] = function() return fake end
package.preload["moongate.peer"] = function()
  return { upstream_new = function(name, pointer, metas) return { name = name, pointer = pointer, metas = metas } end }
end
package.preload["moongate.state"] = function()
  return { routes = {}, use_request = {}, connect = {}, client_hello = {}, tcp = {}, init = {}, exit = {}, peer = {},
    upstreams = {}, settings = {} }
end

-- ---- Running a script. ----

local C = ffi.C
local function fresh()
  for name in pairs(package.loaded) do
    if name:find "^moongate" and name ~= "moongate.seam" then package.loaded[name] = nil end
  end
  seen = { upstreams = {}, listens = {}, routes = {}, settings = ffi.new "mg_settings", kept = {} }
  core_problem = nil
  return require "moongate.declare", require "moongate.state"
end

-- Runs a script to its end; gives state, or nil and the message.
local function run(text)
  local gate, state = fresh()
  local chunk = assert(loadstring(text, "@gateway.lua"))
  setfenv(chunk, setmetatable({ gate = gate }, { __index = _G }))
  local good, message = pcall(function()
    chunk()
    require "moongate.finish"()
  end)
  if good then return state end
  return nil, message
end

local head = 'gate.listen "127.0.0.1:8080"\n'
local failures, told = 0, 0

local function check(what, got, want)
  if got == want then return end
  failures = failures + 1
  print(("FAIL %s\n  got  %s\n  want %s"):format(what, tostring(got), tostring(want)))
end

-- Says what the checks since the last call have shown.
local function shown(sentence)
  if failures == told then print("ok " .. sentence) end
  told = failures
end

local function refused(script, want)
  local _, message = run(script)
  check(script, message, want)
end

local function bits(...)
  local sum = 0
  for _, phase in ipairs { ... } do sum = sum + 2 ^ C["MG_PHASE_" .. phase] end
  return sum
end

-- ---- What goes to the core. ----

do
  local state = run [[
gate.route { "api.example.com/users/:id/*", methods = { "GET", "POST" }, upstream = "users", max_body_size = "2M" }
gate.listen { "[::]:80", max_head_size = "16K", trusted = { "10.0.0.0/8", "unix" } }
gate.upstream("users", {
  peers = { "10.0.0.1:80", { "10.0.0.2:80", weight = 3, zone = "b", meta = { a = 1 } } },
  balance = "least_conn", connect_timeout = 0.5,
  retry = { attempts = 3, on = { "connect", 502, 503 } },
})
gate.set { head_timeout = 5, workers = 4, log_fields = { "status", "path" }, max_body_size = "1M" }
]]
  local u, l, r = seen.upstreams[1], seen.listens[1], seen.routes[1]
  check("upstream", u.name .. u.where, "usersgateway.lua:3")
  check("balance", u.balance, C.MG_BALANCE_LEAST_CONN)
  check("attempts", u.attempts, 3)
  check("default kept", u.keepalive, 64)
  check("connect_timeout", u.connect_timeout, 0.5)
  check("retry on", u.on, 2 ^ C.MG_FAIL_CONNECT + 2 ^ C.MG_FAIL_CONNECT_TIMEOUT + 2 ^ C.MG_FAIL_TLS
    + 2 ^ C.MG_FAIL_STATUS)
  check("statuses", u.statuses * 1000 + u.first_status, 2502)
  check("peer", table.concat(u.peers[2], " "), "10.0.0.2:80 3 b")
  check("meta", state.upstreams.users.metas[2].a, 1)
  check("listen", table.concat({ l.address, l.trusted, l.where, l.head }, " "),
    "[::]:80 10.0.0.0/8,unix gateway.lua:2 16384")
  check("set counts above", l.head_timeout, 5)
  check("set's body", l.body, 2 ^ 20)
  check("route", table.concat({ r.pattern, r.methods, r.wants, r.body }, " "),
    "api.example.com/users/:id/* GET,POST 0 2097152")
  check("own limits", r.own, true)
  check("goes to the upstream", r.upstream, true)
  check("params", table.concat(state.routes[0].params, " "), "id *")
  check("workers", seen.settings.workers, 4)
  check("log_fields", text_of(seen.settings.log_fields), "status,path")
  check("max_text_size", state.settings.max_text_size, 2 ^ 20)
  check("no hooks", next(state.routes[0].hooks), nil)
  shown "what is declared goes to the core with what gate.set says for all"
end

do
  local state = run(head .. [[
local function hook(name) return function() return name end end
gate.route { "/*", handler = function() end, policies = {
  { name = "r1", access = hook "r1", response = hook "r1" }, function(req, next) end,
  { name = "r2", response = hook "r2", log = hook "r2", init = hook "i" } } }
gate.route { "/again", handler = function() end, policies = {} }
gate.use { name = "u1", request = hook "u",
  access = hook "u1", response = hook "u1", connect = hook "c",
  log = hook "u1" }
gate.use({ name = "u2", response = hook "u2" })
]])
  local function order(phase, n)
    local names = {}
    for i, e in ipairs(state.routes[n or 0].hooks[C["MG_PHASE_" .. phase]] or {}) do names[i] = e.label end
    return table.concat(names, " ")
  end
  check("access runs use's first", order "ACCESS", "u1 r1")
  check("response runs in reverse", order "RESPONSE", "r2 r1 u2 u1")
  check("log runs in reverse", order "LOG", "r2 u1")
  check("a function is a handle hook", order "HANDLE", "gateway.lua:4")
  check("without a route", order("RESPONSE", -1), "u2 u1")
  check("wants", seen.routes[1].wants, bits("ACCESS", "HANDLE", "RESPONSE", "LOG"))
  check("wants of the second", seen.routes[2].wants, bits("ACCESS", "HANDLE", "RESPONSE", "LOG"))
  check("use wants", seen.use,
    bits("REQUEST", "ACCESS", "RESPONSE", "LOG") + 2 ^ C.MG_PHASE_COUNT + 2 ^ (C.MG_PHASE_COUNT + 1))
  check("use_request", state.use_request[1].label, "u1")
  check("connect", state.connect[1].label, "u1")
  check("init", state.init[1].label, "r2")
  shown "gate.use runs first, and the way back is reversed"
end

do
  local state = run(head .. [[
local a = gate.upstream("a", { peers = { "h:1" }, balance = function() return "a" end,
  retry = function() return true end })
local b = gate.upstream("b", { peers = { "h:1", "h:1" }, balance = function() return "b" end,
  attempt = function() return 403, "no" end })
gate.route { "/a", upstream = a }
gate.route { "/b", upstream = "b", policies = { { name = "own", balance = function() end, access = function() end } } }
]])
  local function hook(route, phase, i) return state.routes[route].hooks[C["MG_PHASE_" .. phase]][i].fn end
  check("the upstream's own", hook(0, "BALANCE", 1)(), "a")
  check("no attempt of a", state.routes[0].hooks[C.MG_PHASE_ATTEMPT], nil)
  check("retry of a", hook(0, "RETRY", 1)(), true)
  check("policies' own first", state.routes[1].hooks[C.MG_PHASE_BALANCE][1].label, "own")
  check("where it goes now", hook(1, "BALANCE", 2)({ upstream = state.upstreams.a }), "a")
  check("all results", select(2, hook(1, "ATTEMPT", 1)({ upstream = state.upstreams.b })), "no")
  check("nobody's", hook(1, "BALANCE", 2)({}), nil)
  shown "an upstream's own hooks run where its exchanges go"
end

-- ---- How mistakes read. ----

local route = 'gate.route { "/*", handler = function() end }\n'

refused(route, 'gateway.lua: it listens nowhere; begin with gate.listen "127.0.0.1:8080"')
refused(head, 'gateway.lua: it has no route; add gate.route { "/*", upstream = ... } or one with a handler')
refused(head .. 'gate.upstream("users", { peers = { "a:1", { "b:1", weight = "x" } } })',
  'gateway.lua:2: upstream "users": peer 2: weight must be a positive number, got "x"')
refused(head .. 'gate.upstream("users", { peers = { "a:1", 7 } })',
  'gateway.lua:2: upstream "users": peer 2: must be an address like "10.0.0.1:8080", ' ..
  'or a table that begins with one, got 7')
refused(head .. 'gate.upstream("users", { peers = { { "a:1", wieght = 2 } } })',
  'gateway.lua:2: upstream "users": peer 1: unknown key "wieght"; did you mean "weight"?')
refused(head .. 'gate.upstream("users", {})',
  'gateway.lua:2: upstream "users": peers is needed: a list of addresses like { "10.0.0.1:8080" }; or discover')
refused(head .. 'gate.upstream("a", { peers = {} })\ngate.upstream("a", { peers = {} })',
  'gateway.lua:3: upstream "a": the name is taken already, by gateway.lua:2; choose another')
refused(head .. 'gate.upstream("a", { peers = {}, balance = "lest_conn" })',
  'gateway.lua:2: upstream "a": balance must be a function(req, peers), or the name of a balancer, got "lest_conn"; '
    .. 'did you mean "least_conn"?')
refused(head .. 'gate.upstream("a", { peers = {}, health = { tcp = true, rise = 0 } })',
  'gateway.lua:2: upstream "a": health: rise must be a whole number, 1 or more, got 0')
refused(head .. 'gate.upstream("a", { peers = {}, protocol = "h3" })',
  'gateway.lua:2: upstream "a": protocol must be "http/1.1", "h2" or "alpn", got "h3"')
refused(head .. 'gate.upstream("a", { peers = {}, retry = { on = { "conect" } } })',
  'gateway.lua:2: upstream "a": retry.on: entry 1 must be a status from 400 to 599 or one of connect, reset, ' ..
  'timeout, malformed, got "conect"; did you mean "connect"?')
refused(head .. 'gate.upstream("a", { peers = {}, connect_timeout = -1 })',
  'gateway.lua:2: upstream "a": connect_timeout must be a number of seconds, 0 or more, got -1')
refused(head .. 'gate.route { "/", handler = print, polices = {} }',
  'gateway.lua:2: route "/": unknown key "polices"; did you mean "policies"?')
refused(head .. 'gate.route { "/", handler = print, upstream = "a" }',
  'gateway.lua:2: route "/": it has an upstream and a handler; a route ends at one of them')
refused(head .. 'gate.route { "/" }', 'gateway.lua:2: route "/": it ends nowhere; give it an upstream or a handler')
refused(head .. 'gate.route { "/", upstream = "user" }\ngate.upstream("users", { peers = {} })',
  'gateway.lua:2: route "/": there is no upstream "user"; did you mean "users"?')
refused(head .. 'gate.route { "/", handler = print, methods = { "get" } }',
  'gateway.lua:2: route "/": methods: "get" must be written "GET", since methods are case-sensitive')
refused(head .. 'gate.route { "/", handler = print, tcp = {} }',
  'gateway.lua:2: route "/": a TCP route is a listener\'s: gate.listen { ":5432", tcp = upstream }')
refused(head .. 'gate.route { handler = print }',
  'gateway.lua:2: gate.route: pattern is needed: a pattern like "/users/:id" or "api.example.com/*"')
refused(head .. 'gate.route { "/", handler = print, policies = { { reponse = print } } }',
  'gateway.lua:2: route "/": policy 1: unknown key "reponse"; did you mean "response"?')
refused(head .. 'gate.route { "/", handler = print, policies = { { request = print } } }',
  'gateway.lua:2: route "/": policy 1: a request hook runs before a route is found, ' ..
  'so it counts only in gate.use; access is the route\'s own')
refused(head .. 'gate.use { name = "x" }',
  'gateway.lua:2: gate.use: policy 1: it has no hook; a policy has a function under one of: init, connect, ' ..
  'client_hello, request, access, handle, request_body, balance, attempt, retry, response, ' ..
  'response_body, message, error, log, peer, exit')
refused(head .. head,
  'gateway.lua:2: gate.listen: "127.0.0.1:8080" is listened at already, by gateway.lua:1; take one of the two away')
refused('gate.listen { "0.0.0.0:1", tls = {} }',
  'gateway.lua:1: gate.listen: tls: a certificate is needed: tls = { cert = "site.pem", key = "site.key" }')
refused('gate.listen { "0.0.0.0:1", max_head_size = "x" }',
  'gateway.lua:1: gate.listen: max_head_size must be a size like 65536 or "64K", from 256 to 16M, got "x"')
refused('gate.listen(8080)', 'gateway.lua:1: gate.listen: must be an address or a table that begins with one, got 8080')
refused('gate.set { workers = "many" }',
  'gateway.lua:1: gate.set: workers must be "auto" or a whole number from 1 to 64, got "many"')
refused('gate.set { max_conections = 5 }',
  'gateway.lua:1: gate.set: unknown key "max_conections"; did you mean "max_connections"?')

shown "a mistake names its place, the value and the remedy"

do
  local _, message = run(head .. route .. "late = gate.route")
  check("a good script", message, nil)
  local gate = require "moongate.declare"
  local good, late = pcall(loadstring('local gate = ...\ngate.listen ":1"', "@gateway.lua"), gate)
  check("late", late,
    "gateway.lua:2: gate.listen: only the top level of the script can declare; this ran after it had ended")
  check("late fails", good, false)
  shown "nothing can be declared after the top level"
end

do
  fresh()
  local gate = require "moongate.declare"
  local script = loadstring([[
local gate = ...
return function(options)
  local o = gate.options("limit.rate", options, {
    rate = { "number", above = 0, needed = true }, by = { { "ip", "user" }, default = "ip" } })
  return o
end]], "@limit/rate.lua")(gate)
  local user = loadstring("local rate, options = ...\nlocal o = rate(options)\nreturn o", "@gateway.lua")
  local _, message = pcall(user, script, { rate = "fast" })
  check("a policy's option", message, 'gateway.lua:2: limit.rate: rate must be a positive number, got "fast"')
  check("defaults", user(script, { rate = 5 }).by, "ip")
  shown "a policy's options are checked for its user"
end

do
  local state = run(head .. route .. [[
gate.use { name = "ids", request = function() end, response = function() end }
gate.upstream("a", { peers = { { "h:1", weight = 2 } } })
gate.route { "/a", methods = "GET", upstream = "a", max_body_size = 10 }]])
  check("runs", state ~= nil, true)
  local file = io.tmpfile()
  local before = io.output(file)
  require "moongate.check"()
  io.output(before)
  file:seek "set"
  check("moongate check", file:read "*a", [[
listeners
  127.0.0.1:8080  (gateway.lua:1)
for every exchange
    policy ids: request, response
routes, in match order
  /a  GET  -> upstream a  (gateway.lua:5)
    limits: max_body_size 10
  /*  any method  -> handler  (gateway.lua:2)
upstreams
  a  balance round_robin  (gateway.lua:4)
    h:1  weight 2
]])
  shown "moongate check prints what was declared, in match order"
end

os.exit(failures == 0 and 0 or 1)

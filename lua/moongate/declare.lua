-- moongate.declare - what a script's top level says: gate.listen, upstream, route, use, set.
--
-- Each call is checked at once, so a mistake carries its own line. Listeners and
-- routes go to the core in finish.lua, when the whole script has run: gate.use
-- and gate.set count for all of them, also those above.
local ffi = require "ffi"
local C = require "moongate.seam"
local balance = require "moongate.balance"
local core = require "moongate.core"
local declared = require "moongate.declared"
local discover = require "moongate.discover"
local health = require "moongate.health"
local mirror = require "moongate.mirror"
local policy = require "moongate.policy"
local probe = require "moongate.probe"
local problem = require "moongate.problem"
local schema = require "moongate.schema"
local state = require "moongate.state"
local tcp = require "moongate.tcp"
local tls = require "moongate.tls"

local declare = {}

local count, seconds, size, text = schema.count, schema.seconds, schema.size, schema.text
local whole = 2 ^ 32 - 1

-- ---- The keys of each call. ----

local limits = {
  max_head_size = size { min = 256, max = 2 ^ 24 },
  max_fields = count { min = 1, max = 1024 },
  max_target_size = size { min = 16, max = 2 ^ 24 },
  max_chunk_line = size { min = 16, max = 2 ^ 24 },
  max_chunk_extensions = size { max = whole },
  max_trailer_size = size { min = 2, max = 2 ^ 24 },
  max_message_size = size { min = 1, max = 2 ^ 30 },
  max_body_size = size(),
  max_text_size = size { min = 1, max = whole },
  max_connections = count(),
  keepalive_requests = count(),
  max_concurrent_streams = count { min = 1, max = 65535 },
  stream_window = size { min = 16384, max = 2 ^ 24 },
  max_resets = count(),
  max_control_frames = count(),
  handshake_timeout = seconds(),
  head_timeout = seconds(),
  body_timeout = seconds(),
  send_timeout = seconds(),
  idle_timeout = seconds(),
  half_close_timeout = seconds(),
}

local function workers(value)
  if value == "auto" then return 0 end
  if type(value) == "number" and value % 1 == 0 and value >= 1 and value <= 64 then return value end
end

local set_keys = {
  workers = schema.any('"auto" or a whole number from 1 to 64', workers),
  drain_timeout = seconds(),
  cpu_budget = seconds(),
  memory_limit = size { min = 2 ^ 23 },
  shared_size = size { min = 2 ^ 20 },
  log_flush = seconds(),
  load_budget = seconds(),
  blocking_threshold = seconds(),
  hook_metrics = schema.flag(),
  max_decoded_size = size(),
  max_decoded_ratio = schema.number(),
  max_trips = count { min = 1, max = 64 },
  trips_window = seconds { above = 0 },
  probation = schema.any("seconds, false, or a table like { time = 30 }", function(value)
    if value == false then return { time = 0 } end
    if type(value) == "number" then return { time = value } end
    if type(value) == "table" then return value end
  end),
  access_log = text { expect = 'a path, "stderr", "off" or "syslog:/dev/log"' },
  error_log = text { expect = 'a path or "stderr"' },
  log_format = schema.choice { "json", "common", "combined" },
  log_fields = schema.words { expect = 'a list of field names like { "status", "path" }' },
  log_level = schema.choice { "debug", "info", "warn", "error" },
  resolver = schema.words { expect = 'addresses like "10.0.0.2:53"' },
}

local probation_keys = {
  time = seconds(),
  errors = schema.number { max = 1 },
  least = count { min = 1 },
}

local listen_keys = {
  [1] = text {
    called = "address", needed = true, expect = 'an address like "0.0.0.0:8080", "[::]:8080" or "unix:/run/gate.sock"',
  },
  backlog = count { min = 1, max = 65535, default = 4096 },
  trusted = schema.words { expect = 'a list of networks like { "10.0.0.0/8", "unix" }' },
  http2 = schema.flag { default = true },
  tls = schema.table { expect = 'a table like { cert = "site.pem", key = "site.key" }' },
  proxy_protocol = schema.flag { default = false },
  tcp = schema.any("an upstream, its name, a table from host names to upstreams, or a function(conn)", function(value)
    local kind = type(value)
    if kind == "string" or kind == "function" or kind == "table" and next(value) ~= nil then return value end
  end),
  sni = schema.flag(),
  name = text(),
}

local route_keys = {
  [1] = text {
    called = "pattern", needed = true, expect = 'a pattern like "/users/:id" or "api.example.com/*"',
  },
  name = text(),
  methods = schema.words { expect = 'a list of methods like { "GET", "POST" }' },
  policies = schema.table { expect = "a list of policies" },
  upstream = schema.any("an upstream or its name", function(value)
    if type(value) == "string" or type(value) == "table" and declared.upstreams[value] then return value end
  end),
  handler = schema.func(),
  attempts = count { min = 1, max = 16 },
  message = schema.func(),
  mirror = schema.table { expect = 'a table like { upstream = "shadow", share = 0.1 }' },
}

for key, kind in pairs(limits) do
  set_keys[key] = kind
  if key ~= "max_text_size" then listen_keys[key] = kind end
end
for _, key in ipairs { "max_body_size", "max_text_size", "max_message_size", "body_timeout", "send_timeout" } do
  route_keys[key] = limits[key]
end

local upstream_numbers = {
  keepalive = count(),
  max_connections = count(),
  http2_connections = count { min = 1 },
  max_concurrent_streams = count { min = 1, max = 65535 },
  queue = count(),
  max_head_size = size { min = 256, max = 2 ^ 24 },
  connect_timeout = seconds(),
  response_timeout = seconds(),
  read_timeout = seconds(),
  send_timeout = seconds(),
  timeout = seconds(),
  total_timeout = seconds(),
  keepalive_timeout = seconds(),
  queue_timeout = seconds(),
}

local upstream_keys = {
  peers = schema.table { expect = 'a list of addresses like { "10.0.0.1:8080" }' },
  balance = schema.any("a balancer", function(value)
    if balance.built_in[value] then return value end
    return balance.find(value)
  end),
  attempt = schema.func(),
  retry = schema.any("a table of options, a function(req, failure), or false", function(value)
    if value == false then return { attempts = 1 } end
    if type(value) == "table" or type(value) == "function" then return value end
  end),
  tls = schema.any("true or a table of options", function(value)
    if value == true or type(value) == "table" then return value end
  end),
  protocol = schema.choice({ "http/1.1", "h2", "alpn" }, { default = "http/1.1" }),
  proxy_protocol = schema.choice { "v1", "v2" },
}
for key, kind in pairs(upstream_numbers) do upstream_keys[key] = kind end
for key, kind in pairs(health.keys) do upstream_keys[key] = kind end
for key, kind in pairs(discover.keys) do upstream_keys[key] = kind end

local peer_keys = {
  [1] = text { called = "address", needed = true, expect = 'an address like "10.0.0.1:8080"' },
  weight = schema.number { above = 0, default = 1 },
  zone = text(),
  meta = schema.table(),
}

local failures = {
  connect = 2 ^ C.MG_FAIL_CONNECT + 2 ^ C.MG_FAIL_CONNECT_TIMEOUT + 2 ^ C.MG_FAIL_TLS,
  reset = 2 ^ C.MG_FAIL_RESET,
  timeout = 2 ^ C.MG_FAIL_TIMEOUT,
  malformed = 2 ^ C.MG_FAIL_MALFORMED,
}

local retry_keys = {
  attempts = count { min = 1, max = 16 },
  on = schema.table { expect = 'a list of failures and statuses like { "connect", "reset", 502 }' },
  budget = schema.number { max = 1000 },
  backoff = seconds(),
  max_backoff = seconds(),
  retry_after = schema.any("a number of seconds, 0 or more, or false", function(value)
    if value == false or type(value) == "number" and value >= 0 and value <= 1e9 then return value end
  end),
  body = size { max = 2 ^ 28 },
  non_idempotent = schema.flag(),
}

-- ---- Helpers of all. ----

local begin = declared.begin

local function need_table(value, fail, expect)
  if type(value) ~= "table" then fail(("must be %s, got %s"):format(expect, problem.show(value))) end
end

-- ---- gate.set ----

--- Settings of the process, and limits for every listener. A later call adds to an earlier one.
---@param options table
function declare.set(options)
  local _, fail = begin "gate.set"
  need_table(options, fail, "a table of settings")
  for key, value in pairs(schema.read(options, set_keys, fail)) do
    if key == "probation" then
      value = schema.read(value, probation_keys, function(message) fail("probation: " .. message) end)
    end
    declared.set[key] = value
    state.settings[key] = value
  end
  -- This one bounds what runs now, so it can't wait until the end of it.
  if options.load_budget then C.mg_generation_settings(state.generation).load_budget = options.load_budget end
end

-- ---- gate.listen ----

--- Take connections at an address.
---@param options string|table the address, or { address, backlog =, trusted =, tls =, tcp =, limits... }
function declare.listen(options)
  local place, fail = begin "gate.listen"
  if type(options) == "string" then options = { options } end
  need_table(options, fail, "an address or a table that begins with one")
  local read = schema.read(options, listen_keys, fail)

  local record = { address = read[1], backlog = read.backlog, trusted = read.trusted, http2 = read.http2,
    proxy_protocol = read.proxy_protocol, limits = {}, place = place }
  if read.tcp then tcp.read(record, read, fail) end
  for _, key in ipairs { "sni", "name" } do
    if read[key] ~= nil and not read.tcp then fail(key .. " is for listeners with tcp") end
  end
  if read.tls then
    local protocols = C.MG_TLS_HTTP1 + (read.http2 and C.MG_TLS_HTTP2 or 0)
    record.tls = tls.for_clients(read.tls, read.tcp and 0 or protocols, fail)
    record.tls_options = read.tls
  end
  for key in pairs(limits) do record.limits[key] = read[key] end
  for _, other in ipairs(declared.listens) do
    if other.address == record.address then
      fail(('"%s" is listened at already, by %s; take one of the two away'):format(other.address, other.place))
    end
  end
  table.insert(declared.listens, record)
end

-- ---- gate.upstream ----

local function read_retry(spec, given, fail)
  local read = schema.read(given, retry_keys, function(message) fail("retry: " .. message) end)
  if read.attempts then spec.attempts = read.attempts end
  if read.budget then spec.retry_budget = read.budget end
  spec.backoff = read.backoff or 0
  spec.max_backoff = read.max_backoff or 10 * spec.backoff
  if spec.max_backoff < spec.backoff then
    fail(("retry: max_backoff (%g s) is less than backoff (%g s)"):format(spec.max_backoff, spec.backoff))
  end
  if read.retry_after ~= nil then spec.retry_after = read.retry_after or -1 end
  if read.body then spec.retry_body = read.body end
  spec.non_idempotent = read.non_idempotent or false
  if not read.on then return end

  local bits, statuses = 0, 0
  for i, what in ipairs(read.on) do
    if failures[what] then
      bits = bit.bor(bits, failures[what])
    elseif type(what) == "number" and what % 1 == 0 and what >= 400 and what <= 599 then
      if statuses == 16 then fail("retry.on: at most 16 statuses") end
      spec.retry_status[statuses] = what
      statuses = statuses + 1
    else
      local known = type(what) == "string" and problem.remedy(what, failures) or ""
      fail(("retry.on: entry %d must be a status from 400 to 599 or one of connect, reset, timeout, malformed, " ..
        "got %s%s"):format(i, problem.show(what), known:find("mean", 1, true) and known or ""))
    end
  end
  if statuses > 0 then bits = bit.bor(bits, 2 ^ C.MG_FAIL_STATUS) end
  spec.retry_on, spec.retry_status_count = bits, statuses
end

local function read_peers(list, fail)
  local peers = {}
  for key in pairs(list) do
    if type(key) ~= "number" or key % 1 ~= 0 or key < 1 or key > #list then
      fail(("peers must be a list, but has a value at [%s]"):format(tostring(key)))
    end
  end
  for i, given in ipairs(list) do
    local function peer_fail(message) fail(("peer %d: %s"):format(i, message)) end
    if type(given) == "string" then given = { given } end
    need_table(given, peer_fail, 'an address like "10.0.0.1:8080", or a table that begins with one')
    local read = schema.read(given, peer_keys, peer_fail)
    peers[i] = { address = read[1], weight = read.weight, zone = read.zone or "", meta = read.meta }
  end
  return peers
end

local function upstream_spec(record, read, fail)
  local spec = ffi.new "mg_upstream_spec"
  C.mg_upstream_default(spec)
  core.put(spec.name, record.name)
  core.put(spec.where, record.place or "")
  for key in pairs(upstream_numbers) do
    if read[key] then spec[key] = read[key] end
  end
  if read.protocol == "alpn" and not read.tls then
    fail 'protocol "alpn" is settled in the handshake of TLS; give the upstream tls = true, or another protocol'
  end
  spec.protocols = tls.protocols[read.protocol]
  spec.proxy_protocol = read.proxy_protocol == "v1" and 1 or read.proxy_protocol == "v2" and 2 or 0
  if read.proxy_protocol and (read.protocol ~= "http/1.1" or (read.keepalive or 0) > 0) then
    fail "proxy_protocol: its connections are one client's each, so they can't be kept (keepalive) or shared (h2)"
  end
  if read.tls then spec.tls = tls.for_origins(read.tls, read.protocol, fail) end
  spec.balance = balance.built_in[read.balance] or spec.balance
  if type(read.retry) == "table" then read_retry(spec, read.retry, fail) end
  health.fill(spec, read, fail)
  return spec
end

--- A named group of peers.
---@param name string
---@param options table
---@return table upstream for gate.route, req.upstream and req:forward
function declare.upstream(name, options)
  local place, fail = begin "gate.upstream"
  if type(name) ~= "string" or name == "" or name:find("[%c%s\"]") then
    fail("the name must be a string without blanks, got " .. problem.show(name))
  end
  fail = function(message) problem.raise(place, ('upstream "%s": %s'):format(name, message)) end
  if declared.upstreams[name] then
    fail(("the name is taken already, by %s; choose another"):format(declared.upstreams[name].place))
  end
  need_table(options, fail, "described by a table with peers in it")
  local read = schema.read(options, upstream_keys, fail)
  if not (read.peers or read.discover) then
    fail 'peers is needed: a list of addresses like { "10.0.0.1:8080" }; or discover'
  end
  local peers = read_peers(read.peers or {}, fail)
  local record = { name = name, place = place, peers = peers, attempt = read.attempt, options = read }
  local given = options.balance
  record.balancer = type(given) == "string" and given or given and "a function" or "round_robin"
  record.balance = read.balance
  if type(read.balance) == "table" then
    record.balance, record.response, record.log = read.balance.balance, read.balance.response, read.balance.log
  end
  record.http2 = read.protocol == "h2"
  record.retry = type(read.retry) == "function" and read.retry or nil

  local spec = upstream_spec(record, read, fail)
  local checks = health.read(spec, read, fail)
  record.pointer = C.mg_declare_upstream(state.generation, spec)
  if record.pointer == nil then fail(core.refusal()) end
  local metas = {}
  local nameless = read.tls == true or read.tls and not read.tls.sni and read.tls.verify ~= false
  for i, p in ipairs(record.peers) do
    if nameless and p.address:sub(1, 5) == "unix:" then
      fail(("peer %d: a unix socket has no name that its certificate could be of; give tls = { sni = ... }"):format(i))
    end
    if C.mg_declare_peer(record.pointer, p.address, #p.address, p.weight, p.zone, #p.zone) == nil then
      fail(("peer %d: %s"):format(i, (core.refusal():gsub('^peer (".-"):', "%1"))))
    end
    metas[i] = p.meta
  end
  record.object = require("moongate.peer").upstream_new(name, record.pointer, metas)
  if checks then probe.check(record, checks, fail) end
  if read.discover then discover.begin(record, read, fail) end
  if spec.eject.on or spec.breaker.on then probe.judge(record, spec, fail) end
  table.insert(declared.upstreams, record)
  declared.upstreams[name], declared.upstreams[record.object] = record, record
  state.upstreams[name] = record.object
  return record.object
end

-- ---- gate.route and gate.use ----

local function is_list(value)
  return type(value) == "table" and value[1] ~= nil
end

local function read_policies(list, fail)
  local policies, n = {}, 0
  for key in pairs(list) do
    if type(key) ~= "number" then
      fail(("policies must be a list like { auth, limit }, but has the key %s"):format(problem.show(key)))
    end
    n = math.max(n, key)
  end
  for i = 1, n do
    policies[i] = policy.make(list[i], function(message) fail(("policy %d: %s"):format(i, message)) end)
  end
  return policies
end

local function check_methods(methods, fail)
  for _, method in ipairs(methods or {}) do
    if method:find("[^%w!#$%%&'*+%-.^_`|~]") then
      fail("methods: not a method: " .. problem.show(method))
    elseif method:find("%l") and not method:find("%u") then
      fail(('methods: "%s" must be written "%s", since methods are case-sensitive'):format(method, method:upper()))
    end
  end
end

--- Where requests that match a pattern go.
---@param options table { pattern, methods =, policies =, upstream = | handler =, name =, limits... }
function declare.route(options)
  local place, fail = begin "gate.route"
  need_table(options, fail, "a table that begins with a pattern")
  if type(options[1]) == "string" then
    fail = function(message) problem.raise(place, ('route "%s": %s'):format(options[1], message)) end
  end
  if options.tcp ~= nil then fail 'a TCP route is a listener\'s: gate.listen { ":5432", tcp = upstream }' end
  local read = schema.read(options, route_keys, fail)
  if read.upstream and read.handler then fail("it has an upstream and a handler; a route ends at one of them") end
  if not read.upstream and not read.handler then fail("it ends nowhere; give it an upstream or a handler") end
  check_methods(read.methods, fail)

  local record = {
    pattern = read[1], methods = read.methods or {}, name = read.name, attempts = read.attempts or 0,
    policies = read_policies(read.policies or {}, fail), upstream = read.upstream, handler = read.handler,
    limits = {}, place = place,
  }
  for key in pairs(limits) do record.limits[key] = read[key] end
  if read.mirror then
    local chooser
    record.mirror, chooser = mirror.read(read.mirror, fail)
    if chooser then table.insert(record.policies, policy.make(chooser, fail)) end
  end
  if read.message then
    if read.handler then fail("message is for WebSockets to an upstream; with a handler there is none") end
    table.insert(record.policies, policy.make({ message = read.message }, fail))
  end
  for i, p in ipairs(record.policies) do
    policy.check_for_route(p, function(message) fail(("policy %d: %s"):format(i, message)) end)
  end
  table.insert(declared.routes, record)
end

--- Policies for every exchange, before the routes' own.
---@param ... table|function policies, or one list of them
function declare.use(...)
  local _, fail = begin "gate.use"
  local given = { ... }
  if select("#", ...) == 1 and is_list(given[1]) then given = given[1] end
  if next(given) == nil then fail("a policy is needed: a table of hooks, or a function(req, next)") end
  for _, p in ipairs(read_policies(given, fail)) do table.insert(declared.uses, p) end
end

-- ---- gate.options ----

local kinds = {
  number = schema.number, seconds = schema.seconds, size = schema.size, count = schema.count, string = schema.text,
  boolean = schema.flag, table = schema.table, ["function"] = schema.func, strings = schema.words,
  balancer = function(rest)
    local default = rest.default and assert(balance.find_inner(rest.default))
    return schema.any("a balancer", balance.find_inner, { default = default, needed = rest.needed })
  end,
  any = function(rest)
    return schema.any(rest.expect or "given", rest.read or function(value) return value end, rest)
  end,
}

--- Check the options of a policy: its user's mistakes are reported at its user's line.
---
---   local options = gate.options("limit.rate", given, {
---     rate = { "number", above = 0, needed = true }, burst = { "count", default = 10 } })
---@param name string the policy's, for messages
---@param given table?
---@param shape table<string, table> a kind a key: { kind, default =, needed =, min =, max =, above =, read = }
---@return table options checked, with defaults; sizes as bytes
function declare.options(name, given, shape)
  local place = problem.place(true)
  local function fail(message) problem.raise(place, name .. ": " .. message) end
  if given == nil then given = {} end
  need_table(given, fail, "called with a table of options")
  local read_shape = {}
  for key, rest in pairs(shape) do
    local make = kinds[rest[1]]
    if make then
      read_shape[key] = make(rest)
    elseif type(rest[1]) == "table" then
      read_shape[key] = schema.choice(rest[1], rest)
    else
      error(("gate.options: %s: no such kind: %s"):format(tostring(key), problem.show(rest[1])), 2)
    end
  end
  return schema.read(given, read_shape, fail)
end

return declare

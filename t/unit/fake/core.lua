-- A core made of Lua tables, under which the runtime runs in plain luajit.
--
--   local core = require "fake.core"       before any module of lua/
--   local x = core.exchange { path = "/a" }        x.view, x.fields.request, ...
--   core.enter(x, "ACCESS")                        1: still at work
--   core.wake(ticket, code)
local ffi = require "ffi"

local function read_file(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

ffi.cdef((("\n" .. read_file "include/slice.h" .. read_file "include/seam.h"):gsub("\n#[^\n]*", "")))

local core = { calls = {}, log = {}, tickets = 0, kept = {} }
local fake = {}
package.loaded["moongate.seam"] = setmetatable(fake, { __index = function(_, key) return ffi.C[key] end })
core.C = package.loaded["moongate.seam"]

local function say(...) core.calls[#core.calls + 1] = table.concat({ ... }, " ") end

local function keep(s)
  core.kept[#core.kept + 1] = s
  return s
end

local function put(slice, s)
  slice.ptr, slice.len = keep(s), #s
end

function core.ticket()
  core.tickets = core.tickets + 1
  return core.tickets
end

-- ---- Heads: a pointer's number is the key of a list of { name, value }. ----

local heads = {}

local function head(fields)
  heads[#heads + 1] = fields or {}
  return ffi.cast("mg_message *", #heads)
end

local function fields_of(m) return heads[tonumber(ffi.cast("intptr_t", m))] end
core.fields_of = fields_of

function core.field(m, name)
  local found = {}
  for _, f in ipairs(fields_of(m)) do
    if f[1]:lower() == name:lower() then found[#found + 1] = f[2] end
  end
  return found[1] and table.concat(found, ", ")
end

function fake.mg_field_get(m, name, len, out)
  local value = core.field(m, ffi.string(name, len))
  if not value then return -1 end
  put(out, value)
  return 0
end
function fake.mg_bearer(ptr, len, out)
  local token = ffi.string(ptr, len):match "^[Bb]earer +([%w%-._~+/]+=*)$"
  if not token then return -1 end
  put(out, token)
  return 0
end
function fake.mg_field_remove(m, name, len)
  name = ffi.string(name, len):lower()
  local list, n = fields_of(m), 0
  for i = #list, 1, -1 do
    if list[i][1]:lower() == name then table.remove(list, i); n = n + 1 end
  end
  return n
end
function fake.mg_field_add(m, name, nlen, value, vlen)
  name, value = ffi.string(name, nlen), ffi.string(value, vlen)
  if name:find "[^%w-]" or value:find "[%c]" then return -5 end
  table.insert(fields_of(m), { name, value })
  return 0
end
function fake.mg_field_set(m, name, nlen, value, vlen)
  fake.mg_field_remove(m, name, nlen)
  return fake.mg_field_add(m, name, nlen, value, vlen)
end
function fake.mg_field_at(m, i, name, value)
  local f = fields_of(m)[i + 1]
  if not f then return -1 end
  put(name, f[1])
  put(value, f[2])
  return 0
end

-- ---- Exchanges. ----

local by_slot = {}
local function of(view) return by_slot[tonumber(view.slot)] end

function core.exchange(given)
  given = given or {}
  local view = ffi.new "mg_view"
  local x = { view = view, written = {}, body = given.body, task = ffi.new "int[1]" }
  view.slot, view.route = given.slot or 0, given.route or 0
  view.task = ffi.cast("mg_task *", x.task)
  for key, default in pairs { method = "GET", scheme = "http", host = "h.example", raw_path = "/", path = "/" } do
    put(view[key], given[key] or default)
  end
  if given.query then put(view.query, given.query) end
  put(view.client_ip, "10.1.2.3")
  view.client_port, view.version = 4711, 11
  view.request = head(given.fields)
  view.upstream = ffi.cast("mg_upstream *", given.upstream or 0)
  by_slot[tonumber(view.slot)] = x
  return x
end

function core.respond(x, status, fields)
  x.view.response, x.view.status, x.view.from_peer = head(fields), status, 1
end

function fake.mg_view_id(_, to) ffi.copy(to, "0123456789abcdef", 16) end
function fake.mg_view_set(view, part, ptr, len)
  local keys = { [0] = "method", "host", "path", "raw_path", "query" }
  put(view[keys[part]], ffi.string(ptr, len))
  return 0
end
function fake.mg_view_set_status(view, status)
  view.status = status
  return 0
end
function fake.mg_view_set_upstream(view, u)
  view.upstream = u
  return 0
end
function fake.mg_view_want() return 0 end
function fake.mg_answer(view, status)
  if view.head_sent ~= 0 then return -2 end
  local x = of(view)
  x.written, x.producing = {}, false
  view.response, view.status, view.from_peer = head(), status, 0
  return 0
end
function fake.mg_answer_write(view, ptr, len)
  table.insert(of(view).written, ffi.string(ptr, len))
  return 0
end
function fake.mg_answer_produce(view)
  of(view).producing = true
  return 0
end
function fake.mg_answer_end(view)
  of(view).whole = true
  return 0
end
function fake.mg_phase_done(view, phase)
  of(view).done = phase
end
function fake.mg_phase_failed(view, phase)
  of(view).failed = phase
end
function fake.mg_forward(view)
  if view.upstream == nil then return -12 end
  of(view).forwards = (of(view).forwards or 0) + 1
  return core.ticket()
end
function fake.mg_body_piece(view, _, out)
  local piece = of(view).piece
  if not piece then return -1 end
  put(out, piece)
  return 0
end
function fake.mg_body_replace(view, _, ptr, len)
  of(view).replaced = ffi.string(ptr, len)
  return 0
end
function fake.mg_body_collect(view, _, most)
  return #(of(view).body or "") > most and -3 or 0
end
function fake.mg_body_text(view, _, out)
  put(out, of(view).body or "")
  return 0
end

-- ---- Peers: an upstream's pointer is its number, a peer's 100 * that + its own. ----

core.upstreams = {}
local function peer_of(p)
  local n = tonumber(ffi.cast("intptr_t", p))
  return core.upstreams[math.floor(n / 100)][n % 100]
end
local function upstream_of(u) return core.upstreams[tonumber(ffi.cast("intptr_t", u))] end

function core.upstream(addresses)
  local list = { version = 1 }
  core.upstreams[#core.upstreams + 1] = list
  for i, address in ipairs(addresses) do list[i] = { address = address, healthy = 1, tried = false } end
  return ffi.cast("mg_upstream *", #core.upstreams)
end
function fake.mg_upstream_follow() end
function fake.mg_upstream_forget_found() end
function fake.mg_upstream_count(u) return #upstream_of(u) end
function fake.mg_upstream_peer(u, i) return ffi.cast("mg_peer *", tonumber(ffi.cast("intptr_t", u)) * 100 + i + 1) end
function fake.mg_upstream_version(u) return upstream_of(u).version end
function fake.mg_upstream_panics(u)
  for _, p in ipairs(upstream_of(u)) do
    if p.healthy ~= 0 then return false end
  end
  return true
end
function fake.mg_peer_about(p, address, zone, weight)
  put(address, peer_of(p).address)
  zone.len = 0
  weight[0] = 1
end
function fake.mg_peer_look(p) return { healthy = peer_of(p).healthy, draining = 0, latency = 0.5, failures = 0 } end
function fake.mg_peer_active() return 3 end
function fake.mg_peer_twin() return 0 end
function fake.mg_peer_tier() return 1 end
function fake.mg_hash(ptr, len, seed) return (len * 0.37 + seed * 0.11 + (len > 0 and ptr[len - 1] or 0) * 0.07) % 1 end
function fake.mg_crypto_random() return 0 end
function fake.mg_peer_eligible(_, p) return peer_of(p).healthy == 1 and not peer_of(p).tried end
function fake.mg_balance_pick(view, p)
  of(view).picked = peer_of(p).address
  return 0
end
function fake.mg_retry_verdict(view, again) of(view).verdict = again end

-- ---- Waiting, logging, time. ----

function fake.mg_sleep(_, seconds)
  say("sleep", tostring(seconds))
  return core.ticket()
end
function fake.mg_ticket_cancel(_, ticket) say("cancel", tostring(ticket)) end
local tasks = {}
function fake.mg_task_open()
  local t = ffi.new "int[1]"
  tasks[#tasks + 1] = t
  core.tasks = (core.tasks or 0) + 1
  return ffi.cast("mg_task *", t)
end
function fake.mg_task_close() core.tasks = core.tasks - 1 end
function fake.mg_generation_ready(_, code) core.ready = code end
function fake.mg_generation_fault(_, ptr, len) core.fault = ffi.string(ptr, len) end
local counts = { fibers = 0, requests = 0, settled = 0, hook = 0, tripped = 0, out = 0 }
core.counts = counts
function fake.mg_lua_count() return counts end
local hook_count = 0
function fake.mg_declare_hook()
  hook_count = hook_count + 1
  return hook_count
end
function fake.mg_generation_watch() core.watched = true end
function fake.mg_declare_policy() return 1 end
function fake.mg_policy_is_out() return false end
function fake.mg_log_wants() return true end
function fake.mg_metric_declare() return 0 end
function fake.mg_metric_series() return ffi.new "double[80]" end
function fake.mg_metric_add(cell, n) cell[0] = cell[0] + n end
function fake.mg_log_line(_, ptr, len) table.insert(core.log, ffi.string(ptr, len)) end
function fake.mg_now() return 100 end
function fake.mg_now_exactly() return 100 end
function fake.mg_time() return 1.5e9 end

-- ---- Entering, as vm.c does. ----

local resume = coroutine.resume       -- before moongate.coroutine puts its own in this one's place
local step, works
function core.start()
  step, works = require "moongate.step", require "moongate.works"
  core.step = step
end

-- Only C can call another function in a coroutine that has ended; here the fiber gets a new one.
local function ready_coroutine()
  if coroutine.status(works[0]) == "dead" then
    local f = require "moongate.fiber".current()
    f.co = coroutine.create(function(work, ...) return work(...) end)
    works[0] = f.co
  end
  return works[0]
end

function core.enter(x, phase)
  x.failed, x.done = nil, nil
  local slot, number = tonumber(x.view.slot), core.C["MG_PHASE_" .. phase]
  local work = works[works.key(x.view.route, number)] or works.first
  local co = ready_coroutine()
  local ok, word = resume(co, work, slot, tonumber(ffi.cast("uintptr_t", ffi.cast("void *", x.view))), number)
  if not ok then return step(core.C.MG_EVENT_THREW, slot, number, word) end
  if coroutine.status(co) == "suspended" then return step(core.C.MG_EVENT_WAITS, slot, number) end
  return step(core.C.MG_EVENT_SETTLE, 0)
end
function core.wake(ticket, code) return step(core.C.MG_EVENT_WAKE, ticket, code or 0) end
function core.finish(x)
  if works[-1](tonumber(x.view.slot)) == 1 then return step(core.C.MG_EVENT_SETTLE, 0) end
  return 0
end
function core.gone(x) return step(core.C.MG_EVENT_GONE, tonumber(x.view.slot), 0) end

--- A route whose hooks are { ACCESS = { fn, ... }, ... }.
function core.route(number, hooks, more)
  local state = require "moongate.state"
  local route = more or {}
  route.pattern, route.params, route.hooks = route.pattern or "/x", route.params or {}, {}
  route.max_text_size = route.max_text_size or 100
  for phase, list in pairs(hooks) do
    local entries = {}
    for i, fn in ipairs(list) do entries[i] = require "moongate.hook".new(phase:lower(), fn, "policy " .. i) end
    route.hooks[core.C["MG_PHASE_" .. phase]] = entries
  end
  if route.handler then
    route.handler_entry = require "moongate.hook".new("handler", route.handler, "the route's handler", true)
  end
  state.routes[number] = route
  for key in pairs(works) do
    if type(key) == "number" and key > 0 then works[key] = nil end
  end
end

--- Runs what a test shows, and says so.
function core.shows(sentence, fn)
  core.calls, core.log, core.tickets = {}, {}, 0
  fn()
  assert(counts.fibers == 0, sentence .. ": fibers are left: " .. counts.fibers)
  print("ok " .. sentence)
end

return core

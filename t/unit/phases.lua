-- The phases, the onion and waiting, under plain luajit.
local core = require "fake.core"
local C = core.C
core.start()
local gate = require "moongate"
local fiber = require "moongate.fiber"
local hook = require "moongate.hook"
local state = require "moongate.state"
local peer = require "moongate.peer"

local shows, exchange, enter, wake = core.shows, core.exchange, core.enter, core.wake

local function equal(got, expected)
  if got ~= expected then error(("got %s, expected %s"):format(tostring(got), tostring(expected)), 2) end
end

local function body(x) return table.concat(x.written) end

shows("a hook reads the request and writes its headers", function()
  local seen
  core.route(0, { ACCESS = { function(req)
    seen = table.concat({ req.method, req.host, req.path, req.headers["X-A"], req.args.q, req.client.ip, req.version,
      req.id, req.cookies.c, req:bearer() }, "|")
    req.headers["x-b"] = "set"
    req.headers["x-list"] = { "1", "2" }
    req.headers["x-a"] = nil
  end } })
  local x = exchange { query = "q=a%20b+c&q2", fields = { { "X-a", "1" }, { "x-A", "2" }, { "cookie", "b=1; c=two" },
    { "Authorization", "bearer abc.d=" } } }
  equal(enter(x, "ACCESS"), 0)
  equal(seen, "GET|h.example|/|1, 2|a b c|10.1.2.3|1.1|0123456789abcdef|two|abc.d=")
  equal(core.field(x.view.request, "x-b"), "set")
  equal(core.field(x.view.request, "x-list"), "1, 2")
  equal(core.field(x.view.request, "x-a"), nil)
  equal(x.view.response == nil, true)
  core.finish(x)
end)

shows("a status, a body and headers answer, and later hooks do not run", function()
  local later
  core.route(0, { ACCESS = {
    function() return 401, "no\n", { ["www-authenticate"] = "Bearer" } end, function() later = true end } })
  local x = exchange()
  equal(enter(x, "ACCESS"), 0)
  equal(x.view.status, 401)
  equal(body(x), "no\n")
  equal(core.field(x.view.response, "content-type"), "text/plain; charset=utf-8")
  equal(core.field(x.view.response, "www-authenticate"), "Bearer")
  equal(later, nil)
  core.finish(x)
end)

shows("a table is answered as JSON, a function piece by piece", function()
  core.route(0, { ACCESS = { function() return 200, { a = 1 } end } })
  local x = exchange()
  enter(x, "ACCESS")
  equal(body(x), '{"a":1}')
  equal(core.field(x.view.response, "content-type"), "application/json")
  core.finish(x)

  core.route(0, { ACCESS = { function()
    local n = 0
    return 200, function()
      n = n + 1
      gate.sleep(1)
      if n < 3 then return "piece" .. n end
    end
  end } })
  x = exchange()
  enter(x, "ACCESS")
  equal(x.producing, true)
  core.tickets = 0
  equal(enter(x, "PRODUCE"), 1)
  for ticket = 1, 3 do wake(ticket) end
  equal(body(x), "piece1piece2")
  equal(x.whole, true)
  equal(x.done, C.MG_PHASE_PRODUCE)
  core.finish(x)
end)

shows("a hook that waits is gone on with when its ticket is answered", function()
  local at
  core.route(0, { ACCESS = { function() at = 1; gate.sleep(2); at = 2; gate.sleep(3); at = 3 end } })
  local x = exchange()
  equal(enter(x, "ACCESS"), 1)
  equal(at, 1)
  equal(core.counts.fibers, 1)
  wake(1)
  equal(at, 2)
  equal(x.done, nil)
  wake(2)
  equal(at, 3)
  equal(x.done, C.MG_PHASE_ACCESS)
  core.finish(x)
end)

shows("an error fails the phase and is logged with file, line, policy and id", function()
  core.route(0, { ACCESS = { function(req) return req.nothing end } })
  local x = exchange()
  equal(enter(x, "ACCESS"), 0)
  equal(x.failed, C.MG_PHASE_ACCESS)
  assert(core.log[1]:find("[0123456789abcdef] access of policy policy 1: ", 1, true), core.log[1])
  assert(core.log[1]:find "phases.lua:%d+: a request has no 'nothing'", core.log[1])
  core.finish(x)
end)

shows("an error after a wait fails the phase too, and ends it", function()
  core.route(0, { LOG = { function() gate.sleep(1); error "late" end } })
  local x = exchange()
  equal(enter(x, "LOG"), 1)
  wake(1)
  equal(x.failed, C.MG_PHASE_LOG)
  equal(x.done, C.MG_PHASE_LOG)
  core.finish(x)
end)

shows("a wrong return type names the hook", function()
  core.route(0, { ACCESS = { function() return true end } })
  local x = exchange()
  enter(x, "ACCESS")
  assert(core.log[1]:find("access of policy policy 1 returned a boolean; return a status", 1, true), core.log[1])
  core.finish(x)
end)

shows("a kept request, its headers and response say that they are over", function()
  local req, h, res
  core.route(0, { RESPONSE = { function(a, b) req, h, res = a, a.headers, b end } })
  local x = exchange()
  core.respond(x, 200)
  enter(x, "RESPONSE")
  core.finish(x)
  local function says(fn) return select(2, pcall(fn)) end
  assert(says(function() return req.path end):find "this request is over")
  assert(says(function() return h["x-a"] end):find "are over")
  assert(says(function() return res.status end):find "is over")
  equal(core.counts.requests, 0)
end)

shows("the onion forwards, runs the response hooks inside, and returns outwards", function()
  local order = {}
  local function note(s) order[#order + 1] = s end
  core.route(0, {
    HANDLE = { function(req, next) note "a"; local res = next(req); note("A" .. res.status); return res end,
      function(req, next) note "b"; local res = next(req); res.headers["x-b"] = "1"; note "B" end },
    RESPONSE = { function(_, res) note("r" .. res.headers["x-o"]) end },
  })
  local x = exchange { upstream = 1 }
  equal(enter(x, "HANDLE"), 1)
  core.respond(x, 204, { { "x-o", "!" } })
  wake(1)
  equal(table.concat(order, " "), "a b r! B A204")
  equal(core.field(x.view.response, "x-b"), "1")
  equal(x.done, C.MG_PHASE_HANDLE)
  core.finish(x)
end)

shows("a handle that returns nothing goes on; one that answers is heard by those outside", function()
  local outer
  core.route(0, { HANDLE = { function(req, next) outer = next(req); return outer end, function() end,
    function() return 418, "tea" end } })
  local x = exchange { upstream = 1 }
  equal(enter(x, "HANDLE"), 0)
  equal(x.view.status, 418)
  equal(body(x), "tea")
  core.finish(x)
end)

shows("a handler answers, returns an upstream, or forwards and changes the response", function()
  core.route(0, { RESPONSE = { function(_, res) res.headers["x-r"] = "1" end } },
    { handler = function(req) return 200, "hello " .. req.args.name end })
  local x = exchange { query = "name=you" }
  equal(enter(x, "HANDLE"), 0)
  equal(body(x), "hello you")
  equal(core.field(x.view.response, "x-r"), "1")
  core.finish(x)

  local u = peer.upstream_new("u", core.upstream { "a:1", "b:2" }, {})
  core.route(0, {}, { handler = function() return u end })
  x = exchange()
  equal(enter(x, "HANDLE"), 1)
  equal(x.forwards, 1)
  core.respond(x, 200)
  wake(1)
  equal(x.done, C.MG_PHASE_HANDLE)
  core.finish(x)

  core.route(0, {}, { handler = function(req) local res = req:forward(u); res.status = 202; return res end })
  x = exchange()
  core.tickets = 0
  equal(enter(x, "HANDLE"), 1)
  core.respond(x, 200)
  wake(1)
  equal(x.view.status, 202)
  core.finish(x)
end)

shows("balance picks one of the candidates, and a retry sees those that were not tried", function()
  local pointer = core.upstream { "a:1", "b:2", "c:3" }
  local u = peer.upstream_new("v", pointer, { nil, { rack = 7 } })
  local lists = {}
  core.route(0, { BALANCE = { function(_, peers) lists[#lists + 1] = peers; return peers[#peers] end } })
  local number = tonumber(require("ffi").cast("intptr_t", pointer))
  local x = exchange { upstream = number }
  enter(x, "BALANCE")
  equal(x.picked, "c:3")
  enter(x, "BALANCE")
  equal(lists[1], lists[2])
  core.upstreams[number][3].tried = true
  x.view.tries = 1
  enter(x, "BALANCE")
  equal(x.picked, "b:2")
  equal(u.peers[2].meta.rack, 7)
  equal(lists[3][2], u.peers[2])
  core.finish(x)
end)

shows("attempt writes to this try's copy, and the request is itself again afterwards", function()
  core.route(0, { ATTEMPT = { function(req, p) req.headers["x-to"] = p.address end },
    LOG = { function(req) assert(req.headers["x-to"] == nil) end } })
  core.upstream { "p:1" }
  local x = exchange()
  x.view.attempt = exchange({ slot = 9 }).view.request
  x.view.peer = require("ffi").cast("mg_peer *", #core.upstreams * 100 + 1)
  enter(x, "ATTEMPT")
  equal(core.field(x.view.attempt, "x-to"), "p:1")
  enter(x, "LOG")
  equal(x.failed, nil)
  core.finish(x)
end)

shows("body hooks replace, drop and keep pieces, and add at the end", function()
  core.route(0, { RESPONSE_BODY = { function(_, _, chunk) return chunk and chunk:upper() or "!" end,
    function(_, _, chunk) if chunk == "DROP" then return "" end end } })
  local x = exchange()
  core.respond(x, 200)
  local function through(piece)
    x.piece, x.replaced = piece, nil
    enter(x, "RESPONSE_BODY")
    return x.replaced
  end
  equal(through "abc", "ABC")
  equal(through "ABC", nil)
  equal(through "drop", "")
  equal(through(nil), "!")
  core.finish(x)
end)

shows("res:replace sees across chunk borders and mends the head", function()
  core.route(0, { RESPONSE = { function(_, res)
    res:replace("moon", "sun"):map(function(c) return c and c .. "." end)
  end } })
  local x = exchange()
  core.respond(x, 200, { { "content-length", "9" }, { "etag", '"a"' } })
  enter(x, "RESPONSE")
  equal(core.field(x.view.response, "content-length"), nil)
  equal(core.field(x.view.response, "etag"), 'W/"a"')
  local out = ""
  for _, piece in ipairs { "a mo", "on b moo", "n mo", false } do
    x.piece, x.replaced = piece or nil, nil
    enter(x, "RESPONSE_BODY")
    out = out .. (x.replaced or piece or "")
  end
  equal((out:gsub("%.", "")), "a sun b sun mo")
  core.finish(x)
end)

shows("text and json are bounded", function()
  local got
  core.route(0, { ACCESS = { function(req) got = { req:json() } end } }, { max_text_size = 8 })
  local x = exchange { body = '{"a":2}' }
  enter(x, "ACCESS")
  equal(got[1].a, 2)
  x.body = '{"a":"too long"}'
  enter(x, "ACCESS")
  equal(got[2], "the body is longer than max_text_size (8)")
  core.finish(x)
end)

shows("a client that leaves is an error that pcall can catch, and further waits fail at once", function()
  local first, second
  core.route(0, { ACCESS = { function()
    first = select(2, pcall(gate.sleep, 1))
    second = select(2, pcall(gate.sleep, 1))
  end } })
  local x = exchange()
  equal(enter(x, "ACCESS"), 1)
  x.view.gone = 1
  wake(1, C.MG_GONE)
  equal(first, fiber.gone)
  equal(second, fiber.gone)
  equal(#core.log, 0)
  equal(x.failed, nil)
  core.finish(x)
end)

shows("what an exchange spawned ends with it", function()
  local told
  core.route(0, { ACCESS = { function() gate.spawn(function() told = select(2, pcall(gate.sleep, 9)) end) end } })
  local x = exchange()
  equal(enter(x, "ACCESS"), 0)
  equal(core.counts.fibers, 1)
  core.finish(x)
  equal(told, fiber.gone)
end)

shows("gate.all waits for all, and an error in one cancels the rest", function()
  local got, other
  core.route(0, { ACCESS = { function()
    got = gate.all(function() gate.sleep(1); return "a" end, function() return "b" end)
    gate.all(function() other = select(2, pcall(gate.sleep, 9)) end, function() gate.sleep(1); error("bad", 0) end)
  end } })
  local x = exchange()
  equal(enter(x, "ACCESS"), 1)
  wake(1)
  equal(table.concat(got), "ab")
  wake(3)
  equal(other, fiber.gone)
  equal(x.failed, C.MG_PHASE_ACCESS)
  core.finish(x)
end)

shows("gate.any gives the first success, gate.timeout gives up in time", function()
  local any, fine, late
  core.route(0, { ACCESS = { function()
    any = { gate.any(function() gate.sleep(5); return "slow" end, function() return nil, "no" end,
      function() gate.sleep(1); return "fast", 2 end) }
    fine = { gate.timeout(1, function() return 1, nil, 3 end) }
    late = { gate.timeout(1, function() gate.sleep(9); return 1 end) }
  end } })
  local x = exchange()
  equal(enter(x, "ACCESS"), 1)
  wake(2)
  equal(any[1] .. any[2], "fast2")
  equal(fine[1] + fine[3], 4)
  wake(4)
  equal(late[2], "timeout")
  equal(x.done, C.MG_PHASE_ACCESS)
  core.finish(x)
end)

shows("a user's own coroutines may wait, and yield to their own resume", function()
  local got = {}
  core.route(0, { ACCESS = { function()
    local co = coroutine.wrap(function(a)
      gate.sleep(1)
      local b = coroutine.yield(a + 1)
      gate.sleep(1)
      return b + 1
    end)
    got[1] = co(1)
    got[2] = co(10)
    got[3] = select(2, pcall(coroutine.yield, 1))
  end } })
  local x = exchange()
  equal(enter(x, "ACCESS"), 1)
  wake(1)
  equal(got[1], 2)
  wake(2)
  equal(got[2], 11)
  assert(got[3]:find "outside of a coroutine")
  core.finish(x)
end)

shows("timers begin with START, go on after errors, and stop", function()
  local n, t = 0, nil
  t = gate.every(1, function() n = n + 1; if n == 1 then error "once" end; if n == 3 then t:stop() end end)
  equal(#core.calls, 0)
  core.step(C.MG_EVENT_START, 0)
  for ticket = 1, 3 do wake(ticket) end
  equal(n, 3)
  equal(core.tasks, 0)
  assert(core.log[1]:find "gate.every: .*phases.lua:%d+: once")
end)

shows("init hooks may wait; one that throws refuses the generation", function()
  state.init[1] = hook.new("init", function() gate.sleep(1) end, "a")
  equal(core.step(C.MG_EVENT_INIT, 0), 1)
  wake(1)
  equal(core.ready, 0)
  state.init[1] = hook.new("init", function() error "no" end, "b")
  equal(core.step(C.MG_EVENT_INIT, 0), -1)
  assert(core.fault:find "init of policy b: ")
  equal(core.tasks, 0)
end)

shows("runs are timed only when a script loads code that nobody here knows", function()
  assert(gate.json.encode {})
  equal(core.watched, nil)
  require("ffi").cdef "int a_function_of_the_users(void);"
  equal(core.watched, true)
end)

shows("pairs walks a request's headers", function()
  local got = {}
  core.route(0, { ACCESS = { function(req) for k, v in pairs(req.headers) do got[#got + 1] = k .. "=" .. v end end } })
  local x = exchange { fields = { { "A", "1" }, { "b", "2" } } }
  enter(x, "ACCESS")
  equal(table.concat(got, ","), "A=1,b=2")
  core.finish(x)
end)

shows("error hooks hear the status and may answer", function()
  core.route(-1, { ERROR = { function(_, err) return err.status, { reason = err.reason } end } })
  local x = exchange { route = -1 }
  x.view.status, x.view.failure_text.ptr, x.view.failure_text.len = 404, "no route", 8
  enter(x, "ERROR")
  equal(x.view.status, 404)
  equal(body(x), '{"reason":"no route"}')
  core.finish(x)
end)

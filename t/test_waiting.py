"""What waits without blocking the worker: all, any, timeout, spawn, connect, resolve, timers, and a user's own coroutines."""
import json
import socket
import threading

import pytest

from client import request
from moongate import wait_until


class LineServer:
    """Speaks lines on TCP or a unix socket: ECHO x, SLOW (never answers), CLOSE, PART (a line without its end), BYTES n."""

    def __init__(self, path=None):
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(str(path) if path else ("127.0.0.1", 0))
        self.listener.listen(64)
        self.host = f"unix:{path}" if path else "127.0.0.1"
        self.port = 0 if path else self.listener.getsockname()[1]
        self.accepted, self.ended, self.sockets = 0, 0, []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def lua(self):
        return f'"{self.host}"' + (f", {self.port}" if self.port else "")

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            for line in sock.makefile("rb"):
                word, _, rest = line.rstrip(b"\n").partition(b" ")
                if word == b"ECHO":
                    sock.sendall(rest + b"\r\n")
                elif word == b"BYTES":
                    sock.sendall(b"x" * int(rest))
                elif word == b"PART":
                    sock.sendall(rest)
                    sock.shutdown(socket.SHUT_RDWR)
                elif word == b"CLOSE":
                    sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.ended += 1
        sock.close()

    def close(self):
        self.listener.close()
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


@pytest.fixture
def lines(moongate, tmp_path):
    """lines(): a line server. It has gone before the gateway is asked what it has open."""
    made = []

    def start(path=None):
        made.append(LineServer(path and tmp_path / path))
        return made[-1]
    yield start
    for server in made:
        server.close()


@pytest.fixture
def ask(moongate):
    """ask(text): what a handler with this text answers, as JSON."""
    def start(text, before="", **options):
        gate = ask.gate = moongate(f"""{before}
            gate.route {{ "/*", handler = function(req) {text} end }}
        """, **options)
        reply = gate.get("/")
        assert reply.status == 200, (reply, gate.log())
        return json.loads(reply.body)
    return start


# ---- all, any, timeout, spawn

def test_all_runs_at_once_and_gives_the_results_in_their_order(ask):
    assert ask("""
        local n = 0
        local function one(value, seconds) return function() n = n + 1; gate.sleep(seconds); return value .. n end end
        return 200, gate.all(one("a", 0.03), one("b", 0.02), one("c", 0.01))""") == ["a3", "b3", "c3"]


def test_all_raises_an_error_of_one_and_cancels_the_others(ask):
    ok, why, cancelled = ask("""local cancelled
        local ok, why = pcall(gate.all,
            function() local ok = pcall(gate.sleep, 30); cancelled = not ok; error("late", 0) end,
            function() gate.sleep(0.005); error("first", 0) end)
        gate.sleep(0.001)
        return 200, { ok, why, cancelled }""")

    assert (ok, why, cancelled) == (False, "first", True)


def test_any_gives_the_first_success_and_cancels_the_others(ask):
    assert ask("""local ended = {}
        local value, more = gate.any(
            function() gate.sleep(0.001); return nil, "not I" end,
            function() gate.sleep(0.002); error "nor I" end,
            function() gate.sleep(0.01); return "winner", "more" end,
            function() local ok = pcall(gate.sleep, 30); ended[1] = not ok end)
        gate.sleep(0.001)
        return 200, { value, more, ended[1] }""") == ["winner", "more", True]


def test_any_without_a_success_gives_nil_and_the_last_reason(ask):
    assert ask("""local value, why = gate.any(function() return nil, "a" end, function() gate.sleep(0.002); return false, "b" end)
        return 200, { tostring(value), why }""") == ["nil", "b"]


@pytest.mark.parametrize("fn, expected", [
    ('gate.sleep(0.001); return "done", 2', ["done", 2]), ("gate.sleep(30)", ["nil", "timeout"]),
    ('while true do gate.sleep(0.001) end', ["nil", "timeout"]), ('return "at once", 1', ["at once", 1]),
], ids=["in-time", "too-late", "in-many-steps", "at-once"])
def test_timeout(ask, fn, expected):
    assert ask(f"""local a, b = gate.timeout(0.05, function() {fn} end)
        return 200, {{ a == nil and "nil" or a, b }}""") == expected


def test_timeouts_nest_and_errors_pass_through_them(ask):
    assert ask("""local ok, why = pcall(gate.timeout, 1, function()
            local a, b = gate.timeout(0.01, function() gate.sleep(30) end)
            error(b, 0)
        end)
        return 200, { ok, why }""") == [False, "timeout"]


def test_a_spawned_function_goes_on_beside_and_is_waited_for(ask):
    assert ask("""local order = {}
        local s = gate.spawn(function() gate.sleep(0.005); order[#order + 1] = "spawned"; return "a", "b" end)
        order[#order + 1] = "caller"
        local a, b = s:wait()
        local again = s:wait()
        return 200, { order[1], order[2], a, b, again }""") == ["caller", "spawned", "a", "b", "a"]


def test_an_error_of_a_spawned_function_is_raised_where_it_is_waited_for(ask):
    assert ask("""local s = gate.spawn(function() gate.sleep(0.001); error("spawned", 0) end)
        local ok, why = pcall(s.wait, s)
        return 200, { ok, why }""") == [False, "spawned"]


def test_a_spawned_fiber_is_cancelled_when_the_client_leaves(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        gate.spawn(function()
            gate.log.info("spawned")
            local ok, why = pcall(gate.sleep, 30)
            gate.log.info("spawned ended", why)
            error(why, 0)
        end)
        gate.sleep(30)
    end }""")
    client = gate.raw()
    client.send(request())
    gate.wait_log("spawned$")

    client.close()

    gate.wait_log("spawned ended cancelled")
    gate.wait_total("fibers", 0)


def test_a_spawned_fiber_is_cancelled_when_its_exchange_ends(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        gate.spawn(function()
            local ok, why = pcall(gate.sleep, 30)
            gate.log.info("spawned ended", why)
            error(why, 0)
        end)
        return 204
    end }""")

    assert gate.get("/").status == 204

    gate.wait_log("spawned ended cancelled")
    gate.wait_total("fibers", 0)


def test_one_that_goes_on_after_it_was_cancelled_waits_in_vain(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        gate.log.info("began")
        while true do pcall(gate.sleep, 0.01) end
    end }""")
    client = gate.raw()
    client.send(request())
    gate.wait_log("began")

    client.close()

    gate.wait_total("exchanges", 0)
    assert gate.get("/x").status == 404


# ---- Sockets and names

@pytest.mark.parametrize("path", [None, "lines.sock"], ids=["tcp", "unix"])
@pytest.mark.parametrize("deed, expected", [
    ('s:send("ECHO hello\\n"); return 200, { s:receive("line") }', ["hello"]),
    ('s:send { "ECHO ", "a,b", "\\n" }; return 200, { s:receive_until(","), s:receive("line") }', ["a", "b"]),
    ('s:send "BYTES 100000\\n"; local n = #s:receive(99999); return 200, { n, s:receive(1) }', [99999, "x"]),
    ('s:send "PART half\\n"; local a, b, c = s:receive "line"; return 200, { tostring(a), b, c }', ["nil", "closed", "half"]),
    ('s:send "PART all of it\\n"; return 200, { s:receive "all" }', ["all of it"]),
    ('s:timeout(0.02); s:send "SLOW\\n"; local a, b = s:receive "line"; return 200, { tostring(a), b }', ["nil", "timeout"]),
    ('s:close(); s:close(); local a, b = s:send "x"; local c, d = s:receive "line"; return 200, { b, d }', ["closed", "closed"]),
], ids=["line", "until", "bytes", "partial", "all", "timeout", "closed"])
def test_a_socket_speaks_a_protocol_of_lines(ask, lines, path, deed, expected):
    server = lines(path)

    assert ask(f"local s = assert(gate.connect({server.lua})); {deed}") == expected

    wait_until(lambda: server.ended == server.accepted == 1, what="the socket has gone with its exchange")


def test_a_refused_connection_is_nil_and_the_reason(ask, origin, tmp_path):
    host, port = origin.refuses().split(":")

    assert ask(f"""local a, why = gate.connect("{host}", {port})
        local b, none = gate.connect("unix:{tmp_path}/none")
        return 200, {{ tostring(a), why, tostring(b), none ~= nil }}""") == ["nil", "connection refused", "nil", True]


def test_a_kept_socket_is_used_again_by_later_exchanges(moongate, lines):
    server = lines()
    gate = moongate(f"""gate.route {{ "/", handler = function()
        local s = assert(gate.connect({server.lua}))
        s:send "ECHO x\\n"
        local line = s:receive "line"
        assert(s:keepalive(30))
        return 200, line .. tostring(s:send "more")
    end }}
        gate.route {{ "/drop", handler = function() gate.connect({server.lua}):close() return 204 end }}
    """)

    assert [gate.get("/").body for _ in range(10)] == [b"xnil"] * 10
    gate.get("/drop")
    assert server.accepted == 1


def test_a_kept_socket_that_the_server_has_closed_is_not_used_again(moongate, lines):
    server = lines()
    gate = moongate(f"""gate.route {{ "/", handler = function()
        local s = assert(gate.connect({server.lua}))
        s:send "ECHO x\\n"
        local line = s:receive "line"
        s:keepalive(30)
        return 200, line
    end }}
        gate.route {{ "/drop", handler = function() gate.connect({server.lua}):close() return 204 end }}
    """)
    assert gate.get("/").body == b"x"

    server.sockets[0].shutdown(socket.SHUT_RDWR)
    wait_until(lambda: server.ended == 1)

    assert gate.get("/").body == b"x"
    gate.get("/drop")
    assert server.accepted == 2


def test_resolve_knows_numbers_and_localhost_and_tells_what_does_not_resolve(ask):
    number, local = ask('return 200, { gate.resolve("127.0.0.1")[1], gate.resolve("localhost")[1] }')

    assert number == "127.0.0.1" and local in ("127.0.0.1", "::1")


# ---- Timers

def test_every_runs_again_and_again_until_it_is_stopped(moongate):
    gate = moongate("""
        local n = 0
        local timer
        timer = gate.every(0.005, function()
            n = n + 1
            gate.log.info("tick", n)
            if n == 3 then timer:stop() end
        end)
        gate.route { "/", handler = function() gate.sleep(0.05) return 200, tostring(n) end }
    """)

    gate.wait_log("tick 3")

    assert gate.get("/").body == b"3"


def test_an_error_in_a_timer_is_told_with_its_line_and_the_next_run_comes(moongate):
    gate = moongate("""
        local n, timer = 0, nil
        timer = gate.every(0.005, function()
            n = n + 1
            if n == 1 then error("once") end
            gate.log.info("tick", n)
            if n == 3 then timer:stop() end
        end)
        gate.route { "/", handler = function() return 204 end }
    """)
    gate.expect_error("gate.every")

    gate.wait_log(r"gate\.every: .*gateway\.lua:6: once")
    gate.wait_log("tick 3")


def test_after_runs_once_and_may_wait_and_be_stopped(moongate, origin):
    server = origin.answers(200, b"fetched")
    gate = moongate(f"""
        gate.after(0, function() gate.log.info("after got", gate.fetch("http://{server}/"):text()) end)
        gate.after(0.01, function() error("stopped in time") end):stop()
        gate.route {{ "/", handler = function()
            gate.after(0.001, function() gate.log.info("from a handler") end)
            return 204
        end }}
    """)

    gate.wait_log("after got fetched")
    gate.get("/")
    gate.wait_log("from a handler")

    assert server.seen == 1


# ---- Coroutines of the user's own

def test_a_users_own_coroutine_may_wait_inside(ask):
    assert ask("""local co = coroutine.wrap(function(a)
            for i = 1, 3 do gate.sleep(0.001); a = a + coroutine.yield(a * 10) end
            return "end"
        end)
        return 200, { co(1), co(1), co(1), co(1) }""") == [10, 20, 30, "end"]


def test_coroutines_of_two_exchanges_do_not_mix(moongate):
    gate = moongate("""gate.route { "/*", handler = function(req)
        local out = {}
        local co = coroutine.create(function()
            for i = 1, 5 do gate.sleep(0.002); coroutine.yield(req.path .. i) end
        end)
        for i = 1, 5 do local _, value = coroutine.resume(co); out[i] = value end
        return 200, table.concat(out)
    end }""")
    clients = [gate.raw() for _ in range(10)]
    for i, client in enumerate(clients):
        client.send(request("GET", f"/{i}"))

    for i, client in enumerate(clients):
        assert client.response().body == "".join(f"/{i}{n}" for n in range(1, 6)).encode()


# ---- What outlives its exchange

@pytest.mark.parametrize("use", ["kept.path", "kept.headers", "kept:text()", "kept.ctx", "headers.host", "kept.method"])
def test_a_req_that_was_kept_raises_when_its_request_is_over(moongate, use):
    gate = moongate(f"""
        local kept, headers
        gate.route {{ "/keep", handler = function(req) kept, headers = req, req.headers; return 204 end }}
        gate.route {{ "/use", handler = function() local _, why = pcall(function() return {use} end); return 200, tostring(why) end }}
    """)
    gate.get("/keep")
    gate.wait_total("exchanges", 0)

    assert b"over" in gate.get("/use").body


def test_while_one_waits_the_others_are_served(moongate):
    gate = moongate("""
        gate.route { "/slow", handler = function() gate.sleep(30) end }
        gate.route { "/fast", handler = function() return 200, "fast" end }
    """)
    slow = [gate.raw() for _ in range(20)]
    for client in slow:
        client.send(request("GET", "/slow"))
    gate.wait_total("exchanges", 20)

    assert [gate.get("/fast").body for _ in range(20)] == [b"fast"] * 20

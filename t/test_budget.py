"""A script that runs away, or eats all memory, ends its own exchange; the worker and everything else go on."""
import ssl
import threading

import pytest

from load import Load
from moongate import run
from test_reload import reload
from test_websocket import HANDSHAKE, TEXT, frame, read_frame
from wire import Cut

RUNAWAYS = {
    "a loop": "while true do end",
    "a loop that is never compiled": "local function spin() while true do end end; jit.off(spin); spin()",
    "a loop that catches its errors": "while true do pcall(function() while true do end end) end",
    "an error that is swallowed": "local function spin() while true do end end; jit.off(spin); pcall(spin)",
    "a pathological pattern": 'local s = ("a"):rep(40); s = s .. s; string.find(s, ("a-"):rep(30) .. "b")',
    "deep recursion": "local function deep(n) return 1 + deep(n + 1) end; deep(1)",
    "a string of 1 GiB": 'local s = ("x"):rep(2 ^ 30); return #s',
    "a hog of memory": "local t = {}; for i = 1, 1e9 do t[i] = { i, tostring(i) } end",
    "an error": 'error "thrown"',
}
DEEDS = "local deeds = {" + ", ".join(f'["{name}"] = function() {text} end' for name, text in RUNAWAYS.items()) + "}"
BY_FIELD = 'local deed = deeds[req.headers["x-deed"] or ""] if deed then deed() end'
# By a dictionary that outlives the VM: the next one does it, and only that.
BY_ORDER = 'local deed = orders:get "deed" if deed then orders:delete "deed" deeds[deed]() end'


class Stage:
    """A phase with a hook that runs away when it is told to, at /bad, and what becomes of that exchange."""

    def __init__(self, arguments, expected=(500,), method="GET", peers="app", use=False, order=BY_FIELD):
        self.arguments, self.expected, self.method = arguments, expected, method
        self.peers, self.use, self.order = peers, use, order


STAGES = {
    "connect": Stage("conn", ("cut",), use=True, order=BY_ORDER),
    "request": Stage("req", use=True),
    "access": Stage("req"),
    "handle": Stage("req, next"),
    "request_body": Stage("req, chunk", method="POST"),
    "balance": Stage("req, peers"),
    "attempt": Stage("req, peer"),
    "retry": Stage("req, failure", peers="dead"),
    "response": Stage("req, res"),
    "response_body": Stage("req, res, chunk", ("cut", 500)),
    "error": Stage("req, err", peers="dead"),
    "log": Stage("req, res", (200,)),
}


def staged(name, server, slow, dead):
    stage = STAGES[name]
    policy = f'{{ name = "staged", {name} = function({stage.arguments}) {stage.order} end }}'
    return f"""{DEEDS}
        local orders = gate.shared("orders", "64K")
        local app = gate.upstream("app", {{ peers = {{ "{server}" }} }})
        local slow = gate.upstream("slow", {{ peers = {{ "{slow}" }} }})
        local dead = gate.upstream("dead", {{ peers = {{ "{dead}" }} }})
        gate.set {{ cpu_budget = 0.05, memory_limit = "48M" }}
        {f"gate.use {policy}" if stage.use else ""}
        gate.route {{ "/bad", upstream = {stage.peers}, policies = {{ {"" if stage.use else policy} }} }}
        gate.route {{ "/slow", upstream = slow }}
        gate.route {{ "/good", upstream = app }}
        gate.route {{ "/order", handler = function(req) orders:set("deed", req.args.deed) return 204 end }}
    """


def cut_or_status(gate, *request):
    try:
        return gate.request(*request).status
    except (Cut, ConnectionError):
        return "cut"


@pytest.fixture
def slow(origin):
    """An origin that answers only when it is let go, with `release`."""
    release = threading.Event()

    def wait_for_release(connection):
        if connection.request():
            release.wait(30)
            connection.answer(200, b"slow")
    server = origin.plays(wait_for_release)
    server.release = release.set
    yield server
    release.set()


@pytest.mark.parametrize("name", STAGES)
def test_whatever_runs_away_in_a_phase_ends_its_own_exchange_and_all_others_are_answered(moongate, origin, slow, name):
    stage = STAGES[name]
    gate = moongate(staged(name, origin.answers(200, b"origin"), slow, origin.refuses()))
    gate.expect_error(r".")
    pids, orders = gate.worker_pids(), gate.raw()
    waiting = [gate.raw() for _ in range(3)]
    for client in waiting:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    slow.wait_seen(3)
    loads = [Load(gate, expected=None, target="/good", kinds=["kept"]) for _ in range(2)]

    outcomes = {}
    for number, deed in enumerate(RUNAWAYS, 1):
        if stage.order == BY_ORDER:
            orders.get("/order?deed=" + deed.replace(" ", "%20"))
        body = b"body" if stage.method == "POST" else None
        outcomes[deed] = cut_or_status(gate, stage.method, "/bad", "x-deed: " + deed) if body is None else \
            gate.request("POST", "/bad", "x-deed: " + deed, body=body).status
        gate.wait_log(f" error .*{name} of policy staged", count=number)

    assert all(outcome in stage.expected for outcome in outcomes.values()), outcomes
    for load in loads:
        load.stop()
    slow.release()
    assert [client.response().status for client in waiting] == [200, 200, 200]
    assert gate.worker_pids() == pids


@pytest.mark.parametrize("name, route", {
    "the route's handler": 'handler = function(req) ORDER return 200, "ok" end',
    "the answer's function": "handler = function(req) return 200, function() ORDER end end",
    "an edit of the response's body": 'upstream = app, policies = { { response = function(req, res) res:map(function() ORDER end) end } }',
}.items(), ids=["handler", "producer", "edit"])
def test_what_no_phase_is_named_for_is_stopped_too(moongate, origin, name, route):
    gate = moongate(f"""{DEEDS}
        gate.set {{ cpu_budget = 0.05, memory_limit = "48M" }}
        local app = gate.upstream("app", {{ peers = {{ "{origin.answers(200, b"origin")}" }} }})
        gate.route {{ "/bad", {route.replace("ORDER", BY_FIELD)} }}
        gate.route {{ "/good", handler = function() return 200 end }}""")
    gate.expect_error(r".")

    outcomes = []
    for number, deed in enumerate(RUNAWAYS, 1):
        outcomes.append(cut_or_status(gate, "GET", "/bad", "x-deed: " + deed))
        gate.wait_log(f" error .*{name}", count=number)
        assert gate.get("/good").status == 200

    assert set(outcomes) <= {500, "cut"}


def test_a_timer_goes_on_when_its_function_has_ended_just_before_it_was_to_be_stopped(moongate):
    gate = moongate("""
        gate.set { cpu_budget = 0.01, memory_limit = "256M" }
        local held = {}
        for i = 1, 4e5 do held[i] = { i } end
        local timer = gate.every(0.02, collectgarbage)          -- in C, so the error is raised behind it
        gate.route { "/stop", handler = function() timer:stop() return 204, held[0] end }""")
    gate.expect_error("gate.every")

    gate.wait_log(" error .*gate.every", count=4)
    assert gate.get("/stop").status == 204


@pytest.mark.parametrize("where", ["timer", "init", "exit", "client_hello", "message"])
def test_what_belongs_to_no_exchange_is_stopped_too(moongate, origin, site, authority, where):
    def play(connection):
        connection.head()
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                        b"Sec-WebSocket-Accept: BACScCJPNqyz+UBoqMH89VmURoA=\r\n\r\n")
        connection.ended(30)
    server = origin.plays(play)
    secure = f"tls = {{ {site.lua} }}" if where == "client_hello" else ""
    head = f"""{DEEDS}
        local orders = gate.shared("orders", "64K")
        local function run() {BY_ORDER} end
        gate.set {{ cpu_budget = 0.05, memory_limit = "48M" }}
        gate.route {{ "/order", handler = function(req) orders:set("deed", req.args.deed) return 204 end }}
        gate.route {{ "/good", handler = function() return 200 end }}
        """
    script = head + {
        "timer": """local timer = gate.every(0.02, run)
            gate.route { "/stop", handler = function() timer:stop() return 204 end }""",
        "init": 'gate.use { name = "staged", init = run }',
        "exit": 'gate.use { name = "staged", exit = run }',
        "client_hello": 'gate.use { name = "staged", client_hello = run }',
        "message": f'gate.route {{ "/", upstream = gate.upstream("ws", {{ peers = {{ "{server}" }} }}), policies = {{ {{ name = "staged", message = run }} }} }}',
    }[where]
    gate = moongate(script, listen=secure)
    gate.expect_error(r".")
    pids, client = gate.worker_pids(), gate.raw(**({"tls": authority.client_context()} if secure else {}))

    for number, deed in enumerate(RUNAWAYS, 1):
        assert client.get("/order?deed=" + deed.replace(" ", "%20")).status == 204
        if where == "init":
            assert "error" in gate.command("reload")
            assert client.get("/order").status == 204
        elif where == "exit":
            reload(gate)
        elif where == "client_hello":
            with pytest.raises((ssl.SSLError, OSError)):
                gate.raw(tls=authority.client_context())
        elif where == "message":
            socket = gate.raw()
            socket.send(HANDSHAKE, frame(TEXT, b"text"))
            socket.final_head()
            assert read_frame(socket)[0] == 8
        words = {"timer": "gate.every", "init": "init of policy staged"}.get(where, f"{where} of policy staged")
        gate.wait_log(f" error .*{words}", count=number)
        assert client.get("/good").status == 200
    client.get("/stop")
    assert gate.worker_pids() == pids


def script_of(deed, policy='name = "auth", ', **settings):
    return f"""local function run()
            {RUNAWAYS[deed]}
        end
        gate.set {{ cpu_budget = 0.05 }}
        gate.route {{ "/", policies = {{ {{ {policy}access = function() run() end }} }}, handler = function() return 200 end }}"""


def test_the_log_names_hook_policy_file_line_and_the_time_of_what_was_stopped(moongate):
    gate = moongate(script_of("a loop that is never compiled"))
    gate.expect_error("cpu_budget")

    assert gate.get("/").status == 500

    line = gate.wait_log("cpu_budget allows 50 ms")[0]
    assert "access of policy auth: " in line
    assert "gateway.lua:3: this run has taken " in line
    assert 50 <= int(line.split("this run has taken ")[1].split(" ms")[0]) < 200


@pytest.mark.parametrize("deed", ["a loop", "a pathological pattern", "a loop that catches its errors"])
def test_the_log_names_them_too_when_the_vm_was_lost(moongate, deed):
    gate = moongate(script_of(deed))
    gate.expect_error("thrown away")

    assert gate.get("/").status == 500

    line = gate.wait_log("thrown away")[0]
    assert "access of policy auth (" in line and "gateway.lua:6) has taken " in line
    assert 50 <= int(line.split(" has taken ")[1].split(" ms")[0]) < 300
    assert "built anew" in gate.wait_log("built anew", count=2)[1]


def test_a_hook_that_catches_the_error_fails_all_the_same_also_after_a_wait(moongate):
    gate = moongate("""local function spin() while true do end end
        jit.off(spin)
        gate.set { cpu_budget = 0.05 }
        gate.route { "/before", handler = function() pcall(spin) gate.sleep(0.01) return 200 end }
        gate.route { "/after", handler = function() gate.sleep(0.01) pcall(spin) return 200 end }
        gate.route { "/good", handler = function() gate.sleep(0.01) return 200 end }""")
    gate.expect_error("caught the error")

    assert [gate.get(path).status for path in ("/before", "/after", "/good")] == [500, 500, 200]

    assert len(gate.wait_log("caught the error that told it so", count=2)) == 2


def test_exchanges_that_wait_in_a_vm_that_is_lost_get_500_and_later_ones_the_new_vm(moongate):
    gate = moongate(script_of("a loop") + """
        gate.route { "/waits", handler = function() gate.sleep(20) return 200 end }
        gate.route { "/good", handler = function() return 200 end }""")
    gate.expect_error("thrown away")
    waiting = [gate.raw() for _ in range(3)]
    for client in waiting:
        client.send(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
    gate.wait_total("fibers", 3)

    assert gate.get("/").status == 500

    assert [client.response().status for client in waiting] == [500] * 3
    assert [client.get("/good").status for client in waiting] == [200] * 3


LOADS = {
    "a loop": ("local n = 0\nwhile true do n = n + 1 end", "gateway.lua:3: the script's top level took longer than load_budget"),
    "a loop in a function": ("local function spin()\nrepeat until false\nend\nspin()", "gateway.lua:3: the script's top level took"),
    "a loop that catches its errors": ("while true do pcall(function() while true do end end) end",
                                       "gateway.lua: the script's top level took longer than load_budget"),
    "a pathological pattern": ('string.find(("a"):rep(80), ("a-"):rep(30) .. "b")', "gateway.lua: the script's top level took"),
}


@pytest.mark.parametrize("top", LOADS, ids=[name.replace(" ", "-") for name in LOADS])
@pytest.mark.parametrize("command", ["check", "start"])
def test_a_top_level_that_never_ends_is_refused_with_its_place(tmp_path, command, top):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"; gate.set {{ load_budget = 0.2 }}\n{LOADS[top][0]}\n')

    done = run(*(["check"] if command == "check" else []), "gateway.lua", cwd=tmp_path)

    assert done.returncode == 1
    assert LOADS[top][1] in done.stderr


def test_a_top_level_may_compute_for_a_while(moongate):
    gate = moongate("""local n = 0
        for i = 1, 2e7 do n = i end
        gate.route { "/", handler = function() return 200, tostring(n) end }
    """, set="cpu_budget = 0.05")

    assert gate.get("/").body == b"20000000"

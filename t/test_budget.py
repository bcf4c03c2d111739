"""A script that runs away, or eats all memory, ends its own exchange; the worker and everything else go on."""
import threading

import pytest

from moongate import run
from wire import Cut

RUNAWAYS = {
    "a loop": "while true do end",
    "a loop that is never compiled": "local function spin() while true do end end; jit.off(spin); spin()",
    "a loop that catches its errors": "while true do pcall(function() while true do end end) end",
    "a pathological pattern": 'local s = ("a"):rep(40); s = s .. s; string.find(s, ("a-"):rep(30) .. "b")',
    "deep recursion": "local function deep(n) return 1 + deep(n + 1) end; deep(1)",
    "a string of 1 GiB": 'local s = ("x"):rep(2 ^ 30); return #s',
    "a hog of memory": "local t = {}; for i = 1, 1e9 do t[i] = { i, tostring(i) } end",
}
PHASES = {
    "access": "req", "response_body": "req, res, chunk", "log": "req, res",
}
RUNS = pytest.mark.parametrize("runaway", RUNAWAYS, ids=[name.replace(" ", "-") for name in RUNAWAYS])


@pytest.fixture
def tamed(moongate, origin):
    """tamed(phase, runaway): /bad has the runaway in this phase, /good a harmless hook, /slow an origin that waits."""
    def start(phase, runaway):
        start.server = origin.answers(200, b"origin")
        start.release = threading.Event()

        def wait_for_release(connection):
            if connection.request():
                start.release.wait(20)
                connection.answer(200, b"slow")
        start.slow = origin.plays(wait_for_release)
        gate = moongate(f"""
            local app = gate.upstream("app", {{ peers = {{ "{start.server}" }} }})
            local slow = gate.upstream("slow", {{ peers = {{ "{start.slow}" }} }})
            gate.set {{ cpu_budget = 0.1, memory_limit = "48M" }}
            gate.route {{ "/bad", upstream = app, policies = {{ {{ {phase} = function({PHASES[phase]})
                {RUNAWAYS[runaway]}
            end }} }} }}
            gate.route {{ "/slow", upstream = slow }}
            gate.route {{ "/good", upstream = app, policies = {{ {{ response = function(req, res)
                res.headers["x-hook"] = "ran"
            end }} }} }}
        """)
        gate.expect_error(r".")
        return gate
    return start


def cut_or_status(gate, target):
    try:
        return gate.get(target).status
    except (Cut, ConnectionError):
        return "cut"


@RUNS
@pytest.mark.parametrize("phase", PHASES)
def test_a_runaway_ends_its_own_exchange_and_the_worker_goes_on(tamed, phase, runaway):
    gate = tamed(phase, runaway)
    pids = gate.worker_pids()
    waiting = [gate.raw() for _ in range(3)]
    for client in waiting:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    tamed.slow.wait_seen(3)

    outcomes = [cut_or_status(gate, "/bad") for _ in range(2)]

    expected = {"access": [500], "response_body": ["cut", 500], "log": [200]}[phase]
    assert all(outcome in expected for outcome in outcomes), outcomes
    good = gate.get("/good")
    assert (good.status, good["x-hook"]) == (200, "ran")
    tamed.release.set()
    assert [client.response().status for client in waiting] == [200, 200, 200]
    assert gate.worker_pids() == pids
    gate.wait_log(" error ")


def test_the_log_says_that_a_run_took_too_long(tamed):
    gate = tamed("access", "a loop")

    assert gate.get("/bad").status == 500

    gate.wait_log("budget|too long|CPU")


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

"""Workers, signals, the command line, and what is shared between workers."""
import json
import os
import re
import signal
import socket
import stat
import time

import pytest

from client import request
from moongate import BINARY, free_port, run, wait_until

HANDLER = 'gate.route { "/*", handler = function(req) return 200, "ok" end }'
COUNTER = """local seen = gate.shared("seen", "64K")
    gate.route { "/*", handler = function(req) return 200, tostring(seen:incr("n", 1, 0)) end }"""


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def connects(gate):
    try:
        socket.create_connection(gate.address, 1).close()
        return True
    except OSError:
        return False


# ---- Workers.

def test_two_workers_serve(moongate):
    gate = moongate(HANDLER, workers=2)

    answers = [gate.get("/").body for _ in range(20)]

    assert answers == [b"ok"] * 20
    assert len(set(gate.worker_pids())) == 2
    assert gate.process.pid not in gate.worker_pids()


def test_a_worker_that_dies_is_replaced_and_told_of_once(moongate):
    gate = moongate(HANDLER, workers=2)
    old = gate.worker_pids()
    gate.expect_error("worker")

    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: len(set(gate.worker_pids()) - set(old)) == 1 and len(gate.worker_pids()) == 2)

    assert len(gate.wait_log(rf"\b{old[0]}\b.*(signal 9|[Kk]illed|SIGKILL)")) == 1
    assert gate.worker_pids()[1] == old[1]
    assert [gate.get("/").body for _ in range(10)] == [b"ok"] * 10


def test_a_worker_s_death_costs_only_its_own_requests(moongate):
    gate = moongate("""gate.route { "/*", handler = function(req) gate.sleep(1) return 200, "ok" end }""", workers=2)
    gate.expect_error("worker")
    clients = [gate.raw() for _ in range(16)]
    for client in clients:
        client.send(request("GET", "/"))
    gate.wait_total("exchanges", 16)
    per_worker = {worker["pid"]: worker["exchanges"] for worker in gate.status()["workers"]}
    victim = min(per_worker, key=per_worker.get)

    os.kill(victim, signal.SIGKILL)
    served = 0
    for client in clients:
        try:
            served += client.response().status == 200
        except Exception:
            pass

    assert served == 16 - per_worker[victim]


def test_what_a_dead_worker_had_in_flight_is_taken_off(moongate, origin):
    server = origin.plays(lambda connection: connection.request() and connection.ended(), backlog=50)
    gate = moongate(f"""gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }},
        max_connections = 1, retry = {{ attempts = 1 }} }}) }}""")
    gate.expect_error("worker")
    pid = gate.worker_pids()[0]
    stuck = gate.raw()
    stuck.send(request("GET", "/stuck"))
    server.wait_seen(1)

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gate.worker_pids() and gate.worker_pids()[0] not in (pid, 0))
    again = gate.raw()
    again.send(request("GET", "/again"))

    server.wait_seen(2)


def test_a_worker_that_dies_again_and_again_does_not_stop_the_master(moongate):
    gate = moongate(HANDLER, workers=1)
    gate.expect_error("worker")

    for _ in range(3):
        pid = gate.worker_pids()[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gate.worker_pids() and gate.worker_pids()[0] not in (pid, 0, None))

    wait_until(lambda: connects(gate))
    assert gate.get("/").body == b"ok"


def test_a_worker_that_has_served_is_replaced_at_once_however_often_it_dies(moongate):
    gate = moongate(HANDLER, workers=2)

    took = []
    for _ in range(8):
        pids = gate.worker_pids()
        time.sleep(0.1)                 # it serves for a while
        os.kill(pids[0], signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: len(set(gate.worker_pids()) - set(pids)) == 1 and len(gate.worker_pids()) == 2 and
                   all(any(g["state"] == "in force" for g in w["generations"]) for w in gate.status()["workers"]),
                   every=0.005)
        took.append(time.monotonic() - began)

    assert max(took) < 1 and sum(took) < 4, took


def test_workers_that_die_before_they_serve_are_started_with_a_growing_delay(moongate):
    gate = moongate(HANDLER)
    gate.script.write_text("""local ffi = require "ffi"
        ffi.cdef "int getpid(void); int kill(int, int);"
        ffi.C.kill(ffi.C.getpid(), 9)""")

    os.kill(gate.worker_pids()[0], signal.SIGKILL)
    gate.wait_log("died", 4)
    began = time.monotonic()
    gate.wait_log("died", 6)

    assert time.monotonic() - began > 0.9, "0.4 and 0.8 seconds"
    assert len(gate.wait_log("died")) < 9


def test_a_master_that_is_killed_leaves_no_worker_behind(moongate):
    gate = moongate(HANDLER, workers=2)
    pids = gate.worker_pids()

    os.kill(gate.process.pid, signal.SIGKILL)

    wait_until(lambda: not any(alive(pid) for pid in pids))
    gate.stopped = True


# ---- Signals.

def test_term_ends_at_once(moongate, origin):
    server = origin.hangs()
    gate = moongate(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}', workers=2)
    client = gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)
    pids = gate.worker_pids()

    began = time.monotonic()
    gate.signal(signal.SIGTERM)

    assert gate.wait_exit() == 0
    assert time.monotonic() - began < 3
    assert not any(alive(pid) for pid in pids)


def test_int_ends_too(moongate):
    gate = moongate(HANDLER)

    gate.signal(signal.SIGINT)

    assert gate.wait_exit() == 0


def test_quit_lets_a_running_answer_finish(moongate, origin):
    server = origin.holds(b"first half", shown=5)
    gate = moongate(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}')
    busy, idle = gate.raw(), gate.raw()
    busy.send(request("GET", "/"))
    head = busy.final_head()
    gate.wait_total("connections", 2)

    gate.signal(signal.SIGQUIT)
    assert idle.ended() == b""
    wait_until(lambda: not connects(gate), what="the listener closes")
    server.go.set()

    assert busy.body(head).body == b"first half"
    assert busy.ended() == b""
    assert gate.wait_exit() == 0


def test_quit_tells_a_keep_alive_client_that_this_was_its_last(moongate, origin):
    server = origin.holds()
    gate = moongate(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}')
    idle, client = gate.raw(), gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)

    gate.signal(signal.SIGQUIT)
    assert idle.ended() == b""
    server.go.set()

    assert client.response()["Connection"] == "close"
    assert gate.wait_exit() == 0


def test_a_request_that_is_on_its_way_when_quit_comes_is_answered_and_told_that_it_was_the_last(moongate):
    gate = moongate(HANDLER)
    kept, fresh = gate.raw(), gate.raw()
    assert kept.get("/").body == b"ok"
    gate.wait_total("connections", 2)

    gate.signal(signal.SIGQUIT)
    wait_until(lambda: not connects(gate), what="the listener closes")

    for client in (kept, fresh):
        answer = client.get("/")
        assert (answer.status, answer["Connection"]) == (200, "close")
        assert client.ended() == b""
    assert gate.wait_exit() == 0


def test_quit_waits_no_longer_than_drain_timeout(moongate, origin):
    server = origin.hangs()
    gate = moongate(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}',
                    set="drain_timeout = 0.5")
    client = gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)

    began = time.monotonic()
    gate.signal(signal.SIGQUIT)

    assert gate.wait_exit() == 0
    assert 0.3 < time.monotonic() - began < 5


def test_quit_cuts_a_tunnel_after_drain_timeout(moongate, origin):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        connection.ended()
    gate = moongate(f"""gate.route {{ "/*", upstream = gate.upstream("app", {{
        peers = {{ "{origin.plays(script)}" }} }}) }}""", set="drain_timeout = 0.5")
    client = gate.raw()
    client.send(request("GET", "/", "Connection: Upgrade", "Upgrade: x"))
    assert client.head().status == 101

    gate.signal(signal.SIGQUIT)

    assert client.ended() == b""
    assert gate.wait_exit() == 0


# ---- What workers share.

def test_a_shared_dictionary_is_one_for_all_workers(moongate):
    gate = moongate(COUNTER, workers=2)

    counts = []
    for _ in range(10):
        clients = [gate.raw() for _ in range(4)]
        counts += [int(client.get("/").body) for client in clients]

    assert sorted(counts) == list(range(1, 41))


def test_a_shared_dictionary_outlives_a_worker(moongate):
    gate = moongate(COUNTER)
    gate.expect_error("worker")
    pid = gate.worker_pids()[0]
    assert gate.get("/").body == b"1"

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gate.worker_pids() and gate.worker_pids()[0] not in (pid, 0))

    assert gate.get("/").body == b"2"


def test_a_shared_dictionary_works_after_workers_were_killed_in_the_middle_of_using_it(moongate):
    gate = moongate("""local d = gate.shared("busy", "64K")
        gate.route { "/spin", handler = function()
          for i = 1, 2e5 do d:set("key" .. i % 50, i) end
          return 200, "done" end }
        gate.route { "/*", handler = function() d:set("k", 7) return 200, tostring(d:get("k")) end }""",
                    workers=2, set="cpu_budget = 5")
    gate.expect_error("worker")

    for _ in range(5):
        clients = [gate.raw() for _ in range(4)]
        for client in clients:
            client.send(request("GET", "/spin"))
        pids = wait_until(lambda: gate_pids(gate))
        os.kill(pids[0], signal.SIGKILL)
        for client in clients:
            client.close()

    wait_until(lambda: answers(gate) == b"7")


def gate_pids(gate):
    pids = gate.worker_pids()
    return pids if pids and all(pid and alive(pid) for pid in pids) else None


def answers(gate):
    try:
        return gate.get("/").body
    except OSError:
        return None


# ---- The control socket.

def test_the_control_socket_is_its_owner_s_alone(moongate):
    gate = moongate(HANDLER)

    assert stat.S_IMODE(gate.control_path.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("said", [b"\n", b"nonsense\n", b'{"command":"no such"}\n', b'{"command":7}\n', b"x" * 100000,
                                  b"\0\xff\n", b'{"command"'])
def test_nonsense_on_the_control_socket_hurts_nobody(moongate, said):
    gate = moongate(HANDLER)

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(gate.control_path))
        try:
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(4096)
        except OSError:
            pass

    assert len(gate.status()["workers"]) == 1
    assert gate.get("/").body == b"ok"


@pytest.mark.parametrize("said, why", [
    (b"nonsense", "this is no JSON"), (b'{"command":"status"', "this is no JSON"), (b"[" * 3000, "this is no JSON"),
    (b'{"command":"status","command":"stop"}', "this is no JSON: duplicate object key"),
    (b"[]", 'a line like {"command":"status"} is needed'), (b'{"command":7}', "is needed"),
    (b'{"note":"\\"command\\":\\"stop\\""}', "is needed"),
    (b'{"command":"relaod"}', "unknown command; there are status, generations, reload, check, rollback, promote, upgrade, peers, drain, log-level, stop"),
    (b'{"command":"stop","now":true}', "stop takes nothing beside its name"),
    (b'{"command":"log-level","level":7}', 'log-level takes strings alone beside its name: "level"'),
    (b'{"command":"log-level","level":"info","for":"ever"}', 'log-level takes strings alone beside its name: "level"'),
    (b'{"command":"log-level","level":"loud"}', "debug, info, warn, error, none, or default is needed"),
])
def test_what_the_control_socket_does_not_understand_is_answered_with_the_reason(moongate, said, why):
    gate = moongate(HANDLER)

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(gate.control_path))
        sock.sendall(said + b"\n")
        answer = json.loads(sock.makefile().readline())

    assert why in answer["error"]
    assert gate.get("/").body == b"ok"


def test_the_status_command_asks_a_running_proxy(moongate):
    gate = moongate(HANDLER, workers=2)
    gate.get("/")

    told = run("status", "--control", gate.control_path)

    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("moongate ") and f"pid {gate.process.pid}, " in lines[0]
    assert lines[0].endswith("generation 1 in force")
    assert [line.split()[:3] for line in lines[-2:]] == [[str(n), str(pid), "1"] for n, pid in enumerate(gate.worker_pids())]
    assert ["1", "in", "force"] in [line.split()[:3] for line in lines]


def test_the_drain_command_lets_what_is_in_progress_finish(moongate, origin):
    server = origin.holds(b"to the end")
    gate = moongate(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}')
    client = gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)

    told = run("drain", "--control", gate.control_path)
    wait_until(lambda: not connects(gate), what="the listener closes")
    server.go.set()

    assert told.returncode == 0, told.stderr
    assert client.response().body == b"to the end"
    assert gate.wait_exit() == 0


def test_the_stop_command_ends_a_running_proxy(moongate):
    gate = moongate(HANDLER)

    told = run("stop", "--control", gate.control_path)

    assert told.returncode == 0, told.stderr
    assert gate.wait_exit() == 0


def test_the_status_command_without_a_running_proxy_fails_clearly(tmp_path):
    told = run("status", "--control", tmp_path / "nobody.sock")

    assert told.returncode == 1
    assert "nobody.sock" in told.stderr


# ---- The command line.

def check(tmp_path, script):
    path = tmp_path / "gateway.lua"
    path.write_text(script)
    return run("check", path)


def test_check_prints_listeners_routes_and_upstreams(tmp_path):
    told = check(tmp_path, """local gate = require "moongate"
gate.listen "127.0.0.1:8080"
local users = gate.upstream("users", { peers = { "10.0.0.1:8080", { "10.0.0.2:8080", weight = 3 } } })
gate.route { "/*", handler = function() return 200 end }
gate.route { "api.example.com/users/:id", methods = { "GET" }, upstream = users }
""")

    assert told.returncode == 0, told.stderr
    for text in ("127.0.0.1:8080", "users", "10.0.0.1:8080", "10.0.0.2:8080", "api.example.com/users/:id", "GET"):
        assert text in told.stdout
    assert told.stdout.index("api.example.com/users/:id") < told.stdout.index("/*"), "in match order"


def test_check_binds_nothing(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = check(tmp_path, f"""local gate = require "moongate"
gate.listen "127.0.0.1:{taken.getsockname()[1]}"
gate.route {{ "/*", handler = function() return 200 end }}
""")

    assert told.returncode == 0, told.stderr


A = 'gate.upstream("a", { peers = { "127.0.0.1:1" } })'
ROUTE = 'gate.route { "/a", handler = function() end }'
BAD = {
    "a syntax error": ("local = 1", ["gateway.lua:2"]),
    "an error of the user's": ('error("boom")', ["gateway.lua:2", "boom"]),
    "an unknown function": ('gate.lisen "127.0.0.1:1"', ["gateway.lua:2", "lisen"]),
    "an unknown key": ('gate.route { "/", handlr = function() end }', ["gateway.lua:2", "handlr", "handler"]),
    "an unknown setting": ("gate.set { max_head_sise = 1 }", ["gateway.lua:2", "max_head_sise", "max_head_size"]),
    "an unknown upstream key": ('gate.upstream("a", { peers = { "127.0.0.1:1" }, keep_alive = 1 })',
                                ["gateway.lua:2", "keep_alive", "keepalive"]),
    "an unknown phase": ("gate.use { acces = function() end }", ["gateway.lua:2", "acces", "access"]),
    "a bad weight": ('gate.upstream("users", { peers = { "127.0.0.1:1", { "127.0.0.1:2", weight = "x" } } })',
                     ["gateway.lua:2", 'upstream "users"', "peer 2", "weight must be a positive number", 'got "x"']),
    "a negative timeout": ("gate.set { head_timeout = -1 }", ["gateway.lua:2", "head_timeout", "-1"]),
    "a size that is none": ('gate.set { max_head_size = "32 apples" }', ["gateway.lua:2", "max_head_size", "32 apples"]),
    "an address that is none": ('gate.listen "nowhere"', ["gateway.lua:2", "nowhere"]),
    "a port too large": ('gate.listen "127.0.0.1:70000"', ["gateway.lua:2", "70000"]),
    "an address listened at twice": ('gate.listen "127.0.0.1:1234" gate.listen "127.0.0.1:1234"',
                                     ["gateway.lua:2", "127.0.0.1:1234"]),
    "a peer without a port": ('gate.upstream("a", { peers = { "10.0.0.1" } })', ["gateway.lua:2", "10.0.0.1"]),
    "an upstream without peers": ('gate.upstream("a", {})', ["gateway.lua:2", "peers"]),
    "an upstream that does not exist": ('gate.route { "/*", upstream = "nobody" }', ["gateway.lua:2", "nobody"]),
    "two upstreams of one name": (f"{A} {A}", ["gateway.lua:2", '"a"']),
    "a route that ends nowhere": ('gate.route { "/*" }', ["gateway.lua:2"]),
    "a route with two ends": (f'gate.route {{ "/*", handler = function() end, upstream = {A} }}', ["gateway.lua:2"]),
    "a pattern that is none": ('gate.route { "no slash", handler = function() end }', ["gateway.lua:2", "no slash"]),
    "a star in the middle": ('gate.route { "/a/*/b", handler = function() end }', ["gateway.lua:2", "/a/*/b"]),
    "the same route twice": (f"{ROUTE} {ROUTE}", ["gateway.lua:2", "/a"]),
    "a policy that is none": ('gate.route { "/", policies = { 7 }, handler = function() end }', ["gateway.lua:2", "7"]),
    "a balance that is none": ('gate.upstream("a", { peers = { "127.0.0.1:1" }, balance = "least" })',
                               ["gateway.lua:2", "least"]),
    "a trusted network that is none": ('gate.listen { "127.0.0.1:1", trusted = { "10.0.0.0/99" } }',
                                       ["gateway.lua:2", "10.0.0.0/99"]),
    "an init that throws": ('gate.use { init = function() error("not today") end }', ["gateway.lua:2", "not today"]),
}


@pytest.mark.parametrize("line, expected", BAD.values(), ids=BAD)
def test_a_mistake_in_the_script_names_line_value_and_remedy(tmp_path, line, expected):
    port = free_port()
    script = f"""local gate = require "moongate"
{line}
gate.listen "127.0.0.1:{port}"
gate.route {{ "/fine", handler = function() return 200 end }}
"""
    path = tmp_path / "gateway.lua"
    path.write_text(script)

    checked, started = run("check", path), run(path, "--workers", 1)

    told = [started] if "init" in line else [checked, started]
    for result in told:
        assert result.returncode == 1
        for text in expected:
            assert text in result.stderr, result.stderr
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0


def test_a_script_that_is_not_there_is_told_of(tmp_path):
    told = run(tmp_path / "nothing.lua")

    assert told.returncode == 1
    assert "nothing.lua" in told.stderr


@pytest.mark.parametrize("arguments", [[], ["--no-such-option"], ["check"], ["a.lua", "b.lua"], ["a.lua", "--workers"],
                                       ["a.lua", "--workers", "x"], ["a.lua", "--workers", "0"],
                                       ["a.lua", "--log", "loud"]])
def test_wrong_usage_ends_with_status_2(tmp_path, arguments):
    (tmp_path / "a.lua").write_text("")

    told = run(*arguments, cwd=tmp_path)

    assert told.returncode == 2, told
    assert told.stderr


def test_an_address_in_use_is_told_of(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "gateway.lua"
        path.write_text(f"""local gate = require "moongate"
gate.listen "127.0.0.1:{port}"
gate.route {{ "/*", handler = function() return 200 end }}
""")
        told = run(path, "--workers", 1)

    assert told.returncode == 1
    assert re.search(rf"127\.0\.0\.1:{port}.*in use", told.stderr, re.I), told.stderr


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(moongate, tmp_path):
    path = tmp_path / "front.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()

    gate = moongate(HANDLER, path=path)
    second = run(gate.script, "--workers", 1)

    assert gate.get("/").body == b"ok"
    assert second.returncode == 1
    assert "in use" in second.stderr.lower()
    assert gate.get("/").body == b"ok"


def test_help_and_version_are_told():
    for option in ("--help", "--version"):
        told = run(option)
        assert told.returncode == 0
        assert told.stdout


def test_the_binary_is_hardened():
    with open(BINARY, "rb") as binary:
        head = binary.read(18)

    assert head[16] == 3, "position independent"

"""Health checks: what is asked of a peer, what counts as an answer, who asks, and what becomes of a peer that fails them."""
import json
import os
import signal
import subprocess
import time
from collections import Counter

import pytest

import moongate as moongate_module
import node
import proxies
from client import request
from moongate import ROOT, run, wait_until

UNHEALTHY, HEALTHY = "is unhealthy: ", "is healthy: "


def checked(peers, health, more="", script=""):
    listed = ", ".join(f'"{peer}"' for peer in peers)
    return f"""{script}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ {listed} }}, {more}
          health = {{ {health} }} }}) }}"""


def upstream(gate, name="app"):
    """What status says of it."""
    for worker in gate.status()["workers"]:
        for each in worker.get("upstreams", ()):
            if each["name"] == name:
                return each
    return None


class Ill:
    """An origin whose /healthz answers what the test says."""

    def __init__(self, origin, name=b"ill", **options):
        self.answer = (200, b"fine", ())
        self.checks = []
        self.server = origin.answers(self.play, **options)
        self.name = name

    def __str__(self):
        return str(self.server)

    def play(self, request):
        if request.target.startswith("/healthz"):
            self.checks.append((time.monotonic(), request))
            return self.answer
        return 200, self.name, ()

    @property
    def asked(self):
        return sum(1 for r in self.server.requests if not r.target.startswith("/healthz"))


# ---- What becomes of a peer.

def test_a_peer_that_fails_its_checks_gets_no_requests_until_it_passes_them(moongate, origin):
    ill, well = Ill(origin), Ill(origin, b"well")
    gate = moongate(checked([ill, well], 'path = "/healthz", interval = 0.05, rise = 3, fall = 2'))
    assert Counter(gate.get("/").body for _ in range(4)) == {b"ill": 2, b"well": 2}

    ill.answer = (503, b"", ())
    line, = gate.wait_log(f"upstream app: peer {ill} {UNHEALTHY}")
    assert line.endswith("2 checks in a row have failed, the last: status 503")
    assert {gate.get("/").body for _ in range(10)} == {b"well"}
    out, = upstream(gate)["out"]
    assert (out["address"], out["state"]) == (str(ill), "unhealthy") and "status 503" in out["why"]

    ill.answer = (200, b"", ())
    line, = gate.wait_log(f"upstream app: peer {ill} {HEALTHY}")
    assert line.endswith("3 checks in a row have passed")
    assert Counter(gate.get("/").body for _ in range(4)) == {b"ill": 2, b"well": 2}
    assert upstream(gate)["out"] == []


def test_fewer_failures_than_fall_change_nothing(moongate, origin):
    answers = iter([503, 503] + [200, 503, 503] * 1000)
    flaky = origin.answers(lambda request: (next(answers), b"", ()))
    gate = moongate(checked([flaky], 'path = "/healthz", interval = 0.02, fall = 3, rise = 1'))

    flaky.wait_seen(20)

    assert UNHEALTHY not in gate.log()


def test_when_no_peer_is_healthy_all_count(moongate, origin):
    a, b = Ill(origin, b"a"), Ill(origin, b"b")
    a.answer = b.answer = (500, b"", ())
    gate = moongate(checked([a, b], 'path = "/healthz", interval = 0.05, fall = 1'))

    gate.wait_log("upstream app is in panic, all its peers are used: 0 of 2 peers are healthy")

    assert {gate.get("/").body for _ in range(4)} == {b"a", b"b"}
    assert upstream(gate)["panic"] is True
    a.answer = (200, b"", ())
    gate.wait_log("upstream app is not in panic any more: 1 of 2 peers are healthy")
    assert {gate.get("/").body for _ in range(4)} == {b"a"}


def test_the_human_status_shows_who_is_out_and_why(moongate, origin):
    ill, well = Ill(origin), Ill(origin)
    ill.answer = (404, b"", ())
    gate = moongate(checked([ill, well], 'path = "/healthz", interval = 0.05'))
    gate.wait_log(UNHEALTHY)

    told = run("status", "--control", gate.control_path).stdout

    assert "\nupstream                  peers  healthy  ejected  draining  breaker\n" in told
    assert "app                           2        1        0         0  none\n" in told
    assert f"{ill} is unhealthy: 3 checks in a row have failed, the last: status 404\n" in told


def test_health_lives_through_a_reload_while_somebody_looks_at_it(moongate, origin):
    ill, well = Ill(origin), Ill(origin, b"well")
    ill.answer = (503, b"", ())
    gate = moongate(checked([ill, well], 'path = "/healthz", interval = 0.05, fall = 1'))
    gate.wait_log(UNHEALTHY)

    text = gate.script.read_text()
    gate.script.write_text(text.replace("interval = 0.05", "interval = 60"))
    assert "error" not in gate.command("reload")
    assert {gate.get("/").body for _ in range(6)} == {b"well"}, "it is still out"

    gate.script.write_text(text[:text.index("health =")] + "}) }")
    assert "error" not in gate.command("reload")
    assert {gate.get("/").body for _ in range(6)} == {b"ill", b"well"}, "nobody looks at it any more"


# ---- What is asked, and what counts.

def test_the_check_is_what_the_options_say(moongate, origin):
    ill = Ill(origin)
    moongate(checked([ill], '''path = "/healthz?deep=1", interval = 0.05, method = "OPTIONS", host = "app.test",
        headers = { ["x-check"] = "yes" }'''))

    ill.server.wait_seen(1)

    asked = ill.checks[0][1]
    assert (asked.method, asked.target, asked["Host"], asked["X-Check"]) == ("OPTIONS", "/healthz?deep=1", "app.test", "yes")


def test_a_check_names_the_peer_as_host_and_has_a_connection_of_its_own(moongate, origin):
    ill = Ill(origin)
    gate = moongate(checked([ill], 'path = "/healthz", interval = 0.05'))
    gate.get("/")

    wait_until(lambda: len(ill.checks) > 3)

    assert {request["Host"] for _, request in ill.checks} == {str(ill)}
    connections = [request.connection for _, request in ill.checks]
    assert len({id(c) for c in connections}) == len(connections)
    assert all(r.connection not in connections for r in ill.server.requests if r.target == "/")


@pytest.mark.parametrize("expect, answer, reason", [
    ("", (204, b"", ()), None),
    ("", (302, b"", ()), "status 302"),
    ('status = { 302, "4xx" }', (302, b"", ()), None),
    ('status = { 302, "4xx" }', (499, b"", ()), None),
    ('status = { 302, "4xx" }', (200, b"", ()), "status 200"),
    ('status = 200, body = "^ready$"', (200, b"ready", ()), None),
    ('body = "^ready$"', (200, b"not ready", ()), "the body is not what is expected"),
    ('headers = { ["x-state"] = "^up" }', (200, b"", ("X-State: up for 3 days",)), None),
    ('headers = { ["x-state"] = "^up" }', (200, b"", ("X-State: down",)), 'x-state is "down"'),
    ('headers = { ["x-state"] = "^up" }', (200, b"", ()), "it has no x-state"),
], ids=str)
def test_an_answer_counts_by_its_status_its_fields_and_its_body(moongate, origin, expect, answer, reason):
    ill = Ill(origin)
    ill.answer = answer
    gate = moongate(checked([ill, origin.answers()], f'path = "/healthz", interval = 0.02, expect = {{ {expect} }}'))

    if reason:
        assert gate.wait_log(f"peer {ill} {UNHEALTHY}")[0].endswith(f"the last: {reason}")
    else:
        wait_until(lambda: len(ill.checks) > 6)
        assert f"peer {ill} {UNHEALTHY}" not in gate.log()


def test_a_check_without_an_answer_in_time_fails(moongate, origin):
    silent = origin.hangs()
    gate = moongate(checked([silent], 'path = "/", interval = 0.1, timeout = 0.05, fall = 1'))

    assert "the last: no answer " in gate.wait_log(UNHEALTHY)[0]


def test_a_check_over_tcp_asks_for_a_connection_and_no_more(moongate, origin):
    live, dead = origin.plays(lambda connection: connection.request()), origin.refuses()
    gate = moongate(checked([live, dead], "tcp = true, interval = 0.02"))

    assert gate.wait_log(f"peer {dead} {UNHEALTHY}")[0].endswith("the last: connection refused")
    live.wait(lambda: len(live.connections) > 5)
    assert f"peer {live} {UNHEALTHY}" not in gate.log()


@pytest.mark.parametrize("kind", ['path = "/healthz"', "tcp = true"])
def test_checks_follow_the_upstream_s_tls(moongate, origin, authority, site, kind):
    good = Ill(origin, tls=authority.server_context(site))
    clear = origin.plays(lambda connection: connection.send(b"no TLS here\r\n"))
    gate = moongate(checked([good, clear], f"{kind}, interval = 0.05, fall = 2", f'tls = {{ ca = "{authority.cert}" }},'))

    gate.wait_log(f"peer {clear} {UNHEALTHY}")
    good.server.wait(lambda: len(good.server.handshakes) > 4)

    assert f"peer {good} {UNHEALTHY}" not in gate.log()
    assert good.server.failures == []


def test_checks_follow_the_upstream_s_protocol(moongate, h2_origin):
    server = h2_origin()
    gate = moongate(checked([server], 'path = "/healthz", interval = 0.02', 'protocol = "h2",'))

    wait_until(lambda: len(server.requests) > 6)

    assert {r.pseudo[":path"] for r in server.requests} == {"/healthz"}
    assert len(server.connections) == 1, "they share its connection"
    assert UNHEALTHY not in gate.log()


def test_checks_begin_with_the_upstream_s_proxy_header(moongate, tmp_path):
    behind = proxies.nginx(tmp_path, "proxy_protocol", 'return 200 "ok";')
    try:
        gate = moongate(checked([behind], 'path = "/", interval = 0.02, fall = 1', 'proxy_protocol = "v2",'))
        probed = moongate(checked([behind], 'path = "/", interval = 0.02, fall = 1'))

        probed.wait_log(UNHEALTHY)
        assert UNHEALTHY not in gate.log()
    finally:
        behind.close()


# ---- gRPC, with npm's server.

@pytest.fixture
def grpc_server():
    process = subprocess.Popen(["node", ROOT / "t" / "node" / "health.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, "NODE_PATH": str(node.MODULES)}, text=True)

    def say(line):
        process.stdin.write(line + "\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == line
    process.port, process.say = json.loads(process.stdout.readline())["port"], say
    yield process
    process.kill()
    process.communicate()


@node.needs("@grpc/grpc-js")
def test_a_grpc_server_is_asked_for_its_health(moongate, grpc_server):
    peer = f"127.0.0.1:{grpc_server.port}"
    gate = moongate(checked([peer], "grpc = true, interval = 0.05, fall = 2", 'protocol = "h2",'))

    for n, (word, reason) in enumerate([("NOT_SERVING", "NOT_SERVING"), ("UNIMPLEMENTED", "grpc-status 12"),
                                        ("silent", "no answer ")], 1):
        grpc_server.say(word)
        assert f"the last: {reason}" in gate.wait_log(f"peer {peer} {UNHEALTHY}", count=n)[-1]
        grpc_server.say("SERVING")
        gate.wait_log(f"peer {peer} {HEALTHY}", count=n)


@node.needs("@grpc/grpc-js")
def test_a_grpc_server_is_asked_for_the_health_of_a_service(moongate, grpc_server):
    grpc_server.say("users SERVING")
    gate = moongate(checked([f"127.0.0.1:{grpc_server.port}"], 'grpc = "users", interval = 0.05, fall = 2', 'protocol = "h2",'))

    grpc_server.say("NOT_SERVING")
    grpc_server.say("users NOT_SERVING")
    line = gate.wait_log(UNHEALTHY)[0]
    assert line.endswith("the last: NOT_SERVING")
    grpc_server.say("users SERVING")
    gate.wait_log(HEALTHY)


@node.needs("@grpc/grpc-js")
def test_a_grpc_server_that_does_not_know_the_service_is_unhealthy(moongate, grpc_server):
    gate = moongate(checked([f"127.0.0.1:{grpc_server.port}"], 'grpc = "other", interval = 0.05, fall = 2', 'protocol = "h2",'))

    assert gate.wait_log(UNHEALTHY)[0].endswith("the last: grpc-status 5")


# ---- Functions.

def test_a_function_may_check_and_wait(moongate, origin):
    ill, well = Ill(origin), Ill(origin)
    ill.answer = (200, b'{"ready": false}', ())
    well.answer = (200, b'{"ready": true}', ())
    gate = moongate(checked([ill, well], """interval = 0.05, check = function(peer)
        gate.sleep(0.001)
        local answer = gate.fetch("http://" .. peer.address .. "/healthz"):json()
        return answer.ready, "not ready"
      end"""))

    assert gate.wait_log(UNHEALTHY)[0].endswith(f"peer {ill} {UNHEALTHY}3 checks in a row have failed, the last: not ready")
    wait_until(lambda: len(well.checks) > 6)
    assert f"peer {well} {UNHEALTHY}" not in gate.log()


@pytest.mark.parametrize("body, reason", [
    ('error("oh")', r"the check threw: .*gateway\.lua:\d: oh"),
    ("gate.sleep(10)", r"no answer within 0\.04 s"),
    ("return nil", r"it says no"),
])
def test_a_function_that_fails_says_so(moongate, origin, body, reason):
    gate = moongate(checked([origin.answers()], f"interval = 0.05, timeout = 0.04, check = function() {body} end"))

    gate.wait_log(f"{UNHEALTHY}3 checks in a row have failed, the last: {reason}")


# ---- Who asks, and when.

def test_one_worker_checks_for_all_and_another_takes_over_when_it_dies(moongate, origin):
    ill = Ill(origin)
    ill.answer = (503, b"", ())
    gate = moongate(checked([ill], 'path = "/healthz", interval = 0.2, fall = 1, rise = 1'), workers=3)
    gate.expect_error("worker")

    line = gate.wait_log(UNHEALTHY)[0]
    wait_until(lambda: len(ill.checks) >= 6)
    times = [at for at, _ in ill.checks[1:]]
    assert (times[-1] - times[0]) / (len(times) - 1) > 0.15, "not one a worker"

    leader = int(line.split("[worker ")[1].split("]")[0])
    pid = {worker["number"]: worker["pid"] for worker in gate.status()["workers"]}[leader]
    os.kill(pid, signal.SIGKILL)
    ill.answer = (200, b"", ())
    gate.wait_log(HEALTHY)


def test_a_worker_that_hangs_is_put_off_by_time(moongate, origin):
    ill = Ill(origin)
    ill.answer = (503, b"", ())
    gate = moongate(checked([ill], 'path = "/healthz", interval = 0.1, fall = 1, rise = 1'), workers=2)
    leader = int(gate.wait_log(UNHEALTHY)[0].split("[worker ")[1].split("]")[0])
    pid = {worker["number"]: worker["pid"] for worker in gate.status()["workers"]}[leader]

    os.kill(pid, signal.SIGSTOP)
    try:
        ill.answer = (200, b"", ())
        assert f"[worker {leader}]" not in gate.wait_log(HEALTHY)[0]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_another_takes_over_soon_however_long_the_interval(moongate, origin):
    ill = Ill(origin)
    ill.answer = (503, b"", ())
    gate = moongate(checked([ill], 'path = "/healthz", interval = 600, fall = 1, rise = 1'), workers=2)
    gate.expect_error("worker")
    leader = int(gate.wait_log(UNHEALTHY)[0].split("[worker ")[1].split("]")[0])
    pid = {worker["number"]: worker["pid"] for worker in gate.status()["workers"]}[leader]

    os.kill(pid, signal.SIGKILL)
    ill.answer = (200, b"", ())

    gate.wait_log(HEALTHY)


def test_a_peer_that_comes_while_traffic_flows_is_checked_soon(moongate, origin):
    dead, live = origin.refuses(), Ill(origin)
    gate = moongate(f"""
        local app = gate.upstream("app", {{ peers = {{ "{live}" }}, health = {{ path = "/healthz", interval = 600, fall = 1 }} }})
        gate.route {{ "/add", handler = function() app:add("{dead}") return 204 end }}
        gate.route {{ "/*", upstream = app }}""")
    live.server.wait_seen(1)

    gate.get("/add")

    gate.wait_log(f"peer {dead} {UNHEALTHY}")
    assert len(live.checks) <= 2


def test_a_process_that_drains_after_an_upgrade_checks_no_more(moongate, origin):
    moongate_module.become_reaper()
    ill, held = Ill(origin), origin.holds()
    gate = moongate(checked([ill], 'path = "/healthz?old", interval = 0.05', script=f"""
        gate.route {{ "/held", upstream = gate.upstream("held", {{ peers = {{ "{held}" }} }}) }}"""))
    client = gate.raw()
    client.send(request("GET", "/held"))
    held.wait_seen(1)

    gate.script.write_text(gate.script.read_text().replace("?old", "?new"))
    gate.upgrade()
    wait_until(lambda: ill.checks and ill.checks[-1][1].target == "/healthz?new")

    before = len(ill.checks)
    wait_until(lambda: len(ill.checks) > before + 6)
    assert {asked.target for _, asked in ill.checks[before:]} == {"/healthz?new"}
    held.go.set()
    assert client.response().status == 200


def test_the_status_tells_of_as_many_upstreams_as_it_has_room_for(moongate, origin):
    dead = origin.refuses()
    gate = moongate(f"""
        for i = 1, 100 do
          gate.upstream("upstream-" .. i, {{ peers = {{ "{dead}", "{dead}", "{dead}" }}, health = {{ tcp = true, interval = 0.1, fall = 1 }} }})
        end
        gate.route {{ "/", handler = function() return 200 end }}""")
    gate.wait_log(UNHEALTHY, count=300)

    worker, = gate.status()["workers"]

    assert 10 < len(worker["upstreams"]) < 100
    assert all(len(each["out"]) == 3 for each in worker["upstreams"][:-1])


def test_the_interval_varies_by_its_jitter(moongate, origin):
    ill = Ill(origin)
    moongate(checked([ill], 'path = "/healthz", interval = 0.1, jitter = 0.5'))

    wait_until(lambda: len(ill.checks) >= 12)

    times = [at for at, _ in ill.checks[1:]]
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert min(gaps) > 0.02
    assert max(gaps) - min(gaps) > 0.015, "nobody keeps time with the others"


def test_the_checks_of_many_peers_are_spread_over_the_interval(moongate, origin):
    ills = [Ill(origin) for _ in range(10)]
    moongate(checked(ills, 'path = "/healthz", interval = 0.5, jitter = 0'))

    wait_until(lambda: all(len(ill.checks) >= 3 for ill in ills))

    second = sorted(ill.checks[2][0] for ill in ills)
    assert second[-1] - second[0] > 0.25


# ---- What a peer says of itself.

@pytest.mark.parametrize("value, load", [("0.75", "0.75"), ("3", "3"), (" 12 ", "12"), (".5", "0.5"), ("1e3", "nil"), ("-1", "nil"),
                                         (".", "nil"), ("1.2.3", "nil"), ("", "nil"), ("9" * 33, "nil"), ("busy", "nil")])
def test_a_peer_tells_its_load_in_answers_and_all_workers_know(moongate, origin, value, load):
    server = origin.answers(200, b"ok", (f"X-Load: {value}",))
    gate = moongate(f"""
        local app = gate.upstream("app", {{ peers = {{ "{server}" }}, load_header = "x-load" }})
        gate.route {{ "/load", handler = function() return 200, tostring(app.peers[1].load) end }}
        gate.route {{ "/*", upstream = app }}""", workers=2)
    assert gate.get("/load").body == b"nil"

    gate.get("/")

    assert {gate.get("/load").body for _ in range(12)} == {load.encode()}


def test_a_balancer_may_go_by_the_load(moongate, origin):
    busy = origin.answers(200, b"busy", ("X-Load: 9",))
    idle = origin.answers(200, b"idle", ("X-Load: 1",))
    gate = moongate(f"""gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{busy}", "{idle}" }},
        load_header = "x-load", balance = function(_, peers)
          local best
          for _, peer in ipairs(peers) do
            if not best or (peer.load or 0) < (best.load or 0) then best = peer end
          end
          return best
        end }}) }}""")

    bodies = [gate.get("/").body for _ in range(8)]

    assert bodies[:2] == [b"busy", b"idle"] and set(bodies[2:]) == {b"idle"}


def test_a_check_reads_the_load_and_a_script_may_set_it(moongate, origin):
    told = Ill(origin)
    told.answer = (200, b"", ("Load: 12.5",))
    gate = moongate(f"""
        local app = gate.upstream("app", {{ peers = {{ "{told}" }}, load_header = "load",
          health = {{ path = "/healthz", interval = 0.05 }} }})
        local other = gate.upstream("other", {{ peers = {{ "{told}" }},
          health = {{ interval = 0.05, check = function(peer) peer.load = 0.5 return true end }} }})
        gate.route {{ "/*", handler = function()
          return 200, tostring(app.peers[1].load) .. " " .. tostring(other.peers[1].load)
        end }}""")

    wait_until(lambda: gate.get("/").body == b"12.5 0.5")

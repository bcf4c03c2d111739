"""Every phase may do everything: return, sleep, fetch, ask Redis, throw, answer, and be cancelled.

Each phase stands once in PHASES, with what a request must meet so that the phase is reached; each deed is a test over
all of them. Where a deed makes no sense in a phase, the table says what happens instead.
"""
import re

import pytest

from client import chunked, request
from moongate import ROOT, free_port, run, wait_until
from phases import HOOK_LINE, PHASES, peers_of, script
from redis_server import RedisServer
from wire import Cut

EACH = pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES.keys())


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_server, moongate):
    """Its address. At the test's end it hangs up, as the workers' own connections to it would stay open."""
    yield str(redis_server)
    redis_server.hang_up()


@pytest.fixture
def stage(moongate, origin):
    """stage(phase, deed): a gateway with that deed as its one hook."""
    def start(phase, deed, before="", **options):
        start.origin = origin.answers(lambda seen: (200, b"origin", ["Content-Type: text/plain"]))
        second = origin.answers(200, b"second")
        return moongate(script(phase, deed, peers_of(phase, start.origin, second, origin.refuses()), before), **options)
    return start


def ask(gate, phase):
    return gate.post("/", body=b"some") if phase.method == "POST" else gate.get("/")


def assert_as_usual(reply, phase):
    assert reply.status == phase.status
    if phase.body is not None:
        assert reply.body == phase.body


@EACH
def test_a_hook_that_returns_at_once_runs_and_the_exchange_ends_as_usual(stage, phase):
    gate = stage(phase, "")

    reply = ask(gate, phase)

    assert_as_usual(reply, phase)
    gate.wait_log(f"{phase.name} began")


@EACH
def test_a_hook_may_sleep(stage, phase):
    gate = stage(phase, f'gate.sleep(0.02); gate.log.info("{phase.name} went on")')

    reply = ask(gate, phase)

    assert_as_usual(reply, phase)
    gate.wait_log(f"{phase.name} went on")


@EACH
def test_a_hook_may_fetch_over_http(stage, origin, phase):
    other = origin.answers(201, b"fetched")
    gate = stage(phase, f"""local got, why = gate.fetch("http://{other}/x?y=z", {{ body = "asked" }})
        gate.log.info("{phase.name} got", got.status, got:text(), why)""")

    reply = ask(gate, phase)

    assert_as_usual(reply, phase)
    gate.wait_log(f"{phase.name} got 201 fetched nil")
    assert {(seen.method, seen.target, seen.body) for seen in other.requests} == {("POST", "/x?y=z", b"asked")}


@EACH
def test_a_hook_may_ask_redis(stage, redis, phase):
    gate = stage(phase, f"""assert(db:set("{phase.name}", "kept", "EX", 60))
        gate.log.info("{phase.name} got", db:get("{phase.name}"))""", before=f'local db = require "store.redis" "{redis}" {{}}')

    reply = ask(gate, phase)

    assert_as_usual(reply, phase)
    gate.wait_log(f"{phase.name} got kept")


@pytest.mark.parametrize("waits", [False, True], ids=["at-once", "after-a-wait"])
@EACH
def test_a_hook_that_throws_ends_its_exchange_as_documented_with_a_traceback(stage, phase, waits):
    gate = stage(phase, ("gate.sleep(0.001); " if waits else "") + f'error("thrown in {phase.name}")')
    gate.expect_error(f"thrown in {phase.name}")

    if phase.thrown == 0:
        with pytest.raises((Cut, ConnectionError)):
            ask(gate, phase)
    else:
        reply = ask(gate, phase)
        assert reply.status == (phase.thrown or phase.status)

    line = gate.wait_log(rf"gateway\.lua:{HOOK_LINE}: thrown in {phase.name}")[0]
    assert f"{phase.name} of policy staged" in line
    gate.wait_log("stack traceback")
    if phase.name != "connect":             # a connection has no exchange yet
        gate.wait_total("exchanges", 0)
        exchange = re.search(r"\[([0-9a-f]{16})\]", line)[1]
        assert exchange in "".join(map(str, gate.access_log(1)))


@EACH
def test_what_a_hook_returns_is_heeded_as_documented(stage, phase):
    gate = stage(phase, phase.answer)

    if phase.answered is None:
        with pytest.raises((Cut, ConnectionError)):
            ask(gate, phase)
        return
    reply = ask(gate, phase)

    status, body = phase.answered
    assert reply.status == status
    if body is not None:
        assert reply.body == body


def test_what_request_body_returns_goes_to_the_origin(stage):
    gate = stage(PHASES["request_body"], PHASES["request_body"].answer)

    ask(gate, PHASES["request_body"])

    assert stage.origin.last.body == b"replaced"


@EACH
@pytest.mark.parametrize("how", ["fetch", "sleep", "socket"])
def test_a_hook_that_waits_is_cancelled_when_its_client_leaves(stage, origin, phase, how):
    hanging = origin.hangs()
    host, port = str(hanging).split(":")
    deed = {
        "fetch": f'gate.fetch("http://{hanging}/")',
        "sleep": "gate.sleep(30)",
        "socket": f'local s = assert(gate.connect("{host}", {port})); s:send("x"); s:receive("line")',
    }[how]
    if not phase.waits:             # what log does is no longer the client's, so it goes on to its end
        deed = "gate.sleep(0.05)"
    gate = stage(phase, f"""local ok, why = pcall(function() {deed} end)
        gate.log.info("{phase.name} ended", ok, why); if not ok then error(why, 0) end""")
    client = gate.raw()
    client.send(request("POST", body=b"some") if phase.method == "POST" else request())
    gate.wait_log(f"{phase.name} began")
    if how != "sleep" and phase.waits:
        hanging.wait(lambda: hanging.connections)

    client.close()

    if phase.waits:
        gate.wait_log(f"{phase.name} ended false cancelled: the client has left")
        for connection in hanging.connections:
            wait_until(lambda: connection.sock.fileno() < 0, what="what the hook had started is gone")
    else:
        gate.wait_log(f"{phase.name} ended true")
    gate.wait_total("exchanges", 0)


# ---- init and exit belong to no exchange.

INIT = """
    gate.use { name = "staged", init = function() %s end }
    gate.route { "/*", handler = function() return 200, state or "ready" end }
"""


@pytest.mark.parametrize("deed", [
    'state = "quick"', 'gate.sleep(0.02); state = "quick"',
    'local got, why = gate.fetch("http://ORIGIN/"); assert(got.ok, why); state = got:text()',
    'local db = require "store.redis" "REDIS" {}; assert(db:set("init", "quick")); state = db:get("init")',
], ids=["returns", "sleeps", "fetches", "redis"])
@pytest.mark.parametrize("workers", [1, 2])
def test_init_runs_to_its_end_in_each_worker_before_anything_is_served(moongate, origin, redis, deed, workers):
    server = origin.answers(200, b"quick")
    path = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '
    deed = path + deed.replace("ORIGIN", str(server)).replace("REDIS", redis) + '; gate.log.info("init ended")'

    gate = moongate("local state" + INIT % deed, workers=workers)

    assert len(gate.wait_log("init ended", workers)) == workers
    assert gate.get("/").body == b"quick"


@pytest.mark.parametrize("deed", ['error("no database")', 'gate.sleep(0.01); error("no database")'])
def test_an_init_that_throws_refuses_the_start_with_a_traceback(tmp_path, deed):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.listen "127.0.0.1:{free_port()}"' + INIT % deed)

    done = run(script, "--workers", "1")

    assert done.returncode == 1
    assert "gateway.lua:3: no database" in done.stderr and "stack traceback" in done.stderr
    assert "ready:" not in done.stderr


def test_what_init_returns_is_ignored(moongate):
    gate = moongate("local state" + INIT % 'return 418, "tea"')

    assert gate.get("/").body == b"ready"


EXIT = """
    gate.use { name = "staged", exit = function() gate.log.info("exit began") %s end }
    gate.route { "/*", handler = function() return 200, "served" end }
"""


def test_exit_runs_when_the_process_ends(moongate):
    gate = moongate(EXIT % 'gate.log.info("exit ended")')
    assert gate.get("/").body == b"served"

    gate.signal(15)

    assert gate.wait_exit() == 0
    assert "exit ended" in gate.log()


@pytest.mark.parametrize("deed, says", [
    ('error("thrown in exit")', r"gateway\.lua:3: thrown in exit"),
    ("gate.sleep(1)", "it can't wait"),
    ('gate.fetch("http://127.0.0.1:1/")', "it can't wait"),
    ('local db = require "store.redis" "127.0.0.1:1" {}; assert(db:get("x"))', "."),
], ids=["throws", "sleeps", "fetches", "redis"])
def test_an_exit_that_throws_or_waits_is_told_of_and_the_process_ends_well(moongate, deed, says):
    gate = moongate(EXIT % (f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; ' + deed))
    gate.expect_error("exit of policy staged")

    gate.signal(15)

    assert gate.wait_exit() == 0
    gate.wait_log("exit of policy staged: .*(" + says + ")")

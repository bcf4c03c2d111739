"""Probation: the generation of before a reload is kept, and takes its place again when the new one is worse."""
import os
import signal
import socket

import pytest

from client import request
from load import Load
from moongate import free_port, run, wait_until
from test_reload import edit, generations, reload, says

LONG = "probation = 30"
THROWS = 'gate.route { "/*", handler = function() error "a mistake" end }'
FAILS = 'gate.route { "/*", handler = function() return 500, "worse" end }'


def states(gate):
    return {g["number"]: g["state"] for g in gate.status()["generations"]}


def ask(gate, count):
    """Requests on one connection; how many answers have had which status."""
    client, seen = gate.raw(), {}
    for _ in range(count):
        status = client.get("/").status
        seen[status] = seen.get(status, 0) + 1
    client.close()
    return seen


def bodies(gate, count=12):
    return {gate.get("/").body for _ in range(count)}


# ---- By hand.

def test_rollback_puts_the_generation_of_before_in_force_in_every_worker(moongate):
    gate = moongate(says("old"), set=LONG, workers=3)
    reload(gate, says("new"))
    assert bodies(gate) == {b"new"}
    assert states(gate) == {1: "kept", 2: "in force"}

    told = run("rollback", "--control", gate.control_path)

    assert (told.returncode, told.stdout) == (0, "generation 1 is in force again in 3 workers\n"), told.stderr
    assert bodies(gate) == {b"old"}
    assert states(gate) == {1: "in force", 2: "taken back"}
    assert gate.status()["rollback"]["why"] == "it was asked for"
    wait_until(lambda: generations(gate) == [1, 1, 1], what="generation 2 is freed")


def test_what_is_not_kept_can_t_be_taken_back(moongate):
    gate = moongate(says("old"), set=LONG)

    first = run("rollback", "--control", gate.control_path)
    reload(gate, says("new"))
    gate.command("rollback")
    second = run("rollback", "--control", gate.control_path)

    assert first.returncode == second.returncode == 1
    assert "no generation is on probation" in first.stderr and "no generation is on probation" in second.stderr


def test_promote_lets_the_generation_of_before_go(moongate):
    gate = moongate('gate.use { exit = function() gate.log.info "the end" end }\n' + says("old"), set=LONG)
    reload(gate, says("new"))
    assert generations(gate) == [2, 1]
    assert "the end" not in gate.log()

    told = run("promote", "--control", gate.control_path)

    assert told.returncode == 0, told.stderr
    gate.wait_log("the end")
    wait_until(lambda: generations(gate) == [2])
    assert states(gate) == {1: "retired", 2: "in force"}
    assert run("promote", "--control", gate.control_path).returncode == 1
    assert "error" in gate.command("rollback")


def test_probation_ends_by_itself(moongate):
    gate = moongate(says("old"), set="probation = 0.2")

    reload(gate, says("new"))

    gate.wait_log("generation 2 has passed its probation; generation 1 is let go")
    wait_until(lambda: generations(gate) == [2])


def test_a_script_without_probation_keeps_nothing(moongate):
    gate = moongate(says("old"), set="probation = false")

    reload(gate, says("new"))

    wait_until(lambda: generations(gate) == [2])
    assert "error" in gate.command("rollback")


def test_another_reload_ends_the_probation_before_it(moongate):
    gate = moongate(says("first"), set=LONG)
    reload(gate, says("second"))

    reload(gate, says("third"))

    wait_until(lambda: sorted(generations(gate)) == [2, 3])
    gate.command("rollback")
    assert gate.get("/").body == b"second"
    assert reload(gate, says("fourth"))["generation"] == 4, "a number is not used again"
    wait_until(lambda: sorted(generations(gate)) == [2, 4])


def test_exchanges_of_what_is_taken_back_end_in_it(moongate, origin):
    server = origin.holds()
    gate = moongate(says("old"), set=LONG)
    reload(gate, f"""gate.use {{ response = function(req, res) res.headers["x-word"] = "new" end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")
    client = gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)

    gate.command("rollback")
    assert gate.get("/").body == b"old"
    server.go.set()

    assert client.response()["x-word"] == "new"
    assert client.get("/").body == b"old"


def test_timers_rest_while_their_generation_is_kept(moongate):
    script = """local ticks = gate.shared("ticks", "64K")
        local timer = gate.every(0.02, function() ticks:incr("%s", 1, 0) end)
        gate.route { "/stop", handler = function() timer:stop() return 200 end }
        gate.route { "/:name", handler = function(req) return 200, tostring(ticks:get(req.params.name) or 0) end }"""
    gate = moongate(script % "old", set=LONG)

    def ticks(name):
        return int(gate.get("/" + name).body)
    wait_until(lambda: ticks("old") > 1)

    reload(gate, script % "new")
    last = ticks("old")
    wait_until(lambda: ticks("new") > 5)
    assert ticks("old") == last

    gate.command("rollback")
    wait_until(lambda: ticks("old") > last + 2)
    last = ticks("new")
    wait_until(lambda: ticks("old") > last + 5)
    assert ticks("new") == last
    gate.get("/stop")


def test_tables_of_gate_keep_come_back_with_what_was_written_meanwhile(moongate):
    script = """local kept = gate.keep("count", 1, function() return { n = 0 } end)
        gate.route { "/*", handler = function() kept.n = kept.n + 1 return 200, "%s " .. kept.n end }"""
    gate = moongate(script % "old", set=LONG)
    assert gate.get("/").body == b"old 1"
    reload(gate, script % "new")
    assert gate.get("/").body == b"new 2"

    gate.command("rollback")

    assert gate.get("/").body == b"old 3"


# ---- What a commit has changed.

def test_listeners_and_workers_are_as_before(moongate):
    kept, second, third = free_port(), free_port(), free_port()

    def script(other, workers, word):
        return (f'gate.set {{ workers = {workers} }}; gate.listen "127.0.0.1:{kept}"; '
                f'gate.listen "127.0.0.1:{other}"\n' + says(word))
    gate = moongate(script(second, 1, "old"), set=LONG, workers=None, declare_listen=False)
    gate.address = ("127.0.0.1", kept)
    client = gate.raw()
    assert client.get("/").body == b"old"
    reload(gate, script(third, 3, "new"))
    wait_until(lambda: len(gate.worker_pids()) == 3)

    gate.command("rollback")

    wait_until(lambda: len(gate.worker_pids()) == 1)
    assert client.get("/").body == b"old"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", third), 1)
    gate.address = ("127.0.0.1", second)
    assert bodies(gate) == {b"old"}


def test_a_certificate_is_the_one_of_before_though_its_file_is_another(moongate, authority, tmp_path):
    first, second = authority.issue("first.test"), authority.issue("second.test")
    port, cert, key = free_port(), tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(certificate):
        cert.write_bytes(open(certificate.cert, "rb").read())
        key.write_bytes(open(certificate.key, "rb").read())
    install(first)
    gate = moongate(f'gate.listen {{ "127.0.0.1:{port}", tls = {{ cert = "{cert}", key = "{key}" }} }}\n' + says("ok"),
                    set=LONG)
    gate.address = ("127.0.0.1", port)
    install(second)
    reload(gate)
    assert gate.raw(tls=authority.client_context(), name="second.test").get("/").body == b"ok"

    gate.command("rollback")

    assert gate.raw(tls=authority.client_context(), name="first.test").get("/").body == b"ok"


def kill_one(gate):
    before = gate.worker_pids()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: before[0] not in gate.worker_pids() and len(gate.worker_pids()) == len(before) and
               len(generations(gate)) >= len(before), what="another worker")


def test_a_worker_that_begins_during_probation_can_go_back_too(moongate, tmp_path):
    (tmp_path / "word.lua").write_text('return "old"')
    gate = moongate('gate.route { "/*", handler = function() return 200, WORD end }\nWORD = require "word"', set=LONG,
                    workers=2)
    (tmp_path / "word.lua").write_text('return "new"')
    reload(gate)
    kill_one(gate)
    assert bodies(gate) == {b"new"}
    wait_until(lambda: sorted(generations(gate)) == [1, 1, 2, 2], what="the one of before is kept in the new worker")

    gate.command("rollback")

    assert bodies(gate) == {b"old"}
    assert "another worker takes the place" not in gate.log()


def test_a_worker_that_begins_keeps_nothing_that_was_let_go_meanwhile(moongate, tmp_path):
    wait, begun = tmp_path / "wait", tmp_path / "begun"
    gate = moongate('gate.log.info "the old one is loaded"\n' + says("old"), set=LONG, workers=2)
    reload(gate, f"""gate.use {{ init = function()
        if io.open("{wait}") then
          io.open("{begun}", "w"):close()
          while io.open("{wait}") do gate.sleep(0.01) end
        end
      end }}
      """ + says("new"))
    wait.touch()
    os.kill(gate.worker_pids()[0], signal.SIGKILL)
    wait_until(begun.exists)

    gate.command("promote")
    wait.unlink()

    def in_workers():
        return [(g["number"], g["state"]) for worker in gate.status()["workers"] for g in worker["generations"]]
    wait_until(lambda: in_workers() == [(2, "in force")] * 2, what="both serve generation 2")
    assert [in_workers() for _ in range(40)] == [[(2, "in force")] * 2] * 40
    assert len(gate.wait_log("the old one is loaded", 2)) == 2


def test_a_worker_that_begins_after_a_rollback_serves_what_the_others_serve(moongate, tmp_path):
    (tmp_path / "word.lua").write_text('return "old"')
    gate = moongate('gate.route { "/*", handler = function() return 200, WORD end }\nWORD = require "word"', set=LONG,
                    workers=2)
    (tmp_path / "word.lua").write_text('return "new"')
    reload(gate, says("other"))
    gate.command("rollback")

    kill_one(gate)

    assert bodies(gate, 30) == {b"old"}
    reload(gate)
    assert bodies(gate, 30) == {b"other"}


# ---- By itself.

def test_hooks_that_throw_take_the_new_generation_back(moongate):
    gate = moongate(says("old"), set=LONG, workers=2)
    gate.expect_error("a mistake")
    ask(gate, 30)

    reload(gate, THROWS)
    wait_until(lambda: gate.get("/").body == b"old" and "in force again" in gate.log())

    line, = gate.wait_log("generation 1 is in force again in 2 workers")
    assert "had hooks that threw" in line and "0 of 30 (0.00 %) of generation 1" in line
    assert "had hooks that threw" in gate.status()["rollback"]["why"]
    assert bodies(gate) == {b"old"}


def test_hooks_that_threw_before_take_nothing_back(moongate):
    script = """local n = 0
        gate.route { "/*", handler = function() n = n + 1 if n % 3 == 0 then error "a mistake" end return 200 end }"""
    gate = moongate(script, set="probation = 1.5")
    gate.expect_error("a mistake")
    ask(gate, 200)

    reload(gate)
    ask(gate, 200)

    gate.wait_log("has passed its probation")
    assert gate.status()["generation"] == 2


def test_a_connect_hook_that_throws_takes_the_new_generation_back(moongate):
    gate = moongate(says("old"), set=LONG)
    gate.expect_error("a mistake")
    ask(gate, 20)
    reload(gate, 'gate.use { connect = function() error "a mistake" end }\n' + says("new"))

    def serves_again():
        try:
            return gate.get("/").body == b"old"
        except Exception:
            return False
    wait_until(serves_again)

    gate.wait_log("generation 1 is in force again.*had hooks that threw")


def test_more_5xx_answers_take_the_new_generation_back(moongate):
    gate = moongate(says("old"), set=LONG)
    ask(gate, 50)

    reload(gate, FAILS)
    wait_until(lambda: gate.get("/").body == b"old")

    gate.wait_log("generation 1 is in force again.*were answered with 5xx, and 0 of 50")


def test_5xx_answers_that_were_there_before_take_nothing_back(moongate):
    script = """local n = 0
        gate.route { "/*", handler = function() n = n + 1 return n % 4 == 0 and 503 or 200 end }"""
    gate = moongate(script, set="probation = 1.5")
    ask(gate, 400)

    reload(gate)
    ask(gate, 400)

    gate.wait_log("has passed its probation")
    assert gate.status()["generation"] == 2


def test_a_growth_below_what_is_allowed_takes_nothing_back(moongate):
    gate = moongate(says("old"), set="probation = { time = 1.5, errors = 1 }")
    ask(gate, 50)

    reload(gate, 'local n = 0\ngate.route { "/*", handler = function() n = n + 1 return n > 1 and 500 or 200 end }')
    ask(gate, 50)

    gate.wait_log("has passed its probation")
    assert gate.get("/").status == 500


def test_status_counts_by_generation(moongate):
    gate = moongate(says("old"), set=LONG, workers=2)
    gate.expect_error("a mistake")
    for _ in range(7):
        gate.get("/")

    reload(gate, 'gate.route { "/a", handler = function() error "a mistake" end }\n' + says("new"))
    for _ in range(3):
        gate.get("/a")
    gate.get("/")

    wait_until(lambda: [(g["exchanges"], g["failures"], g["hook_errors"]) for g in gate.status()["generations"]] ==
               [(7, 0, 0), (4, 3, 3)])
    assert gate.status()["probation"]["before"] == {"exchanges": 7, "failures": 0, "hook_errors": 0}


def test_nothing_fails_while_generations_change_place(moongate, origin):
    server = origin.answers(200, b"x" * 1000)
    script = f"""gate.use {{ access = function(req) req.headers["x-seen"] = "1" end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}"""
    gate = moongate(script, set=LONG, workers=2)
    load = Load(gate, expected=b"x" * 1000)

    for _ in range(30):
        reload(gate)
        assert "error" not in gate.command("rollback")
    counts = load.stop()

    assert min(counts.values()) > 20, counts
    wait_until(lambda: generations(gate) == [1, 1])


# ---- What can be said wrongly.

@pytest.mark.parametrize("given, text", [
    ('"long"', 'gate.set: probation must be seconds, false, or a table like { time = 30 }, got "long"'),
    ("-1", "gate.set: probation: time must be a number of seconds, 0 or more, got -1"),
    ("{ tine = 5 }", 'gate.set: probation: unknown key "tine"'),
    ("{ errors = 2 }", "gate.set: probation: errors must be a number from 0 to 1, got 2"),
    ("{ least = 0 }", "gate.set: probation: least must be"),
])
def test_a_wrong_setting_is_told(tmp_path, given, text):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.set {{ probation = {given} }}\n')

    told = run("check", script)

    assert told.returncode == 1 and f"gateway.lua:2: {text}" in told.stderr, told.stderr

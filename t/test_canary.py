"""Canaries: a share of the exchanges begins in the new generation, until it is promoted or taken back."""
import os
import signal
import threading

import pytest

from client import Client, request
from h2wire import Http2, get
from load import Load
from moongate import free_port, run, wait_until
from test_reload import edit, generations, says

LONG = "probation = 30"
FAILS = 'gate.route { "/*", handler = function() return 500, "worse" end }'
THROWS = 'gate.route { "/*", handler = function() error "a mistake" end }'


def try_out(gate, script, share, *by):
    edit(gate, script)
    done = run("reload", "--canary", share, *[word for key in by for word in ("--by", key)], "--control", gate.control_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(gate, count, *fields):
    """How often each body came, on one connection."""
    client, seen = gate.raw(), {}
    for _ in range(count):
        body = client.get("/", *fields).body
        seen[body] = seen.get(body, 0) + 1
    client.close()
    return seen


def share_of(gate, word, count=2000):
    seen = [answers(gate, count // 4) for _ in range(4)]
    return sum(each.get(word, 0) for each in seen) / sum(sum(each.values()) for each in seen)


def states(gate):
    return {g["number"]: g["state"] for g in gate.command("generations")["generations"]}


def test_a_share_of_the_exchanges_begins_in_the_new_generation_in_every_worker(moongate):
    gate = moongate(says("old"), set=LONG, workers=2)

    told = try_out(gate, says("new"), "30%")

    assert told.startswith("generation 2 is tried out with 30 % of the exchanges in 2 workers after ")
    assert abs(share_of(gate, b"new") - 0.3) < 0.06         # five deviations
    assert states(gate) == {1: "in force", 2: "canary"}
    assert gate.status()["canary"] == {"generation": 2, "share": 0.3, "of": "30 % of the exchanges"}


def test_exchanges_errors_and_hooks_are_counted_by_generation(moongate):
    gate = moongate(says("old"), set="probation = false")
    try_out(gate, FAILS, "0.5")

    seen = answers(gate, 200)

    def counted():
        rows = {g["number"]: g for g in gate.command("generations")["generations"]}
        return [rows[1]["exchanges"], rows[1]["failures"], rows[2]["exchanges"], rows[2]["failures"]]
    wait_until(lambda: counted() == [seen[b"old"], 0, seen[b"worse"], seen[b"worse"]])


@pytest.mark.parametrize("key, field", [("cookie:user", "Cookie: a=1; user=%s; b=2"), ("header:x-user", "X-User: %s")],
                         ids=["cookie", "header"])
def test_a_client_stays_with_one_generation_in_all_workers(moongate, key, field):
    gate = moongate(says("old"), set=LONG, workers=2)
    try_out(gate, says("new"), "40%", key)

    met = [answers(gate, 3, field % f"user-{n}") for n in range(150)]

    assert all(len(each) == 1 for each in met)
    assert [set(answers(gate, 2, field % f"user-{n}")) for n in range(150)] == [set(each) for each in met]
    assert abs(sum(b"new" in each for each in met) / 150 - 0.4) < 0.2
    assert set(answers(gate, 30)) == {b"old"}, "who has no key is not tried upon"


def test_streams_of_one_connection_of_http2_go_by_their_own_keys(moongate):
    gate = moongate(says("old"), set=LONG)
    try_out(gate, says("new"), "50%", "cookie:user")
    fields = ["Cookie: user=user-%d" % n for n in range(30)]
    expected = [gate.get("/", field).body for field in fields]

    client = Http2(gate.address).ready()
    met = [client.get("/", ("cookie", "a=1"), ("cookie", "user=user-%d" % n)).body for n in range(30)]
    client.close()

    assert met == expected and len(set(met)) == 2


def test_all_requests_of_an_address_go_the_same_way(moongate):
    gate = moongate(says("old"), set=LONG, workers=2)
    try_out(gate, says("new"), "50%", "client")

    assert len({body for _ in range(6) for body in answers(gate, 5)}) == 1


def test_promote_puts_it_in_force_and_on_probation(moongate):
    gate = moongate(says("old"), set=LONG, workers=2)
    try_out(gate, says("new"), "10%")

    told = run("promote", "--control", gate.control_path)

    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("generation 2 is in force in 2 workers")
    assert set(answers(gate, 40)) == {b"new"}
    assert states(gate) == {1: "kept", 2: "in force"}
    assert run("rollback", "--control", gate.control_path).returncode == 0
    assert set(answers(gate, 40)) == {b"old"}


def test_rollback_ends_it_and_its_exchanges_end_in_it(moongate, origin):
    server = origin.holds()
    gate = moongate(says("old"), set=LONG)
    try_out(gate, f"""gate.use {{ response = function(req, res) res.headers["x-word"] = "new" end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""", "99.9%")
    client = gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)

    told = run("rollback", "--control", gate.control_path)

    assert (told.returncode, told.stdout) == (0, "generation 2 is tried out no more, and generation 1 serves all\n")
    assert set(answers(gate, 40)) == {b"old"}
    server.go.set()
    assert client.response()["x-word"] == "new"
    wait_until(lambda: generations(gate) == [1], what="generation 2 is freed")
    assert states(gate) == {1: "in force", 2: "taken back"}
    assert "error" in gate.command("rollback")


@pytest.mark.parametrize("script, told", [(FAILS, "were answered with 5xx"), (THROWS, "had hooks that threw")], ids=["5xx", "throws"])
def test_one_that_is_worse_than_the_one_in_force_is_taken_back_by_itself(moongate, script, told):
    gate = moongate(says("old"), set=LONG, workers=2)
    gate.expect_error("a mistake")
    try_out(gate, script, "20%")
    stopped = threading.Event()

    def ask():
        while not stopped.is_set():
            answers(gate, 20)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        gate.wait_log(f"generation 2 is tried out no more, and generation 1 serves all: .*{told}")
    finally:
        stopped.set()
        asking.join()

    assert set(answers(gate, 60)) == {b"old"}
    assert told in gate.status()["rollback"]["why"]


def test_it_is_judged_by_what_the_other_does_meanwhile(moongate):
    gate = moongate(FAILS, set=LONG)
    answers(gate, 50)
    try_out(gate, FAILS, "50%")

    answers(gate, 300)
    wait_until(lambda: gate.command("generations")["generations"][1]["exchanges"] > 50)
    first = gate.status()["uptime"]
    wait_until(lambda: gate.status()["uptime"] > first + 1)        # two looks

    assert states(gate) == {1: "in force", 2: "canary"}


def test_nothing_else_is_reloaded_meanwhile(moongate):
    gate = moongate(says("old"), set=LONG)
    try_out(gate, says("new"), "50%")

    for command in ("reload", "check", "upgrade"):
        assert gate.command(command)["error"] == "a generation is tried out; promote it or roll it back first"
    gate.signal(signal.SIGHUP)
    gate.wait_log("nothing is reloaded while a generation is tried out; promote it or roll it back first")
    assert states(gate) == {1: "in force", 2: "canary"}


def test_new_addresses_are_bound_when_it_is_promoted_and_not_before(moongate):
    other = free_port()
    gate = moongate(says("old"), set=LONG)
    try_out(gate, f'gate.listen "127.0.0.1:{other}"; ' + says("new"), "50%")

    with pytest.raises(OSError):
        Client(("127.0.0.1", other))
    assert gate.command("promote")["changes"]["listeners"]["added"] == [f"127.0.0.1:{other}"]

    client = Client(("127.0.0.1", other))
    assert client.get("/").body == b"new"
    client.close()


def test_a_worker_that_begins_meanwhile_tries_it_out_too(moongate, tmp_path):
    gate = moongate(says("old"), set=LONG, workers=2)
    try_out(gate, says("new"), "50%")
    edit(gate, says("edited since"))
    before = gate.worker_pids()

    os.kill(before[0], signal.SIGKILL)

    wait_until(lambda: len(pids := gate.worker_pids()) == 2 and before[0] not in pids)
    wait_until(lambda: sorted(generations(gate)) == [1, 1, 2, 2])
    assert set(answers(gate, 60)) | set(answers(gate, 60)) == {b"old", b"new"}
    gate.command("promote")
    os.kill(gate.worker_pids()[1], signal.SIGKILL)
    wait_until(lambda: len(gate.worker_pids()) == 2 and before[1] not in gate.worker_pids())
    assert {body for _ in range(8) for body in answers(gate, 3)} == {b"new"}


def test_when_it_loses_its_vm_it_is_taken_back(moongate):
    gate = moongate(says("old"), set=LONG + ", cpu_budget = 0.05", workers=2)
    gate.expect_error("cpu_budget|thrown away")
    try_out(gate, 'gate.route { "/*", handler = function(req) if req.headers["x-loop"] then while true do end end return 200, "new" end }', "90%")

    statuses = [gate.get("/", "X-Loop: 1").status for _ in range(3)]

    assert set(statuses) <= {200, 500} and 500 in statuses
    gate.wait_log("generation 2 is tried out no more, and generation 1 serves all: a run of it overran")
    assert set(answers(gate, 40)) == {b"old"}


@pytest.mark.parametrize("end", [None, "rollback", "promote"])
def test_a_generation_that_loses_its_vm_is_built_of_its_own_text(moongate, end):
    """The disk holds the script of the canary, or what was written since."""
    loops = """gate.route { "/*", handler = function(req)
        if req.headers["x-loop"] then while true do end end
        return 200, "%s" end }"""
    gate = moongate(loops % "old", set=LONG + ", cpu_budget = 0.05", workers=2)
    gate.expect_error("cpu_budget|another worker takes the place")
    try_out(gate, loops % "new", "10%", "cookie:user")
    if end:
        gate.command(end)
    edit(gate, says("edited since"))
    before = gate.worker_pids()
    client = gate.raw()
    client.send(request("GET", "/", "X-Loop: 1"))
    wait_until(lambda: len(pids := gate.worker_pids()) == 2 and set(pids) != set(before), what="another worker")

    assert {body for _ in range(8) for body in answers(gate, 3)} == {b"new" if end == "promote" else b"old"}
    assert gate.get("/", "X-Loop: 1").status in (200, 500)
    assert {body for _ in range(8) for body in answers(gate, 3)} == {b"new" if end == "promote" else b"old"}


@pytest.mark.parametrize("end, word", [("promote", b"new"), ("rollback", b"old")])
@pytest.mark.parametrize("slow", ["the one in force", "the canary"])
def test_it_can_end_while_a_worker_begins(moongate, tmp_path, slow, end, word):
    marks = tmp_path / "marks"
    marks.mkdir()
    waits = f"""gate.use {{ init = function()
        if io.open("{marks}/wait") then
          io.open("{marks}/begun", "w"):close()
          while io.open("{marks}/wait") do gate.sleep(0.01) end
        end
        begun = true
      end }}
      gate.route {{ "/*", handler = function() return 200, begun and "%s" or "too early" end }}"""
    old, new = (waits % "old", says("new")) if slow == "the one in force" else (says("old"), waits % "new")
    gate = moongate(old, set=LONG, workers=2)
    try_out(gate, new, "50%")
    before = gate.worker_pids()
    (marks / "wait").touch()
    os.kill(before[0], signal.SIGKILL)
    wait_until((marks / "begun").exists)

    told = gate.command(end)
    early = [body for _ in range(8) for body in answers(gate, 3)]
    (marks / "wait").unlink()

    assert "error" not in told and set(early) == {word}
    number = 2 if end == "promote" else 1
    wait_until(lambda: [w["generation"] for w in gate.status()["workers"]] == [number] * 2, what="both serve it")
    assert {body for _ in range(8) for body in answers(gate, 3)} == {word}
    if end == "rollback":
        wait_until(lambda: generations(gate) == [1, 1], what="generation 2 is freed")


def test_under_load_nothing_is_lost_while_it_begins_is_promoted_and_ends(moongate):
    gate = moongate(says("ok"), set="probation = 0", workers=2)
    load = Load(gate)

    for number in range(6):
        try_out(gate, says("ok") + f" -- {number}", "20%")
        assert "error" not in gate.command("promote" if number % 2 else "rollback")

    assert load.stop()["kept"] > 50
    wait_until(lambda: len(generations(gate)) == 2)


@pytest.mark.parametrize("words, told", [
    (["reload", "--canary", "0"], "the share of a canary must be above 0 and below 100 per cent"),
    (["reload", "--canary", "100%"], "the share of a canary must be above 0 and below 100 per cent"),
    (["reload", "--canary", "much"], 'the share of a canary must be above 0 and below 100 per cent, like "5%" or "0.05", got "much"\n'),
    (["reload", "--canary", "5"], 'like "5%" or "0.05", got "5"; for 5 per cent write "5%"\n'),
    (["reload", "--canary", "500"], 'like "5%" or "0.05", got "500"\n'),
    (["reload", "--canary", "5%", "--by", "moon"], "a canary goes by client, cookie:NAME or header:NAME"),
    (["reload", "--canary", "5%", "--by", "cookie:a b"], "a canary goes by client, cookie:NAME or header:NAME"),
], ids=["0", "all", "no number", "no unit", "too many", "no key", "no cookie"])
def test_a_mistake_in_its_terms_changes_nothing(moongate, words, told):
    gate = moongate(says("old"), set=LONG)

    done = run(*words, "--control", gate.control_path)

    assert done.returncode == 1
    assert told in done.stderr
    assert states(gate) == {1: "in force"}


@pytest.mark.parametrize("words, told", [
    (["status", "--canary", "5%"], "--canary and --by belong to reload, not to status"),
    (["reload", "--by", "client"], "--by needs a share: --canary 5%"),
], ids=["another verb", "no share"])
def test_a_mistake_on_the_command_line_is_told(words, told):
    done = run(*words, "--control", "/nowhere")

    assert done.returncode == 2
    assert told in done.stderr


def test_the_generations_are_listed_for_people(moongate):
    gate = moongate(says("old"), set=LONG)
    try_out(gate, says("new"), "5%", "cookie:user")

    lines = run("generations", "--control", gate.control_path).stdout.splitlines()

    assert lines[0] == "generation 2 is tried out with 5 % of the clients by cookie:user"
    assert lines[2].endswith("Lua MiB")
    assert [line.split()[:2] for line in lines[3:]] == [["1", "in"], ["2", "canary"]]
    assert all(float(line.split()[-1]) > 0 for line in lines[3:])


def test_the_memory_of_each_generation_is_told_of_all_workers_together(moongate):
    gate = moongate(says("old"), set=LONG, workers=2)
    edit(gate, "local held = {} for i = 1, 100000 do held[i] = 'text ' .. i end\n" + says("new"))
    assert "error" not in gate.command("reload", canary="5%")

    told = {g["number"]: g["memory"] for g in gate.command("generations")["generations"]}

    of_workers = [{g["number"]: g["memory"] for g in w["generations"]} for w in gate.status()["workers"]]
    assert told[2] > told[1] + 2 * 4_000_000
    for number in (1, 2):
        assert told[number] == pytest.approx(sum(each[number] for each in of_workers), rel=0.3)
    assert gate.command("rollback")
    wait_until(lambda: [g["memory"] for g in gate.command("generations")["generations"] if g["number"] == 2] == [0])


def test_a_script_that_is_bad_is_not_tried_out(moongate):
    gate = moongate(says("old"), set=LONG)
    edit(gate, "nonsense(")

    done = run("reload", "--canary", "5%", "--control", gate.control_path)

    assert done.returncode == 1 and "gateway.lua" in done.stderr
    gate.expect_error("nothing has changed")
    assert states(gate) == {1: "in force"}

"""A policy that overruns its budgets again and again is taken out, as it has declared."""
import json

import pytest

from moongate import run
from test_budget import RUNAWAYS, cut_or_status
from test_reload import reload

STOPPED = ["a loop that is never compiled", "a hog of memory", "an error that is swallowed"]
LOST = ["a loop", "a pathological pattern"]


def script(on_fail, deed="a loop that is never compiled", phase="access", settings="max_trips = 3"):
    declared = f'on_fail = "{on_fail}", ' if on_fail else ""
    return f"""local function run() {RUNAWAYS[deed]} end
        gate.set {{ cpu_budget = 0.05, memory_limit = "48M", {settings} }}
        local auth = {{ name = "auth", {declared}{phase} = function(req) if req.query then run() end end }}
        local stamp = {{ name = "stamp", response = function(_, res) res.headers["x-stamp"] = "1" end }}
        gate.route {{ "/guarded", policies = {{ auth, stamp }}, handler = function() return 200, "served" end }}
        gate.route {{ "/also", policies = {{ auth }}, handler = function() return 200 end }}
        gate.route {{ "/free", handler = function() return 200 end }}"""


def policies(gate):
    return [p for worker in gate.status()["workers"] for g in worker["generations"] for p in g["policies"]
            if g["state"] == "in force"]


@pytest.mark.parametrize("deed", STOPPED + LOST, ids=lambda deed: deed.replace(" ", "-"))
@pytest.mark.parametrize("on_fail, after", [("open", 200), ("closed", 503)])
def test_after_max_trips_it_is_skipped_or_its_routes_are_closed(moongate, on_fail, after, deed):
    gate = moongate(script(on_fail, deed))
    gate.expect_error(r".")

    outcomes = [gate.get("/guarded?now").status for _ in range(3)]

    assert outcomes == [500, 500, 500]
    reply = gate.get("/guarded?now")
    assert (reply.status, reply["x-stamp"]) == (after, "1")
    assert [gate.get(path).status for path in ("/guarded", "/also", "/free", "/none")] == [after, after, 200, 404]
    assert policies(gate) == [{"name": "auth", "trips": 3, "out": on_fail}]
    told = gate.wait_log("policy auth has overrun its budgets 3 times within 60 s")
    assert len(told) == 1 and f'on_fail = "{on_fail}"' in told[0]


def test_what_takes_more_than_memory_limit_is_taken_out_too(moongate):
    gate = moongate(script("open", "a hog of memory").replace("cpu_budget = 0.05", "cpu_budget = 10"))
    gate.expect_error(r".")

    assert [gate.get("/guarded?now").status for _ in range(4)] == [500, 500, 500, 200]
    assert policies(gate) == [{"name": "auth", "trips": 3, "out": "open"}]


def test_a_closed_route_says_why_in_the_access_log(moongate):
    gate = moongate(script("closed", settings="max_trips = 1"))
    gate.expect_error(r".")

    gate.get("/guarded?now")
    gate.get("/guarded")

    line = gate.access_log(2)[1]
    assert (line["status"], line["error"]) == (503, "policy auth is taken out: it has overrun its budgets too often")


def test_error_hooks_may_answer_for_a_closed_route(moongate):
    gate = moongate("""gate.use { error = function(req, err) return err.status, "sorry: " .. err.reason end }
        """ + script("closed", settings="max_trips = 1"))
    gate.expect_error(r".")
    gate.get("/guarded?now")

    assert gate.get("/guarded").body == b"sorry: policy auth is taken out: it has overrun its budgets too often"


def test_without_on_fail_a_policy_is_never_taken_out(moongate):
    gate = moongate(script(None))
    gate.expect_error(r".")

    assert [gate.get("/guarded?now").status for _ in range(5)] == [500] * 5

    assert gate.get("/guarded").status == 200
    assert policies(gate) == [{"name": "auth", "trips": 5, "out": False}]


def test_trips_that_lie_further_apart_than_the_window_do_not_count_together(moongate):
    gate = moongate(script("closed", settings="max_trips = 2, trips_window = 0.1") +
                    '\ngate.route { "/pause", handler = function() gate.sleep(0.2) return 200 end }')
    gate.expect_error(r".")

    for _ in range(3):
        assert gate.get("/guarded?now").status == 500
        assert gate.get("/pause").status == 200

    assert gate.get("/guarded").status == 200


def test_other_errors_do_not_count(moongate):
    gate = moongate(script("closed", deed="an error", settings="max_trips = 1"))
    gate.expect_error(r".")

    assert [gate.get("/guarded?now").status for _ in range(3)] == [500] * 3

    assert gate.get("/guarded").status == 200 and policies(gate) == []


def test_a_reload_brings_it_back(moongate):
    gate = moongate(script("closed", settings="max_trips = 1"))
    gate.expect_error(r".")
    gate.get("/guarded?now")
    assert gate.get("/guarded").status == 503

    reload(gate)

    assert gate.get("/guarded").status == 200
    assert policies(gate) == []
    assert [gate.get("/guarded?now").status, gate.get("/guarded").status] == [500, 503]


def test_what_was_taken_out_stays_out_when_the_vm_is_lost_to_another_hook(moongate):
    gate = moongate(script("closed", settings="max_trips = 1") +
                    '\ngate.route { "/lost", handler = function() while true do end end }')
    gate.expect_error(r".")
    gate.get("/guarded?now")

    assert gate.get("/lost").status == 500
    gate.wait_log("built anew", count=2)

    assert [gate.get("/guarded").status, gate.get("/free").status] == [503, 200]
    assert len(gate.wait_log("is taken out until")) == 1


@pytest.mark.parametrize("phase", ["request_body", "handle", "response", "response_body", "log", "error", "balance"])
def test_a_policy_of_any_phase_closes_its_routes(moongate, origin, phase):
    gate = moongate(f"""local function spin() while true do end end
        jit.off(spin)
        gate.set {{ cpu_budget = 0.05, max_trips = 1 }}
        local app = gate.upstream("app", {{ peers = {{ "{origin.answers(200, b"origin") if phase != "error" else origin.refuses()}" }} }})
        gate.route {{ "/", upstream = app, policies = {{ {{ name = "staged", on_fail = "closed", {phase} = function() spin() end }} }} }}
        gate.route {{ "/free", handler = function() return 200 end }}""")
    gate.expect_error(r".")
    if phase == "request_body":
        gate.post("/", body=b"body")
    else:
        cut_or_status(gate, "GET", "/")
    gate.wait_log("is taken out")

    assert [gate.get("/").status, gate.get("/").status, gate.get("/free").status] == [503, 503, 200]


def test_a_policy_of_gate_use_closes_all_routes_but_not_the_404(moongate):
    gate = moongate("""local function spin() while true do end end
        jit.off(spin)
        gate.set { cpu_budget = 0.05, max_trips = 1 }
        gate.use { name = "everywhere", on_fail = "closed", request = function(req) if req.query then spin() end end,
            response = function() end }
        gate.route { "/a", handler = function() return 200 end }
        gate.route { "/b/*", policies = { { access = function() return 200 end } }, handler = function() return 200 end }""")
    gate.expect_error(r".")
    gate.get("/a?now")

    assert [gate.get(path).status for path in ("/a", "/b/c", "/none")] == [503, 503, 404]


@pytest.mark.parametrize("on_fail", ["open", "closed"])
def test_a_connect_hook_that_is_taken_out_lets_all_in_or_nobody(moongate, on_fail):
    gate = moongate(f"""local function spin() while true do end end
        jit.off(spin)
        gate.set {{ cpu_budget = 0.05, max_trips = 1 }}
        local armed = gate.shared("armed", "64K")
        gate.use {{ name = "door", on_fail = "{on_fail}", connect = function() if armed:delete "now" then spin() end end }}
        gate.route {{ "/arm", handler = function() armed:set("now", true) return 200 end }}
        gate.route {{ "/", handler = function() return 200 end }}""")
    gate.expect_error(r".")
    kept = gate.raw()
    kept.get("/arm")
    assert cut_or_status(gate, "GET", "/") == "cut"

    assert cut_or_status(gate, "GET", "/") == {"open": 200, "closed": "cut"}[on_fail]
    assert kept.get("/").status == {"open": 200, "closed": 503}[on_fail]


def test_an_exchange_that_was_past_the_gate_when_it_closed_fails(moongate, origin):
    """A filter that takes secrets out of bodies, say: nothing may pass without it."""
    gate = moongate(f"""local function spin() while true do end end
        jit.off(spin)
        gate.set {{ cpu_budget = 0.05, max_trips = 1 }}
        gate.route {{ "/*", handler = function(req) if req.path == "/late" then gate.sleep(0.4) end return 200, "secret" end,
            policies = {{ {{ name = "redact", on_fail = "closed", response_body = function(req, res, chunk)
                if req.path == "/now" then spin() end
                return chunk and "***"
            end }} }} }}""")
    gate.expect_error(r".")
    late = gate.raw()
    late.send(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
    gate.wait_total("fibers", 1)
    cut_or_status(gate, "GET", "/now")
    gate.wait_log("is taken out")

    assert b"secret" not in late.until_close()


def test_the_moongate_status_shows_what_is_out(moongate):
    gate = moongate(script("closed", settings="max_trips = 1"))
    gate.expect_error(r".")
    gate.get("/guarded?now")

    told = run("status", "--json", "--control", gate.control_path)

    assert json.loads(told.stdout)["workers"][0]["generations"][0]["policies"] == [{"name": "auth", "trips": 1, "out": "closed"}]

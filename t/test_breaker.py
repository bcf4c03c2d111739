"""An upstream's circuit breaker: when it opens, what it answers, and how it closes again."""
import os
import signal

from client import request
from moongate import wait_until
from test_ejection import Bad, statuses
from test_health import upstream


def guarded(peers, breaker, more="", before=""):
    listed = ", ".join(f'"{peer}"' for peer in peers)
    return f"""{before}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ {listed} }}, retry = false, {more}
          breaker = {{ {breaker} }} }}) }}"""


def test_after_so_many_failures_in_a_row_nobody_is_asked_any_more(moongate, origin):
    bad = Bad(origin)
    gate = moongate(guarded([bad], "consecutive = 5, time = 30"))

    got = statuses(gate, 20)

    assert got == [500] * 5 + [503] * 15
    assert bad.server.seen == 5
    line, = gate.wait_log("upstream app has its breaker open: ")
    assert line.endswith("5 tries in a row have failed; for 30 s (number 1)")
    assert gate.access_log(20)[-1]["error"] == "the breaker of upstream app is open: 5 tries in a row have failed"
    assert upstream(gate)["breaker"] == "open"


def test_half_open_lets_a_few_pass_and_closes_when_they_are_answered(moongate, origin):
    bad = Bad(origin)
    gate = moongate(guarded([bad], "consecutive = 2, time = 0.3, tries = 2"))
    assert statuses(gate, 3) == [500, 500, 503]

    bad.status = 200
    wait_until(lambda: statuses(gate, 1) == [200])
    assert statuses(gate, 10) == [200] * 10

    for text in ("has its breaker half open: 2 tries may pass", "has its breaker closed: 2 tries were answered"):
        assert len(gate.wait_log(text)) == 1


def test_only_so_many_pass_while_it_is_half_open(moongate, origin):
    bad, held = Bad(origin), origin.holds()
    gate = moongate(guarded([bad, held], "consecutive = 1, time = 1, tries = 2",
                            more='balance = function(req, peers) return peers[req.path == "/held" and 2 or 1] end,'))
    assert statuses(gate, 1) == [500]
    clients = []

    def two_have_passed():
        clients.append(gate.raw())
        clients[-1].send(request("GET", "/held"))
        return held.seen == 2
    wait_until(two_have_passed, every=0.05)
    others = [gate.get("/held").status for _ in range(3)]

    assert others == [503] * 3 and held.seen == 2
    held.go.set()
    gate.wait_log("has its breaker closed: 2 tries were answered")
    assert gate.get("/held").status == 200


def test_a_failure_while_it_is_half_open_opens_it_again_for_longer(moongate, origin):
    bad = Bad(origin)
    gate = moongate(guarded([bad], "consecutive = 1, time = 0.2, time_most = 0.5"))

    def three_times():
        statuses(gate, 1)
        return gate.log().count("has its breaker open: ") >= 4
    wait_until(three_times)

    lines = gate.wait_log("has its breaker open: ", count=4)
    assert [line.split("; for ")[1] for line in lines[:4]] == [
        "0.2 s (number 1)", "0.4 s (number 2)", "0.5 s (number 3)", "0.5 s (number 4)"]
    assert bad.server.seen == 4


def test_a_share_of_errors_within_a_window_opens_it(moongate, origin):
    answers = iter([500, 200] * 1000)
    flaky = origin.answers(lambda request: (next(answers), b"", ()))
    gate = moongate(guarded([flaky], "errors = 0.5, least = 10, window = 2, time = 30"))
    client = gate.raw()

    wait_until(lambda: client.get("/").status == 503)

    assert "tries within 2 s have failed; for 30 s (number 1)" in gate.wait_log("has its breaker open: ")[0]


def test_it_is_one_for_all_workers(moongate, origin):
    bad = Bad(origin)
    gate = moongate(guarded([bad], "consecutive = 5, time = 30"), workers=3)

    got = [gate.get("/").status for _ in range(40)]

    assert got == [500] * 5 + [503] * 35
    assert gate.log().count("has its breaker open: ") == 1


def test_more_than_max_active_in_flight_are_refused_at_once(moongate, origin):
    held = origin.holds()
    gate = moongate(guarded([held], "max_active = 2"), workers=2)
    clients = [gate.raw() for _ in range(2)]
    for client in clients:
        client.send(request("GET", "/"))
    held.wait_seen(2)

    refused = [gate.get("/").status for _ in range(5)]
    held.go.set()

    assert refused == [503] * 5 and held.seen == 2
    assert [client.response().status for client in clients] == [200, 200]
    assert len(gate.wait_log("upstream app has its breaker open: 2 requests are in flight")) == 1
    assert gate.access_log(5)[0]["error"] == "the breaker of upstream app is open: 2 requests are in flight"
    assert gate.get("/").status == 200, "as soon as there are fewer"
    gate.wait_log("upstream app has its breaker closed: nobody has been refused for a while")


def test_more_than_max_waiting_do_not_wait(moongate, origin):
    held = origin.holds()
    gate = moongate(guarded([held], "max_waiting = 1", more="max_connections = 1, queue = 100, queue_timeout = 5,"))
    first, second = gate.raw(), gate.raw()
    first.send(request("GET", "/"))
    held.wait_seen(1)
    second.send(request("GET", "/"))
    gate.wait_total("queued", 1)

    assert gate.get("/").status == 503
    held.go.set()

    assert [first.response().status, second.response().status] == [200, 200]
    assert "the breaker of upstream app is open: 1 requests wait for a peer" in {
        line["error"] for line in gate.access_log(3)}


def test_what_a_dead_worker_had_in_flight_counts_no_more(moongate, origin):
    held = origin.holds()
    gate = moongate(guarded([held], "max_active = 1"))
    gate.expect_error("worker")
    client = gate.raw()
    client.send(request("GET", "/"))
    held.wait_seen(1)
    pid = gate.worker_pids()[0]

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gate.worker_pids() and pid not in gate.worker_pids())
    held.go.set()

    assert gate.get("/").status == 200


def test_the_script_hears_of_it_and_sees_it(moongate, origin):
    bad = Bad(origin)
    gate = moongate(guarded([bad], "consecutive = 1, time = 0.2, tries = 1", before="""
        gate.use { peer = function(upstream, peer, event) gate.log.info("told " .. event.name .. " " .. upstream.breaker) end }"""))

    statuses(gate, 1)
    gate.wait_log("told breaker open open")
    bad.status = 200
    wait_until(lambda: statuses(gate, 1) == [200])

    gate.wait_log("told breaker half open")
    gate.wait_log("told breaker closed closed")


def test_a_request_is_not_tried_again_at_an_upstream_whose_breaker_is_open(moongate, origin):
    bad = [origin.plays(lambda connection: connection.request() and connection.reset()) for _ in range(3)]
    gate = moongate(guarded(bad, "consecutive = 1, time = 30").replace("retry = false", "retry = { attempts = 3, budget = 1 }"))

    assert statuses(gate, 1) == [502]
    assert sum(each.seen for each in bad) == 1

"""Peers that fail requests are left out for a while; when too few are left, all count; the script hears of it."""
from collections import Counter

import pytest

import moongate as moongate_module
from client import request
from moongate import wait_until
from test_health import upstream

EJECTED, BACK = "is ejected: ", "is back: "


class Bad:
    """An origin that answers what the test says."""

    def __init__(self, origin, status=500, name=b"bad"):
        self.status, self.name = status, name
        self.server = origin.answers(lambda request: (self.status, self.name, ()))

    def __str__(self):
        return str(self.server)


def ejecting(peers, eject, more="", before=""):
    listed = ", ".join(f'"{peer}"' for peer in peers)
    return f"""{before}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ {listed} }}, retry = false, {more}
          eject = {{ {eject} }} }}) }}"""


def statuses(gate, count):
    client = gate.raw()
    return [client.get("/").status for _ in range(count)]


def test_a_peer_that_fails_so_many_in_a_row_is_left_out_and_comes_back(moongate, origin):
    bad, good = Bad(origin), origin.answers()
    gate = moongate(ejecting([bad, good], "consecutive = 3, errors = 0, time = 0.4"))

    got = statuses(gate, 20)

    assert Counter(got) == {500: 3, 200: 17}
    line, = gate.wait_log(f"upstream app: peer {bad} {EJECTED}")
    assert line.endswith("3 tries in a row have failed; for 0.4 s (number 1)")
    assert (upstream(gate)["ejected"], upstream(gate)["healthy"]) == (1, 1)
    bad.status = 200
    gate.wait_log(f"upstream app: peer {bad} {BACK}its ejection is over")
    seen = bad.server.seen
    assert statuses(gate, 10) == [200] * 10
    assert bad.server.seen == seen + 5


def test_what_succeeds_between_ends_a_row(moongate, origin):
    answers = iter([500, 500, 200] * 100)
    flaky = origin.answers(lambda request: (next(answers), b"", ()))
    gate = moongate(ejecting([flaky, origin.answers()], "consecutive = 3, errors = 0"))

    statuses(gate, 60)

    assert EJECTED not in gate.log()


def test_a_try_whose_client_has_left_shows_nothing(moongate, origin):
    def play(connection):
        while request := connection.request():
            if request.target == "/":
                connection.answer(500, b"bad")
    bad = origin.plays(play)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 2, errors = 0",
                             more="balance = function(_, peers) return peers[1] end,"))
    assert gate.get("/").status == 500
    client = gate.raw()
    client.send(request("GET", "/never"))
    bad.wait_seen(2)
    client.close()
    gate.wait_total("exchanges", 0)

    gate.get("/")

    gate.wait_log(f"peer {bad} {EJECTED}2 tries in a row have failed")


def test_a_peer_that_refuses_is_asked_no_more(moongate, origin):
    dead, good = origin.refuses(), origin.answers()
    gate = moongate(ejecting([dead, good], "consecutive = 2, time = 30", more="").replace("retry = false,", ""))

    assert statuses(gate, 40) == [200] * 40

    assert gate.log().count(f"peer {dead}: connection refused") == 2
    assert f"peer {dead} {EJECTED}2 tries in a row have failed" in gate.log()


def test_each_ejection_is_longer_up_to_a_bound(moongate, origin):
    bad = Bad(origin)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 1, time = 0.15, time_most = 0.4"))
    client = gate.raw()

    def asked_until(count):
        def asked():
            client.get("/")
            return gate.log().count(EJECTED) >= count
        wait_until(asked)
    asked_until(4)

    lines = gate.wait_log(EJECTED, count=4)
    assert [line.split("; for ")[1] for line in lines[:4]] == [
        "0.15 s (number 1)", "0.3 s (number 2)", "0.4 s (number 3)", "0.4 s (number 4)"]


def test_a_share_of_errors_within_a_window_ejects(moongate, origin):
    answers = iter([500, 200, 200] * 1000)
    flaky = origin.answers(lambda request: (next(answers), b"", ()))
    gate = moongate(ejecting([flaky, origin.answers()], "consecutive = 0, errors = 0.3, least = 10, window = 2, time = 30"))
    client = gate.raw()

    wait_until(lambda: client.get("/") and EJECTED in gate.log())

    line = gate.wait_log(EJECTED)[0]
    failed, ended = line.split(EJECTED)[1].split(" tries within 2 s have failed")[0].split(" of ")
    assert int(ended) >= 10 and 0.3 <= int(failed) / int(ended) < 0.5


def test_a_window_with_too_few_tries_shows_nothing(moongate, origin):
    bad = Bad(origin)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 0, errors = 0.1, least = 1000, window = 0.5"))

    statuses(gate, 400)

    assert EJECTED not in gate.log()


def test_a_peer_that_is_slow_beside_the_others_is_left_out(moongate, origin):
    def slow(connection):
        while connection.request():
            connection.origin.changed.acquire()
            connection.origin.changed.wait(0.04)
            connection.origin.changed.release()
            connection.answer(200, b"slow")
    server = origin.plays(slow)
    gate = moongate(ejecting([server] + [origin.answers() for _ in range(3)],
                             "consecutive = 0, errors = 0, latency = 3, least = 5, window = 1, time = 30"))
    client = gate.raw()

    wait_until(lambda: client.get("/") and EJECTED in gate.log())

    line = gate.wait_log(f"peer {server} {EJECTED}")[0]
    assert "its latency is 0.0" in line and "the others' 0.00" in line
    assert b"slow" not in {client.get("/").body for _ in range(12)}


@pytest.mark.parametrize("share, most", [(0.5, 2), (0.75, 3), (0.1, 1)])
def test_no_more_than_a_share_of_the_peers_is_out_at_once(moongate, origin, share, most):
    gate = moongate(ejecting([Bad(origin) for _ in range(4)], f"consecutive = 2, time = 30, share = {share}"))

    statuses(gate, 60)

    assert upstream(gate)["ejected"] == most
    assert gate.log().count(EJECTED) == most


def test_when_too_few_are_left_all_count(moongate, origin):
    bad, good = [Bad(origin) for _ in range(2)], [origin.answers() for _ in range(2)]
    gate = moongate(ejecting([*bad, *good], "consecutive = 1, time = 0.6", more="panic = 0.6,"))

    assert statuses(gate, 8).count(500) >= 4, "two of four are fewer than six tenths"

    gate.wait_log("upstream app is in panic, all its peers are used: 2 of 4 peers are healthy")
    for each in bad:
        each.status = 200
    gate.wait_log("upstream app is not in panic any more: 3 of 4 peers are healthy")


def test_which_statuses_are_failures_is_the_user_s_choice(moongate, origin):
    missing, failing = Bad(origin, 404), Bad(origin, 500)
    gate = moongate(ejecting([missing, failing, origin.answers()], "consecutive = 2, time = 30", more="error_statuses = { 404 },"))

    statuses(gate, 30)

    assert f"peer {missing} {EJECTED}" in gate.log() and f"peer {failing} {EJECTED}" not in gate.log()


def test_a_retried_status_counts_as_a_failure_of_its_peer(moongate, origin):
    bad = Bad(origin, 503)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 2, time = 30").replace("retry = false", "retry = { budget = 1 }"))

    assert statuses(gate, 20) == [200] * 20

    assert bad.server.seen == 2


def test_all_workers_count_together(moongate, origin):
    bad = Bad(origin)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 4, time = 30"), workers=3)

    got = [gate.get("/").status for _ in range(60)]

    assert got.count(500) == bad.server.seen == 4
    assert gate.log().count(EJECTED) == 1


def test_a_connection_that_a_tcp_route_cannot_make_is_a_failure(moongate, origin):
    dead, live = origin.refuses(), origin.answers()
    gate = moongate(f"""gate.listen {{ "127.0.0.1:$PORT", tcp = gate.upstream("app", {{ peers = {{ "{dead}", "{live}" }},
        eject = {{ consecutive = 2, time = 30 }} }}) }}""", declare_listen=False)

    assert [gate.get("/").status for _ in range(12)] == [200] * 12

    assert gate.log().count(f"peer {dead}: connection refused") == 2
    gate.wait_log(f"peer {dead} {EJECTED}2 tries in a row have failed")


def test_an_ejection_lives_through_a_reload_and_ends_with_one_that_ejects_no_more(moongate, origin):
    bad = Bad(origin)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 2, time = 60"))
    statuses(gate, 4)
    gate.wait_log(EJECTED)

    assert "error" not in gate.command("reload")
    assert statuses(gate, 6) == [200] * 6
    text = gate.script.read_text()
    gate.script.write_text(text[:text.index("eject =")] + "}) }")
    assert "error" not in gate.command("reload")
    assert Counter(statuses(gate, 6)) == {200: 3, 500: 3}


def test_an_ejection_lives_through_an_upgrade(moongate, origin):
    moongate_module.become_reaper()
    bad = Bad(origin)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 2, time = 60"))
    statuses(gate, 4)
    gate.wait_log(EJECTED)

    gate.upgrade()

    assert statuses(gate, 6) == [200] * 6
    assert upstream(gate)["ejected"] == 1


# ---- The hook.

TELLS = """gate.use { name = "teller", peer = function(upstream, peer, event)
      gate.sleep(0.001)
      gate.log.info(("told: %s %s %s (%s)"):format(upstream, tostring(peer), event.name, event.reason))
    end }"""


def test_the_script_hears_of_each_event_once_and_may_wait(moongate, origin):
    bad = Bad(origin)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 2, time = 0.2", more="panic = 0.6,", before=TELLS), workers=2)

    for _ in range(8):
        gate.get("/")
    gate.wait_log("told: app nil calm")

    bad.status = 200
    told = [line.split("told: ")[1] for line in gate.wait_log("told: ", count=4)]
    assert sorted(told[:4]) == sorted([
        f"app {bad} ejected (2 tries in a row have failed; for 0.2 s (number 1))",
        "app nil panic (1 of 2 peers are healthy)",
        f"app {bad} back (its ejection is over (number 1))",
        "app nil calm (2 of 2 peers are healthy)"])


def test_an_error_of_the_hook_is_told_and_harms_nobody(moongate, origin):
    bad = Bad(origin)
    gate = moongate(ejecting([bad, origin.answers()], "consecutive = 1, time = 30",
                             before='gate.use { name = "thrower", peer = function() error("no") end }'))
    gate.expect_error("no")

    statuses(gate, 4)

    gate.wait_log(r"peer of policy thrower: .*gateway\.lua:\d: no")
    assert statuses(gate, 4) == [200] * 4


def test_a_hook_of_a_routes_policy_hears_too_once(moongate, origin):
    bad = Bad(origin)
    gate = moongate(f"""local teller = {{ name = "teller", peer = function(_, peer, event) gate.log.info("told " .. event.name) end }}
        local app = gate.upstream("app", {{ peers = {{ "{bad}", "{origin.answers()}" }}, eject = {{ consecutive = 1, time = 30 }} }})
        gate.route {{ "/a/*", upstream = app, policies = {{ teller }} }}
        gate.route {{ "/*", upstream = app, policies = {{ teller }} }}""")

    statuses(gate, 6)

    gate.wait_log("told ejected")
    assert gate.log().count("told ejected") == 1

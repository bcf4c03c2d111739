"""Hedged requests: a second try beside one that takes long, and the first head wins."""
import json
import time

import pytest

from client import request
from moongate import wait_until
from test_health import upstream

FIRST_THEN_OTHER = "balance = function(req, peers) return peers[1], { hedge = peers[2], after = %s } end,"


def script(*peers, after=0.05, options="", policies="", protocol="http/1.1"):
    listed = ", ".join(f'"{peer}"' for peer in peers)
    return f"""
        local app = gate.upstream("app", {{ peers = {{ {listed} }}, protocol = "{protocol}", {options}
          {FIRST_THEN_OTHER % after} }})
        gate.route {{ "/peers", handler = function()
          local out = {{}}
          for i, p in ipairs(app.peers) do out[i] = {{ active = p.active, failed = p.failed, requests = p.requests }} end
          return 200, out
        end }}
        gate.route {{ "/*", upstream = app, policies = {{ {policies} }} }}"""


def peers(gate):
    return json.loads(gate.get("/peers").body)


TELLS = "{ response = function(req, res) res.headers['x-peer'] = res.peer.address end }"


def test_the_first_head_wins_and_the_other_try_is_reset(moongate, origin):
    slow, fast = origin.hangs(), origin.answers(200, b"fast")
    gate = moongate(script(slow, fast, policies=TELLS))

    answer = gate.get("/")

    assert (answer.body, answer["X-Peer"]) == (b"fast", str(fast))
    assert slow.seen == 1
    slow.wait(lambda: slow.connections[0].sock.fileno() < 0)
    assert peers(gate) == [{"active": 0, "failed": 0, "requests": 1}, {"active": 0, "failed": 0, "requests": 1}]
    assert [upstream(gate)[key] for key in ("retries", "hedges", "hedges_won")] == [0, 1, 1]


def test_nothing_is_sent_twice_that_is_answered_in_time(moongate, origin):
    quick, other = origin.answers(200, b"quick"), origin.answers(200, b"other")
    gate = moongate(script(quick, other, after=5))

    assert {gate.get("/").body for _ in range(20)} == {b"quick"}
    assert other.seen == 0


def test_the_first_may_still_win(moongate, origin):
    first, other = origin.holds(b"first"), origin.hangs()
    gate = moongate(script(first, other, policies=TELLS))
    client = gate.raw()

    client.send(request("GET", "/"))
    other.wait_seen(1)
    first.go.set()
    answer = client.response()

    assert (answer.body, answer["X-Peer"]) == (b"first", str(first))
    wait_until(lambda: [p["active"] for p in peers(gate)] == [0, 0])
    assert [p["failed"] for p in peers(gate)] == [0, 0]
    assert [upstream(gate)[key] for key in ("hedges", "hedges_won")] == [1, 0]


def test_a_first_that_fails_does_not_wait_for_the_time(moongate, origin):
    other = origin.answers(200, b"other")
    gate = moongate(script(origin.refuses(), other, after=20))

    began = time.monotonic()
    assert gate.get("/").body == b"other"

    assert time.monotonic() - began < 5


def resets_when_told(origin):
    server = origin.holds()

    def play(connection):
        connection.request()
        server.go.wait(8)
        connection.reset()
    server.play = play
    return server


def test_when_the_first_fails_beside_it_the_hedge_answers(moongate, origin):
    first, other = resets_when_told(origin), origin.holds(b"other")
    gate = moongate(script(first, other))
    client = gate.raw()

    client.send(request("GET", "/"))
    other.wait_seen(1)
    first.go.set()
    gate.wait_log("its hedge goes on")
    other.go.set()

    assert client.response().body == b"other"
    assert [(p["active"], p["failed"]) for p in peers(gate)] == [(0, 1), (0, 0)]


def test_when_both_fail_the_request_fails(moongate, origin):
    first, other = resets_when_told(origin), resets_when_told(origin)
    gate = moongate(script(first, other))
    client = gate.raw()

    client.send(request("GET", "/"))
    other.wait_seen(1)
    other.go.set()
    gate.wait_log("hedge")
    first.go.set()

    assert client.response().status == 502
    assert [(p["active"], p["failed"]) for p in peers(gate)] == [(0, 1), (0, 1)]


def test_a_peer_that_can_not_be_connected_to_is_hedged(moongate, origin):
    gate = moongate(script(origin.blackhole(), origin.answers(200, b"other"), options="connect_timeout = 8,"))

    began = time.monotonic()
    assert gate.get("/").body == b"other"

    assert time.monotonic() - began < 4


@pytest.mark.parametrize("size", [1, 60_000])
def test_a_hedge_gets_the_whole_body(moongate, origin, size):
    slow, fast = origin.hangs(), origin.echoes()
    gate = moongate(script(slow, fast))

    assert gate.request("PUT", "/", body=b"x" * size).body == b"x" * size


def test_a_post_is_sent_once_however_long_it_takes(moongate, origin):
    first, other = origin.holds(b"first"), origin.answers(200, b"other")
    gate = moongate(script(first, other, after=0.01))
    client = gate.raw()

    client.send(request("POST", "/", "Content-Length: 1"), b"x")
    first.wait_seen(1)
    assert client.silent(0.3)
    first.go.set()

    assert client.response().body == b"first" and other.seen == 0


def test_the_budget_pays_for_hedges(moongate, origin):
    first, other = origin.holds(b"first"), origin.answers(200, b"other")
    gate = moongate(script(first, other, after=0.01, options="retry = { budget = 0 },"))
    client = gate.raw()

    client.send(request("GET", "/"))
    first.wait_seen(1)
    assert client.silent(0.3)
    first.go.set()

    assert client.response().body == b"first" and other.seen == 0


def test_attempt_hooks_see_both(moongate, origin):
    slow, fast = origin.hangs(), origin.answers(200, b"fast")
    gate = moongate(script(slow, fast, policies="""{ attempt = function(req, peer)
        gate.sleep(0.05)
        req.headers["x-for"] = peer.address
        req.headers["x-tried"] = (req.headers["x-tried"] or "") .. "!"
      end }"""))

    assert gate.get("/").body == b"fast"
    assert [(s.last["X-For"], s.last["X-Tried"]) for s in (slow, fast)] == [(str(slow), "!"), (str(fast), "!")]


def test_an_attempt_hook_may_answer_for_a_hedge(moongate, origin):
    slow, fast = origin.hangs(), origin.answers(200, b"fast")
    gate = moongate(script(slow, fast, policies=f"""{{ attempt = function(req, peer)
        if peer.address == "{fast}" then return 429, "not that one" end
      end }}"""))

    assert gate.get("/").body == b"not that one"
    assert fast.seen == 0
    assert [(p["active"], p["failed"]) for p in peers(gate)] == [(0, 0), (0, 0)]


def test_a_client_that_leaves_ends_both(moongate, origin):
    first, other = origin.hangs(), origin.hangs()
    gate = moongate(script(first, other))
    client = gate.raw()

    client.send(request("GET", "/"))
    other.wait_seen(1)
    client.reset()

    wait_until(lambda: [p["active"] for p in peers(gate)] == [0, 0])
    assert [p["failed"] for p in peers(gate)] == [0, 0]


def test_a_large_answer_of_a_hedge_passes_whole(moongate, origin):
    body = bytes(range(256)) * 16_000
    gate = moongate(script(origin.hangs(), origin.answers(200, body)))

    assert gate.get("/").body == body


def test_http2_origins_are_hedged(moongate, h2_origin):
    slow = h2_origin(lambda connection, asked: None)
    fast = h2_origin(lambda connection, asked: connection.answer(asked, 200, asked.body))
    gate = moongate(script(slow, fast, protocol="h2"))

    assert [gate.request("PUT", "/", body=b"whole" * 1000).body for _ in range(3)] == [b"whole" * 1000] * 3
    assert len(slow.requests) == len(fast.requests) == 3 and len(slow.connections) == 1


def test_origins_over_tls_are_hedged(moongate, origin, authority, site):
    tls = authority.server_context(site)
    gate = moongate(script(origin.hangs(tls=tls), origin.answers(200, b"fast", tls=tls), options="tls = { verify = false },"))

    assert gate.get("/").body == b"fast"


def test_what_is_no_hedge_is_told(moongate, origin):
    server = origin.answers()
    gate = moongate(script(server, server, after='"soon"'))

    gate.expect_error("return peer, . hedge = another peer, after = seconds .")

    assert gate.get("/").status == 500

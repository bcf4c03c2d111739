"""How a request is tried again: pauses between the tries, Retry-After, bounds of time, of bodies and of methods."""
import time
from email.utils import formatdate

import pytest

from client import request
from test_health import upstream


def script(*peers, retry, options="", protocol="http/1.1"):
    listed = ", ".join(f'"{peer}"' for peer in peers)
    return f"""gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ {listed} }}, protocol = "{protocol}",
        retry = {{ {retry} }}, {options} }}) }}"""


class Failing:
    """An origin that answers so many tries of each path with 503; `times` has when they came, by path."""

    def __init__(self, origin, failures, fields=(), **options):
        self.failures, self.fields, self.times = failures, fields, {}
        self.server = origin.answers(self.answer, **options)

    def __str__(self):
        return str(self.server)

    def answer(self, asked):
        times = self.times.setdefault(asked.target, [])
        times.append(time.monotonic())
        return (503, b"busy", self.fields) if len(times) <= self.failures else (200, b"ok", ())

    def gaps(self, path="/"):
        times = self.times[path]
        return [after - before for before, after in zip(times, times[1:])]


# ---- Pauses.

def test_pauses_are_random_and_grow(moongate, origin):
    bad = Failing(origin, 3)
    gate = moongate(script(bad, retry="attempts = 4, budget = 10, backoff = 0.1"))
    clients = [gate.raw() for _ in range(30)]

    for i, client in enumerate(clients):
        client.send(request("GET", f"/{i}"))
    assert {client.response().body for client in clients} == {b"ok"}

    first, _, third = zip(*(bad.gaps(f"/{i}") for i in range(30)))
    assert sum(third) > 2 * sum(first), "at most 0.4 s, and 0.1 s"
    assert max(first) - min(first) > 0.03, "they do not come again together"


def test_after_a_pause_the_only_peer_may_be_tried_again(moongate, origin):
    bad = Failing(origin, 1)
    gate = moongate(script(bad, retry="attempts = 2, backoff = 0.01"))

    assert gate.get("/").body == b"ok"
    assert upstream(gate)["retries"] == 1


def test_without_a_pause_it_may_not(moongate, origin):
    bad = Failing(origin, 1)
    gate = moongate(script(bad, retry="attempts = 2"))

    assert gate.get("/").status == 503
    assert bad.server.seen == 1 and upstream(gate)["retries"] == 0


def test_a_client_that_leaves_in_a_pause_is_not_tried_for_again(moongate, origin):
    bad = Failing(origin, 1, ["Retry-After: 8"])
    gate = moongate(script(bad, retry="attempts = 2, retry_after = 10"))
    client = gate.raw()

    client.send(request("GET", "/"))
    bad.server.wait_seen(1)
    client.reset()

    gate.wait_total("exchanges", 0)
    assert bad.server.seen == 1


# ---- Retry-After.

@pytest.mark.parametrize("how", ["seconds", "date"])
def test_retry_after_is_waited_for(moongate, origin, how):
    fields = ["Retry-After: 1"]
    bad = Failing(origin, 1, fields)
    gate = moongate(script(bad, retry="attempts = 2, retry_after = 5"))
    if how == "date":
        fields[0] = "Retry-After: " + formatdate(time.time() + 2, usegmt=True)

    assert gate.get("/").body == b"ok"
    assert bad.gaps()[0] >= 0.9


def test_an_answer_that_asks_for_longer_is_given_through(moongate, origin):
    bad, live = Failing(origin, 9, ["Retry-After: 30"]), origin.answers(200, b"ok")
    gate = moongate(script(bad, live, retry="attempts = 2, retry_after = 2, budget = 10",
                           options="balance = function(req, peers) return peers[1] end,"))

    answer = gate.get("/")

    assert (answer.status, answer.body, answer["Retry-After"]) == (503, b"busy", "30")
    assert live.seen == 0


def test_retry_after_may_be_left_out_of_account(moongate, origin):
    bad, live = Failing(origin, 9, ["Retry-After: 30"]), origin.answers(200, b"ok")
    gate = moongate(script(bad, live, retry="attempts = 2, retry_after = false, budget = 10",
                           options="balance = function(req, peers) return peers[1] end,"))

    assert gate.get("/").body == b"ok"


def test_retry_after_of_an_http2_origin_is_waited_for(moongate, h2_origin):
    times = []

    def play(connection, asked):
        times.append(time.monotonic())
        if len(times) == 1:
            return connection.answer(asked, 429, b"busy", [("retry-after", "1")])
        connection.answer(asked, 200, b"ok")
    gate = moongate(script(h2_origin(play), retry="attempts = 2, on = { 429 }, retry_after = 1", protocol="h2"))

    assert gate.post("/", body=b"x").status == 429, "a POST may have been acted on"
    times.clear()
    assert gate.request("PUT", "/", body=b"x").body == b"ok"
    assert times[1] - times[0] >= 0.9


# ---- Time for all tries.

def test_total_timeout_bounds_all_tries_together(moongate, origin):
    silent = [origin.hangs() for _ in range(4)]
    gate = moongate(script(*silent, retry='attempts = 4, on = { "timeout" }, budget = 10',
                           options="response_timeout = 0.4, total_timeout = 1"))

    began = time.monotonic()
    assert gate.get("/").status == 504

    assert time.monotonic() - began < 1.5
    assert sum(server.seen for server in silent) == 3
    assert gate.access_log(1)[0]["error"] == "all tries together took longer than total_timeout"


def test_no_pause_begins_that_ends_after_it(moongate, origin):
    bad = Failing(origin, 1, ["Retry-After: 2"])
    gate = moongate(script(bad, retry="attempts = 2, retry_after = 5", options="total_timeout = 1"))

    began = time.monotonic()
    assert gate.get("/").status == 503

    assert time.monotonic() - began < 1


def test_total_timeout_cuts_a_body_that_takes_longer(moongate, origin):
    held = origin.holds(b"x" * 1000, shown=10)
    client = moongate(script(held, retry="", options="total_timeout = 0.3")).raw()

    client.send(request("GET", "/"))

    assert client.cut_response().status == 200


# ---- What is sent again.

def resets(origin, **options):
    def play(connection):
        connection.request()
        connection.reset()
    return origin.plays(play, **options)


@pytest.mark.parametrize("size, status", [(20_000, 200), (20_001, 502)])
def test_a_body_is_kept_up_to_its_bound(moongate, origin, size, status):
    bad, live = resets(origin), origin.echoes()
    gate = moongate(script(bad, live, retry="body = 20000, budget = 10",
                           options="balance = function(req, peers) return peers[1] end,"))

    answer = gate.request("PUT", "/", body=b"x" * size)

    assert answer.status == status
    if status == 200:
        assert answer.body == b"x" * size
    else:
        gate.wait_log("upstream app: a request is not tried again: its body is longer than retry.body .20000 bytes.")


def test_a_body_in_tiny_pieces_is_kept_in_little_memory(moongate, origin):
    server = origin.hangs()
    gate = moongate(script(server, retry="budget = 10"))
    client = gate.raw()

    client.send(request("PUT", "/", "Transfer-Encoding: chunked"))
    server.wait_seen(1)
    for i in range(3000):
        client.send(b"1\r\nx\r\n")
        if i % 20 == 0:
            time.sleep(0.001)         # so that they are not read all at once
    client.send(b"0\r\n\r\n")
    server.wait(lambda: server.last.whole)

    assert gate.total("blocks") < 20
    client.reset()


def test_a_method_that_is_not_idempotent_is_tried_again_if_told_so(moongate, origin):
    bad, live = resets(origin), origin.echoes()
    gate = moongate(script(bad, live, retry="non_idempotent = true, budget = 10",
                           options="balance = function(req, peers) return peers[1] end,"))

    assert gate.post("/", body=b"twice").body == b"twice"
    assert (bad.seen, live.seen) == (1, 1)


def test_a_body_is_sent_again_over_tls(moongate, origin, site, authority):
    tls = authority.server_context(site)
    bad, live = resets(origin, tls=tls), origin.echoes(tls=tls)
    gate = moongate(script(bad, live, retry="backoff = 0.01, budget = 10", options=f"""tls = {{ verify = false }},
        balance = function(req, peers) return peers[1] end,"""))

    assert gate.request("PUT", "/", body=b"x" * 30_000).body == b"x" * 30_000

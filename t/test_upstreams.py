"""Pools, retries, balancing, queues, names: what stands between an exchange and its peer."""
import threading
import time
from collections import Counter

import pytest

from client import chunked, request
from dns import Dns
from moongate import wait_until


def upstream(*peers, options=""):
    """The script that sends all to these peers; a peer is an address or a (address, weight) pair."""
    listed = ", ".join(f'{{ "{p[0]}", weight = {p[1]} }}' if isinstance(p, tuple) else f'"{p}"' for p in peers)
    return f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ {listed} }}, {options} }}) }}'


def resets(origin, after_request=True):
    """An origin that resets each connection, once it has read the request."""
    def script(connection):
        if after_request:
            connection.request()
        connection.reset()
    return origin.plays(script)


# ---- The pool.

def test_an_idle_connection_is_used_again_by_another_client(moongate, origin):
    server = origin.answers()
    gate = moongate(upstream(server))

    for _ in range(5):
        assert gate.get("/").status == 200

    assert len(server.connections) == 1


def test_no_more_idle_connections_are_kept_than_keepalive(moongate, origin):
    barrier = threading.Barrier(5)

    def script(connection):
        while connection.request():
            barrier.wait(5)
            connection.answer()
    gate = moongate(upstream(origin.plays(script), options="keepalive = 2"))
    clients = [gate.raw() for _ in range(5)]

    for client in clients:
        client.send(request("GET", "/"))
    for client in clients:
        client.response()

    gate.wait_total("idle", 2)


def test_keepalive_of_zero_keeps_none(moongate, origin):
    server = origin.answers()
    gate = moongate(upstream(server, options="keepalive = 0"))

    for _ in range(3):
        gate.get("/")

    assert len(server.connections) == 3


def test_an_idle_connection_is_closed_after_keepalive_timeout(moongate, origin):
    closed = threading.Event()

    def script(connection):
        connection.request()
        connection.answer()
        connection.ended()
        closed.set()
    gate = moongate(upstream(origin.plays(script), options="keepalive_timeout = 0.3"))

    gate.get("/")

    assert closed.wait(3)
    gate.wait_total("idle", 0)


@pytest.mark.parametrize("method, body", [("GET", None), ("POST", b"once only")])
def test_a_peer_that_closed_an_idle_connection_never_shows(moongate, origin, method, body):
    server = origin.answers()
    gate = moongate(upstream(server, options="retry = { attempts = 1 }"))

    for _ in range(10):
        assert gate.request(method, "/", body=body).status == 200
        server.close_idle()

    assert server.seen == 10


@pytest.mark.parametrize("method, body", [("GET", None), ("PUT", b"again")])
def test_a_connection_that_ends_as_the_request_arrives_is_tried_anew(moongate, origin, method, body):
    """The race that no look at the socket can see: the peer closes after we have written."""
    def play(connection):
        if connection.number == 0:
            connection.request()
            connection.answer()
            if connection.head():
                connection.sock.shutdown(2)
            return
        while connection.request():
            connection.answer(200, b"anew")
    server = origin.plays(play)
    gate = moongate(upstream(server))

    gate.get("/")

    assert gate.request(method, "/", body=body).body == b"anew"


def test_a_post_that_reached_a_dying_connection_is_not_sent_twice(moongate, origin):
    def play(connection):
        if connection.number == 0:
            connection.request()
            connection.answer()
            connection.request()
            return
        while connection.request():
            connection.answer(200, b"twice")
    server = origin.plays(play)
    gate = moongate(upstream(server))

    gate.get("/")
    answer = gate.post("/", body=b"once")

    assert answer.status == 502
    assert [r.method for r in server.requests] == ["GET", "POST"]


# ---- Retries.

def test_a_second_peer_is_tried_when_the_first_refuses(moongate, origin):
    live = origin.answers(200, b"ok")
    gate = moongate(upstream(origin.refuses(), live))

    answers = [gate.post("/", body=b"x").body for _ in range(4)]

    assert answers == [b"ok"] * 4
    assert live.seen == 4


def test_a_second_peer_is_tried_when_the_first_resets(moongate, origin):
    live = origin.answers(200, b"ok")
    gate = moongate(upstream(resets(origin), live, options="retry = { budget = 1 }"))

    assert [gate.get("/").body for _ in range(4)] == [b"ok"] * 4


@pytest.mark.parametrize("status, expected", [(502, b"ok"), (503, b"ok"), (500, b"bad"), (504, b"bad")])
def test_a_second_peer_is_tried_for_the_statuses_that_say_so(moongate, origin, status, expected):
    bad, live = origin.answers(status, b"bad"), origin.answers(200, b"ok")
    gate = moongate(upstream(bad, live, options="retry = { budget = 1 }"))

    bodies = [gate.get("/").body for _ in range(2)]

    assert expected in bodies
    assert bad.seen
    assert (b"bad" in bodies) == (expected == b"bad")


def test_retry_on_is_the_user_s_choice(moongate, origin):
    bad, live = origin.answers(500, b"bad"), origin.answers(200, b"ok")
    gate = moongate(upstream(bad, live, options='retry = { on = { 500 }, budget = 1 }'))

    assert [gate.get("/").body for _ in range(2)] == [b"ok", b"ok"]


def test_attempts_bound_the_tries(moongate, origin):
    bad = [origin.answers(503, b"bad") for _ in range(4)]
    gate = moongate(upstream(*bad, options="retry = { attempts = 3, budget = 10 }"))

    answer = gate.get("/")

    assert (answer.status, answer.body) == (503, b"bad")
    assert sum(server.seen for server in bad) == 3


def test_one_attempt_is_no_retry(moongate, origin):
    bad, live = origin.answers(503, b"bad"), origin.answers(200, b"ok")
    gate = moongate(upstream(bad, live, options="retry = { attempts = 1 }"))

    assert sorted(gate.get("/").status for _ in range(2)) == [200, 503]


def test_a_peer_that_refuses_costs_no_request_and_no_budget_however_long(moongate, origin):
    dead, live = origin.refuses(), origin.answers(200, b"ok")
    gate = moongate(upstream(dead, live))
    client = gate.raw()

    answers = [client.get("/").status for _ in range(600)]

    assert answers == [200] * 600
    assert live.seen == 600
    refusal = f"peer {dead}: connection refused"
    gate.wait_log(refusal, count=300)
    assert gate.log().count(refusal) == 300, "the dead peer's own turns, and no other's"


def test_the_budget_bounds_retries_over_time(moongate, origin):
    bad = [origin.answers(503, b"bad") for _ in range(2)]
    gate = moongate(upstream(*bad, options="retry = { attempts = 2, budget = 0.1 }"))
    client = gate.raw()

    for _ in range(500):
        assert client.get("/").status == 503

    tries = sum(server.seen for server in bad)
    assert 500 + 50 < tries <= 500 + 50 + 100, "a tenth, and a hundred at once at first"


def test_a_post_that_was_sent_is_not_repeated_after_a_reset(moongate, origin):
    bad, live = resets(origin), origin.answers(200, b"ok")
    gate = moongate(upstream(bad, live, options="retry = { budget = 1 }"))

    statuses = sorted(gate.post("/", body=b"x").status for _ in range(2))

    assert statuses == [200, 502]
    assert (bad.seen, live.seen) == (1, 1)


def test_a_put_is_repeated_with_its_whole_body(moongate, origin):
    bad, live = resets(origin), origin.echoes()
    gate = moongate(upstream(bad, live, options="retry = { budget = 1 }"))

    bodies = [gate.request("PUT", "/", body=b"x" * 10000).body for _ in range(2)]

    assert bodies == [b"x" * 10000] * 2


def test_a_body_that_has_gone_by_is_not_repeated_in_part(moongate, origin):
    def script(connection):
        head = connection.head()
        got = 0
        for piece in connection.chunks():
            got += len(piece)
            if got > 4_000_000:
                connection.reset()
                return head
    bad = origin.plays(script)
    live = origin.echoes()
    gate = moongate(upstream(bad, live, options="""retry = { budget = 1 },
        balance = function(req, peers) return peers[1] end"""))
    client = gate.raw()

    client.send(request("PUT", "/", "Transfer-Encoding: chunked"))
    try:
        for _ in range(100):
            client.send(b"10000\r\n", b"x" * 65536, b"\r\n")
        client.send(b"0\r\n\r\n")
        status = client.response().status
        assert status == 502 or (status == 200 and len(live.last.body) == 6553600)
    except OSError:
        pass
    assert not live.seen or len(live.last.body) == 6553600 or not live.last.whole


def test_all_peers_refusing_gives_502(moongate, origin):
    gate = moongate(upstream(origin.refuses(), origin.refuses(), options="retry = { attempts = 5 }"))

    assert gate.get("/").status == 502


def test_an_answer_that_breaks_after_its_head_is_not_tried_again(moongate, origin):
    bad = origin.plays(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    client = moongate(upstream(bad, bad)).raw()

    client.send(request("GET", "/"))

    assert client.cut_response().status == 200
    assert bad.seen == 1


def test_a_retry_hook_decides(moongate, origin):
    bad, live = origin.answers(500, b"bad"), origin.answers(200, b"ok")
    gate = moongate(f"""
        gate.route {{ "/*", policies = {{ {{ retry = function(req, failure) return failure.number < 3 end }} }},
          upstream = gate.upstream("app", {{ peers = {{ "{bad}", "{live}" }},
            retry = {{ on = {{ 500 }}, budget = 1 }} }}) }}""")

    assert [gate.get("/").body for _ in range(2)] == [b"ok", b"ok"]


# ---- Balancing.

def named(origin, *names):
    return [origin.answers(200, name.encode()) for name in names]


def test_round_robin_goes_around(moongate, origin):
    client = moongate(upstream(*named(origin, "a", "b", "c"))).raw()

    got = [client.get("/").body for _ in range(9)]

    assert Counter(got) == {b"a": 3, b"b": 3, b"c": 3}
    assert got[:3] == got[3:6] == got[6:]


def test_weights_are_exact_and_smooth(moongate, origin):
    a, b, c = named(origin, "a", "b", "c")
    client = moongate(upstream((a, 5), (b, 1), (c, 1))).raw()

    got = [client.get("/").body for _ in range(70)]

    assert Counter(got) == {b"a": 50, b"b": 10, b"c": 10}
    assert b"a" * 5 not in b"".join(got[:5]), "smooth: not all of the heavy one's turns in a row"


def test_least_conn_avoids_the_busy_peer(moongate, origin):
    busy = origin.hangs()
    live = origin.answers(200, b"ok")
    gate = moongate(upstream(busy, live, options='balance = "least_conn"'))
    stuck = []

    while busy.seen < 1:
        client = gate.raw()
        client.send(request("GET", "/"))
        stuck.append(client)
        wait_until(lambda: busy.seen + live.seen >= len(stuck))
    answers = [gate.get("/").body for _ in range(10)]

    assert answers == [b"ok"] * 10
    assert busy.seen == 1


def test_a_function_may_balance(moongate, origin):
    a, b = named(origin, "a", "b")
    gate = moongate(upstream(a, b, options="""balance = function(req, peers)
        return peers[req.headers["x-want"] == "b" and 2 or 1] end"""))

    assert [gate.get("/", f"X-Want: {w}").body for w in "abba"] == [b"a", b"b", b"b", b"a"]


def test_the_same_address_may_stand_twice(moongate, origin):
    a, b = named(origin, "a", "b")
    client = moongate(upstream(a, a, b)).raw()

    assert Counter(client.get("/").body for _ in range(9)) == {b"a": 6, b"b": 3}


# ---- max_connections and the queue.

def held(origin):
    """An origin that answers each request only when told to: go.release()."""
    go = threading.Semaphore(0)

    def script(connection):
        while connection.request():
            if not go.acquire(timeout=8):
                return
            connection.answer(200, b"done")
    server = origin.plays(script)
    server.go = go
    return server


def test_a_full_upstream_without_a_queue_gives_503(moongate, origin):
    server = held(origin)
    gate = moongate(upstream(server, options="max_connections = 1"))
    first = gate.raw()

    first.send(request("GET", "/"))
    server.wait_seen(1)
    second = gate.get("/")
    server.go.release()

    assert (second.status, first.response().status) == (503, 200)


def test_a_queued_request_is_served_when_a_place_comes_free(moongate, origin):
    server = held(origin)
    gate = moongate(upstream(server, options="max_connections = 1, queue = 2, queue_timeout = 5"))
    clients = [gate.raw() for _ in range(3)]

    for client in clients:
        client.send(request("GET", "/"))
    server.wait_seen(1)
    gate.wait_total("exchanges", 3)
    overflow = gate.get("/")
    assert server.seen == 1
    server.go.release(3)

    assert overflow.status == 503
    assert [client.response().status for client in clients] == [200] * 3


def test_a_queued_request_waits_no_longer_than_queue_timeout(moongate, origin):
    server = held(origin)
    gate = moongate(upstream(server, options="max_connections = 1, queue = 5, queue_timeout = 0.3"))
    first = gate.raw()

    first.send(request("GET", "/"))
    server.wait_seen(1)
    second = gate.get("/")
    server.go.release()

    assert second.status in (503, 504)
    assert first.response().status == 200


def test_a_queued_client_that_leaves_takes_no_place(moongate, origin):
    server = held(origin)
    gate = moongate(upstream(server, options="max_connections = 1, queue = 1, queue_timeout = 5"))
    first, second = gate.raw(), gate.raw()

    first.send(request("GET", "/"))
    server.wait_seen(1)
    second.send(request("GET", "/"))
    gate.wait_total("exchanges", 2)
    second.reset()
    gate.wait_total("exchanges", 1)
    third = gate.raw()
    third.send(request("GET", "/"))
    gate.wait_total("exchanges", 2)
    server.go.release(2)

    assert (first.response().status, third.response().status) == (200, 200)
    assert server.seen == 2


# ---- Names and unix sockets.

@pytest.fixture
def dns(tmp_path):
    made = Dns(tmp_path)
    yield made
    made.stop()


def test_a_peer_may_be_a_name(moongate, origin, dns):
    server = origin.answers(200, b"ok")
    dns.answer("127.0.0.1")
    gate = moongate(upstream(f"app.test:{server.port}"), set=f'resolver = "127.0.0.1:{dns.port}"')

    assert gate.get("/").body == b"ok"


def test_localhost_comes_from_the_hosts_file(moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate(upstream(f"localhost:{server.port}"))

    assert gate.get("/").body == b"ok"


def test_a_name_that_does_not_exist_gives_502(moongate, dns):
    dns.answer("127.0.0.1")
    gate = moongate(upstream("nobody.test:80"), set=f'resolver = "127.0.0.1:{dns.port}"')

    assert gate.get("/").status == 502


def test_a_name_s_new_address_is_found_after_its_ttl(moongate, origin, dns):
    one = origin.answers(200, b"one")
    two = origin.answers(200, b"two", port=one.port, address="127.0.0.2")
    dns.answer("127.0.0.1")
    gate = moongate(upstream(f"app.test:{one.port}", options="keepalive = 0"), set=f'resolver = "127.0.0.1:{dns.port}"')

    assert gate.get("/").body == b"one"
    dns.answer("127.0.0.2")

    wait_until(lambda: gate.get("/").body == b"two", every=0.1)
    assert two.seen


def test_the_last_good_answer_stays_when_the_name_server_dies(moongate, origin, dns):
    server = origin.answers(200, b"ok")
    dns.answer("127.0.0.1")
    gate = moongate(upstream(f"app.test:{server.port}", options="keepalive = 0"),
                    set=f'resolver = "127.0.0.1:{dns.port}"')
    assert gate.get("/").body == b"ok"

    dns.stop()
    until = time.monotonic() + 3            # three times the answer's TTL
    while time.monotonic() < until:
        assert gate.get("/").body == b"ok"
        time.sleep(0.1)


def test_a_dead_name_server_gives_an_answer_in_time(moongate, origin):
    gate = moongate(upstream("app.test:80", options="connect_timeout = 0.5"), set=f'resolver = "{origin.refuses()}"')
    began = time.monotonic()

    assert gate.get("/").status in (502, 503, 504)
    assert time.monotonic() - began < 5


def test_a_name_with_several_addresses_uses_them_all(moongate, origin, dns):
    one = origin.answers(200, b"one")
    origin.answers(200, b"two", port=one.port, address="127.0.0.2")
    dns.answer("127.0.0.1", "127.0.0.2")
    gate = moongate(upstream(f"app.test:{one.port}", options="keepalive = 0"), set=f'resolver = "127.0.0.1:{dns.port}"')

    assert {gate.get("/").body for _ in range(10)} == {b"one", b"two"}


def test_a_peer_may_be_a_unix_socket(moongate, origin):
    server = origin.answers(200, b"ok", path=origin.path())
    gate = moongate(upstream(server))

    assert [gate.get("/").body for _ in range(3)] == [b"ok"] * 3
    assert len(server.connections) == 1


def test_chunks_to_a_unix_socket_arrive(moongate, origin):
    server = origin.echoes(path=origin.path())
    client = moongate(upstream(server)).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"), chunked(b"a" * 100000))

    assert client.response().body == b"a" * 100000

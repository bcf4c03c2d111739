"""HTTP/2 to origins: shared connections, refusals that are tried again, trailers, back-pressure."""
import threading

import pytest

from client import chunked, request
from h2wire import Http2

REFUSED_STREAM, INTERNAL_ERROR = 7, 2


@pytest.fixture
def gateway(moongate):
    def start(server, upstream="", **options):
        return moongate(f"""
            gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }}, protocol = "h2", {upstream} }}) }}
        """, **options)
    return start


def test_an_http1_client_reaches_an_http2_origin(gateway, h2_origin):
    server = h2_origin(lambda c, r: c.answer(r, 201, b"body", [("x-back", "yes"), ("date", "today")]))

    answer = gateway(server).get("/a?b=c", "X-One: 1")

    asked = server.requests[0]
    assert (answer.status, answer.body, answer["X-Back"]) == (201, b"body", "yes")
    assert (asked.pseudo[":method"], asked.pseudo[":path"], asked.pseudo[":scheme"]) == ("GET", "/a?b=c", "http")
    assert (asked["x-one"], asked["te"], asked["host"], asked["connection"]) == ("1", "trailers", None, None)


def test_bodies_pass_in_both_directions(gateway, h2_origin):
    server = h2_origin(lambda c, r: c.answer(r, 200, r.body))
    body = bytes(range(256)) * 4000

    assert gateway(server).post("/", body=body).body == body


def test_trailers_pass_in_both_directions(gateway, h2_origin):
    server = h2_origin(lambda c, r: c.answer(r, 200, b"ok", trailers=[("x-sum", "7")]))
    client = gateway(server).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"), b"4\r\nbody\r\n0\r\nX-Check: 1\r\n\r\n")
    answer = client.response()

    assert (answer.body, list(answer.trailers)) == (b"ok", [("x-sum", "7")])
    assert (server.requests[0].body, list(server.requests[0].trailers)) == (b"body", [("x-check", "1")])


def held(h2_origin, **options):
    """An origin whose answers wait for an event."""
    release = threading.Event()

    def play(connection, asked):
        release.wait(10)
        connection.answer(asked, 200, b"ok")
    return h2_origin(play, **options), release


def test_many_exchanges_share_a_connection(gateway, h2_origin):
    server, release = held(h2_origin)
    gate = gateway(server)
    client = Http2(gate.address)
    gate.clients.append(client)

    streams = [client.request() for _ in range(50)]
    server.wait_seen(50)
    release.set()

    assert [client.response(stream).status for stream in streams] == [200] * 50
    assert len(server.connections) == 1


def test_more_than_a_connection_carries_opens_another_up_to_the_cap(gateway, h2_origin):
    server, release = held(h2_origin, streams=4)
    gate = gateway(server, "http2_connections = 2, max_concurrent_streams = 4")
    client = Http2(gate.address)
    gate.clients.append(client)

    streams = [client.request() for _ in range(20)]
    server.wait_seen(8)
    release.set()

    assert [client.response(stream).status for stream in streams] == [200] * 20
    assert len(server.connections) == 2


def test_a_refused_stream_is_sent_again_whatever_its_method(gateway, h2_origin):
    refused = []

    def play(connection, asked):
        if not refused:
            refused.append(asked)
            connection.reset(asked, REFUSED_STREAM)
        else:
            connection.answer(asked, 200, asked.body)
    server = h2_origin(play)

    answer = gateway(server).post("/", body=b"once")

    assert (answer.status, answer.body, len(server.requests)) == (200, b"once", 2)


def test_a_reset_stream_is_not_sent_again_if_that_is_not_safe(gateway, h2_origin):
    server = h2_origin(lambda c, r: c.reset(r, INTERNAL_ERROR))

    answer = gateway(server).post("/", body=b"once")

    assert (answer.status, len(server.requests)) == (502, 1)


def test_streams_behind_a_goaway_are_sent_on_another_connection(gateway, h2_origin):
    def play(connection, asked):
        if connection.number == 0 and asked.stream > 1:
            connection.goaway(1)
        else:
            connection.answer(asked, 200, b"%d" % connection.number)
    server = h2_origin(play)
    gate = gateway(server)
    client = gate.raw()

    answers = [client.request("POST", "/", body=b"x").body for _ in range(2)]

    assert answers == [b"0", b"1"]


def test_a_response_that_breaks_off_stays_visibly_cut(gateway, h2_origin):
    def play(connection, asked):
        with connection.lock:
            connection.h2.send_headers(asked.stream, [(":status", "200")])
            connection.h2.send_data(asked.stream, b"half")
            connection.flush()
            connection.reset(asked, INTERNAL_ERROR)
    gate = gateway(h2_origin(play))
    client = gate.raw()

    client.send(request("GET", "/"))

    with pytest.raises(Exception):
        client.response()


def test_an_origin_that_does_not_speak_it_is_a_bad_origin(gateway, origin):
    server = origin.plays(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    origin.check = lambda: None                 # it is no HTTP/1.1 that comes there

    assert gateway(server).get("/").status == 502


def test_a_client_that_leaves_resets_its_stream_alone(gateway, h2_origin):
    release = threading.Event()

    def play(connection, asked):
        if asked.pseudo[":path"] == "/slow":
            release.wait(10)
        connection.answer(asked, 200, b"ok")
    server = h2_origin(play)
    gate = gateway(server)
    client = gate.raw()
    client.send(request("GET", "/slow"))
    server.wait_seen(1)

    client.close()
    gate.wait_total("exchanges", 0)
    release.set()

    assert gate.get("/").status == 200
    assert len(server.connections) == 1


def test_chunks_become_frames_at_once(gateway, h2_origin):
    server = h2_origin(lambda c, r: c.answer(r, 200, r.body))
    client = gateway(server).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"), chunked(b"one", b"two"))

    assert client.response().body == b"onetwo"

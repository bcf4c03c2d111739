"""Server-sent events and other slow streams: each piece passes at once, whoever looks at it, and ends with its client."""
import threading
import zlib

import pytest

from client import request
from h2origin import H2Origin
from h2wire import Http2
from moongate import ROOT, wait_until
from wire import PATIENCE

EVENTS = [b"data: one\n\n", b"data: two\n\n", b"data: " + b"x" * 5000 + b"\n\n", b"data: end\n\n"]
POLICIES = {
    "no policy": "",
    "a response hook": 'gate.use { response = function(req, res) res.headers["x-seen"] = "yes" end }',
    "a body hook": "gate.use { response_body = function(req, res, chunk) end }",
    "an edit": 'gate.use { response = function(req, res) res:replace("nothing", "something") end }',
}


class Turns:
    """An origin's events, each sent when the one before it has arrived at the client."""

    def __init__(self):
        self.arrived = threading.Semaphore(0)

    def __iter__(self):
        for i, event in enumerate(EVENTS):
            if i:
                assert self.arrived.acquire(timeout=PATIENCE), f"{EVENTS[i - 1]} was held back"
            yield event
        assert self.arrived.acquire(timeout=PATIENCE)


def h1_origin(origin, turns):
    def script(connection):
        connection.request()
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in turns:
            connection.send(b"%x\r\n%b\r\n" % (len(event), event))
        connection.send(b"0\r\n\r\n")
    return origin.plays(script)


@pytest.fixture
def h2_origin():
    made = []

    def start(_, turns):
        def play(connection, asked):
            with connection.lock:
                connection.h2.send_headers(asked.stream, [(":status", "200"), ("content-type", "text/event-stream")])
                connection.flush()
            for event in turns:
                with connection.lock:
                    connection.h2.send_data(asked.stream, event)
                    connection.flush()
            with connection.lock:
                connection.h2.end_stream(asked.stream)
                connection.flush()
        made.append(H2Origin(play))
        return made[-1]
    yield start
    for each in made:
        each.close()


def read_h1(gate, turns, fields=(), decode=lambda piece: piece):
    client = gate.raw()
    client.send(request("GET", "/", *fields))
    head, got = client.final_head(), b""
    for piece in client.chunks():
        got += decode(piece)
        if got.endswith(b"\n\n"):
            turns.arrived.release()
    return head, got


def read_h2(gate, turns):
    client = Http2(gate.address)
    gate.clients.append(client)
    answer = client.streams[client.request()]
    seen = 0
    while not answer.ended:
        client.frame()
        if answer.body.endswith(b"\n\n") and len(answer.body) > seen:
            seen = len(answer.body)
            turns.arrived.release()
    return answer, answer.body


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("read", [read_h1, read_h2], ids=["h1", "h2"])
@pytest.mark.parametrize("served", ["h1", "h2"])
def test_each_event_passes_at_once(proxy, origin, h2_origin, policy, read, served):
    turns = Turns()
    server = (h1_origin if served == "h1" else h2_origin)(origin, turns)
    gate = proxy(server, upstream=f'protocol = "{"h2" if served == "h2" else "http/1.1"}"', before=policy)

    _, got = read(gate, turns)

    assert got == b"".join(EVENTS)


def test_events_that_are_compressed_pass_at_once_too(proxy, origin):
    turns, inflate = Turns(), zlib.decompressobj(31)
    gate = proxy(h1_origin(origin, turns), before=f"""package.path = "{ROOT}/scripts/?.lua;" .. package.path
        gate.use(require "body.compress" {{ types = {{ "text/event-stream" }}, codings = {{ "gzip" }} }})""")

    head, got = read_h1(gate, turns, ["Accept-Encoding: gzip"], inflate.decompress)

    assert (head["content-encoding"], got) == ("gzip", b"".join(EVENTS))


@pytest.mark.parametrize("over", ["h1", "h2"])
def test_a_client_that_leaves_ends_the_stream_at_its_origin(proxy, origin, over):
    def script(connection):
        connection.request()
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.send(b"b\r\ndata: one\n\n\r\n")
        connection.until_close()

    server = origin.plays(script)
    gate = proxy(server, before='gate.use { log = function(req, res) gate.log.info("it has ended", res.bytes) end }')
    if over == "h1":
        client = gate.raw()
        client.send(request())
        client.final_head()
        assert next(client.chunks()) == EVENTS[0]
    else:
        client = Http2(gate.address)
        answer = client.streams[client.request()]
        client.until(lambda: answer.body == EVENTS[0])

    client.close()

    gate.wait_log("it has ended 11")
    wait_until(lambda: server.connections[0].sock.fileno() < 0, what="the origin's connection has ended")


def test_a_stream_that_says_nothing_for_read_timeout_is_cut(proxy, origin):
    def script(connection):
        connection.request()
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.until_close()

    client = proxy(origin.plays(script), upstream="read_timeout = 0.2").raw()

    client.send(request())

    client.cut_response()

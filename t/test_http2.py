"""HTTP/2 from clients: the same exchange as over HTTP/1.1, and what only HTTP/2 has."""
import re
import signal
import socket
import subprocess
import threading

import pytest

from h2wire import CANCEL, ENHANCE_YOUR_CALM, INTERNAL_ERROR, NO_ERROR, PREFACE, PROTOCOL_ERROR, REFUSED_STREAM, Http2, get
from moongate import wait_until
from origin import response
from wire import Cut

HELLO = 'gate.route { "/*", handler = function(req) return 200, "hello " .. req.version end }'


@pytest.fixture
def connect(request):
    """connect(gate): an HTTP/2 connection to it, closed at the end."""
    made = []

    def start(gate, **options):
        made.append(Http2(gate.address, **options))
        gate.clients.append(made[-1])
        return made[-1]
    return start


def test_http2_in_clear_text_needs_no_upgrade(moongate, connect):
    client = connect(moongate(HELLO))

    answer = client.get("/")

    assert (answer.status, answer.body) == (200, b"hello 2")


def test_a_preface_that_comes_byte_by_byte_is_a_preface(moongate, connect):
    client = connect(moongate(HELLO), preface=False)

    for byte in PREFACE:
        client.send(bytes([byte]))
    client.raw(4, 0, 0)

    assert client.get("/").status == 200


def test_a_preface_in_two_pieces_is_a_preface(moongate, connect):
    gate = moongate(HELLO)
    other = connect(gate)

    for first in range(1, len(PREFACE)):
        client = connect(gate, preface=False)
        client.send(PREFACE[:first])
        other.get("/")          # the loop's turn that answers the second has read the first piece
        other.get("/")
        client.send(PREFACE[first:]).raw(4, 0, 0)

        assert client.get("/").status == 200, PREFACE[:first]


def test_a_listener_may_be_told_to_speak_http1_alone(moongate):
    gate = moongate(HELLO, listen="http2 = false")
    client = gate.raw()

    client.send(PREFACE)

    assert client.response().status == 505


def test_an_origin_sees_http1_whatever_the_client_speaks(proxy, origin, connect):
    server = origin.answers(200, b"ok", ("X-Back: yes", "Connection: x-hop", "X-Hop: secret", "Keep-Alive: timeout=5"))
    client = connect(proxy(server))

    answer = client.get("/a?b=c", ("x-one", "1"), ("cookie", "a=b"), ("cookie", "c=d"), ("te", "trailers"))

    assert (answer.status, answer.body, answer["x-back"], answer["x-hop"]) == (200, b"ok", "yes", None)
    asked = server.last
    assert (asked.method, asked.target, asked["Host"], asked["X-One"]) == ("GET", "/a?b=c", "test.example", "1")
    assert asked.fields.all("cookie") == ["a=b; c=d"]
    assert (asked["TE"], asked["Via"]) == (None, "2.0 moongate")


def test_a_request_with_fields_before_its_path_arrives_whole(proxy, origin, connect):
    server = origin.answers()
    client = connect(proxy(server))

    client.response(client.request([(":authority", "a.example"), (":scheme", "http"), (":path", "/x"),
                                    (":method", "GET")]))

    assert (server.last.target, server.last["Host"]) == ("/x", "a.example")


def test_host_stands_in_for_authority(proxy, origin, connect):
    server = origin.answers()
    client = connect(proxy(server))

    client.response(client.request([(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "b.example")]))

    assert server.last["Host"] == "b.example"


@pytest.mark.parametrize("length", [True, False], ids=["length", "unknown-length"])
def test_a_body_passes_in_both_directions(proxy, origin, connect, length):
    server, body = origin.echoes(), bytes(range(256)) * 4000
    client = connect(proxy(server))
    fields = get("/", *([("content-length", str(len(body)))] if length else []), method="POST")
    client.ready().window(0, 2**30)
    stream = client.request(fields, end=False)

    for at in range(0, len(body), 65536):
        wait_for_window(client, stream, at + 65536)
        client.data(stream, body[at:at + 65536], end=at + 65536 >= len(body))

    assert client.response(stream).body == body
    assert server.last.body == body


def wait_for_window(client, stream, upto):
    """Until our windows allow so many bytes of this stream."""
    def granted():
        return client.settings.get(4, 65535) + sum(f.window_increment for f in client.seen
                                                   if f.type == 8 and f.stream_id == stream)
    client.until(lambda: granted() >= upto)


def test_a_get_with_an_empty_end_has_no_body_for_the_origin(proxy, origin, connect):
    server = origin.answers()
    client = connect(proxy(server))

    answer = client.response(client.request(get("/"), body=b""))

    assert (answer.status, server.last.body) == (200, b"")


def test_trailers_pass_in_both_directions(proxy, origin, connect):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\n"
                        b"X-Sum: 7\r\nContent-Length: 9\r\n\r\n")
    server = origin.plays(script)
    client = connect(proxy(server))
    stream = client.request(get("/", method="POST"), end=False)

    client.data(stream, b"body")
    client.headers(stream, [("x-check", "1")], end=True)
    answer = client.response(stream)

    assert (answer.body, list(answer.trailers)) == (b"ok", [("x-sum", "7")])
    assert (server.last.body, list(server.last.trailers)) == (b"body", [("x-check", "1")])


@pytest.mark.parametrize("method, status", [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_answers_without_a_body_end_with_their_head(proxy, origin, connect, method, status):
    client = connect(proxy(origin.answers(status, b"", ("Content-Length: 5",) if method == "HEAD" else ())))

    answer = client.get("/", method=method)

    assert (answer.status, answer.body, answer.ended) == (status, b"", True)
    assert answer["content-length"] == ("5" if method == "HEAD" else None)


def test_early_hints_pass(proxy, origin, connect):
    client = connect(proxy(origin.plays(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + response(200, b"ok"))))

    answer = client.get("/")

    assert [(status, fields.get("link")) for status, fields in answer.interims] == [(103, "</a.css>")]
    assert answer.status == 200


def test_a_client_that_expects_it_is_told_to_go_on(proxy, origin, connect):
    def script(connection):
        asked = connection.head()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.body(asked)
        connection.answer(200, asked.body)
    client = connect(proxy(origin.plays(script)))
    stream = client.request(get("/", ("expect", "100-continue"), method="POST"), end=False)

    client.until(lambda: client.streams[stream].interims)
    client.data(stream, b"now", end=True)

    assert client.streams[stream].interims[0][0] == 100
    assert client.response(stream).body == b"now"


def test_streams_do_not_wait_for_each_other(proxy, origin, connect):
    release = threading.Event()

    def script(connection):
        while asked := connection.request():
            if asked.target == "/slow":
                release.wait(10)
            connection.answer(200, asked.target)
    client = connect(proxy(origin.plays(script)))

    slow, fast = client.request(get("/slow")), client.request(get("/fast"))
    first = client.response(fast).body
    release.set()

    assert (first, client.response(slow).body) == (b"/fast", b"/slow")


BODIES = """
gate.route { "/fill", handler = function() return 200, ("z"):rep(65535) end }   -- all of a connection's window
gate.route { "/large", handler = function() return 200, ("x"):rep(300000) end }
gate.route { "/small", handler = function() return 200, ("y"):rep(40000) end }
"""


def data_order(client, *streams):
    """The streams of the DATA frames that came, without repetition."""
    order = [f.stream_id for f in client.seen if f.type == 0 and f.data and f.stream_id in streams]
    return [stream for i, stream in enumerate(order) if i == 0 or order[i - 1] != stream]


@pytest.fixture
def waiting(moongate, connect):
    """waiting(first, second): two requests, with these priorities, whose answers wait for the connection's window."""
    def start(*priorities):
        client = connect(moongate(BODIES), settings={4: 1 << 20}, manual=True).ready()
        client.get("/fill")
        streams = [client.request(get(path, *[("priority", value)] * bool(value)))
                   for path, value in zip(("/large", "/small"), priorities)]
        client.until(lambda: all(client.streams[stream].status for stream in streams))
        return client, *streams
    return start


def test_no_other_priorities_than_those_of_rfc9218_are_announced(moongate, connect):
    client = connect(moongate(HELLO)).ready()

    assert client.settings[9] == 1


@pytest.mark.parametrize("first, second", [("u=7", None), (None, "u=0"), ("u=5", "u=2, i")])
def test_the_urgent_answer_comes_first(waiting, first, second):
    client, large, small = waiting(first, second)

    client.window(0, 100_000).until(lambda: len(client.streams[large].body) == 60_000)

    assert data_order(client, large, small) == [small, large]


def test_answers_of_one_urgency_come_one_after_the_other(waiting):
    client, large, small = waiting("u=2", "u=2")

    client.window(0, 340_000).until(lambda: client.streams[large].ended and client.streams[small].ended)

    assert data_order(client, large, small) == [large, small]


def test_incremental_answers_share_the_connection(waiting):
    client, large, small = waiting("i", "i")

    client.window(0, 340_000).until(lambda: client.streams[large].ended and client.streams[small].ended)

    assert data_order(client, large, small)[:4] == [large, small, large, small]


def test_a_client_may_change_its_mind_about_a_priority(waiting):
    client, large, small = waiting("u=2", "u=6")

    client.raw(0x10, 0, 0, small.to_bytes(4, "big") + b"u=1")
    client.window(0, 100_000).until(lambda: len(client.streams[large].body) == 60_000)

    assert data_order(client, large, small) == [small, large]


def test_priorities_pass_from_end_to_end(proxy, origin, connect):
    server = origin.answers(200, b"ok", ("Priority: u=1",))
    client = connect(proxy(server))

    answer = client.get("/", ("priority", "u=5, i"))

    assert (server.last["Priority"], answer["priority"]) == ("u=5, i", "u=1")


def test_a_client_that_takes_nothing_holds_the_origin_back(proxy, origin, connect):
    sent = []

    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        connection.sock.settimeout(1)
        try:
            while True:
                connection.send(b"x" * 65536)
                sent.append(65536)
        except (TimeoutError, socket.timeout):
            pass
    server = origin.plays(script)
    gate = proxy(server)
    client = connect(gate, manual=True)
    stream = client.request()

    client.until(lambda: len(client.streams[stream].body) == 65535)
    server.wait(lambda: server.threads[-1].is_alive() is False)

    assert sum(sent) < 20_000_000
    assert client.request(get("/other"))          # the connection itself is not stopped
    client.rst(stream)


def test_an_origin_that_takes_nothing_holds_the_client_back(proxy, origin, connect):
    release = threading.Event()

    def script(connection):
        asked = connection.head()
        release.wait(20)
        connection.body(asked)
        connection.answer(200, str(len(asked.body)))
    client = connect(proxy(origin.plays(script), listen='stream_window = "64K"')).ready()
    stream = client.request(get("/", method="POST"), end=False)
    total = 0

    client.sock.settimeout(1)
    try:
        while total < 60_000_000:
            wait_for_window(client, stream, total + 16384)
            client.data(stream, b"y" * 16384)
            total += 16384
    except (TimeoutError, socket.timeout):
        pass
    client.sock.settimeout(10)
    release.set()
    wait_for_window(client, stream, total + 1)
    client.data(stream, b"", end=True)

    assert 65536 <= total < 40_000_000
    assert client.response(stream).body == str(total).encode()


def test_an_answer_that_breaks_off_is_reset(proxy, origin, connect):
    client = connect(proxy(origin.plays(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")))

    answer = client.get("/")

    assert (answer.status, answer.body, answer.ended, answer.reset) == (200, b"half", False, INTERNAL_ERROR)
    assert client.get("/").status == 200


def test_the_rest_of_a_refused_body_is_not_asked_for(moongate, connect):
    client = connect(moongate('gate.route { "/*", handler = function() return 403 end }'))

    stream = client.request(get("/", method="POST"), end=False)
    answer = client.response(stream)
    code = client.reset_code(stream)

    assert (answer.status, code) == (403, NO_ERROR)


def test_a_client_that_resets_is_gone_for_its_hooks(proxy, origin, connect):
    server = origin.hangs()
    gate = proxy(server)
    client = connect(gate)
    stream = client.request()
    server.wait_seen(1)

    client.rst(stream)

    gate.wait_total("exchanges", 0)
    assert gate.access_log()[0]["status"] == 499


def test_all_streams_end_with_their_connection(proxy, origin, connect):
    server = origin.hangs()
    gate = proxy(server)
    client = connect(gate)
    for _ in range(10):
        client.request()
    server.wait_seen(10)

    client.close()

    gate.wait_total("exchanges", 0)


def test_a_drain_refuses_no_request_that_is_on_its_way(proxy, origin, connect):
    release = threading.Event()

    def script(connection):
        while connection.request():
            release.wait(10)
            connection.answer(200, b"late")
    server = origin.plays(script)
    gate = proxy(server)
    client = connect(gate).ready()
    first = client.request()
    server.wait_seen(1)

    gate.signal(signal.SIGQUIT)
    client.until(lambda: client.goaway)
    early = client.goaway.last_stream_id
    second = client.request()                     # between the two GOAWAYs
    release.set()
    answers = [client.response(stream).status for stream in (first, second)]
    code = client.goaway_code()

    assert early == 2**31 - 1
    assert (answers, code, client.goaway.last_stream_id) == ([200, 200], NO_ERROR, second)
    assert gate.wait_exit() == 0


def test_a_connection_ends_after_keepalive_requests(moongate, connect):
    client = connect(moongate(HELLO, listen="keepalive_requests = 2")).ready()

    statuses = [client.get("/").status, client.get("/").status]

    assert statuses == [200, 200]
    assert client.goaway_code() == NO_ERROR


def test_a_websocket_reaches_an_http1_origin(proxy, origin, connect):
    def script(connection):
        asked = connection.request()
        assert (asked.method, asked["Upgrade"], asked["Connection"].lower()) == ("GET", "websocket", "upgrade")
        assert len(asked["Sec-WebSocket-Key"]) == 24 and asked["Sec-WebSocket-Version"] == "13"
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
        while data := connection.sock.recv(65536):
            connection.send(data.upper())
        connection.send(b"bye")
    server = origin.plays(script)
    client = connect(proxy(server)).ready()
    fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "a.example"),
              (":path", "/chat"), ("sec-websocket-version", "13")]

    stream = client.request(fields, end=False)
    client.data(stream, b"early ")
    answer = client.streams[stream]
    client.until(lambda: answer.body == b"hiEARLY ")
    client.data(stream, b"more", end=True)
    client.response(stream)

    assert client.settings[8] == 1
    assert (answer.status, answer["upgrade"], answer.body) == (200, None, b"hiEARLY MOREbye")
    assert server.last.target == "/chat"


def test_a_refused_websocket_is_an_answer(proxy, origin, connect):
    client = connect(proxy(origin.answers(403, b"no"))).ready()
    stream = client.request([(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"),
                             (":authority", "a.example"), (":path", "/")], end=False)

    answer = client.response(stream)

    assert (answer.status, answer.body) == (403, b"no")


def test_a_body_that_stops_gets_408(proxy, origin, connect):
    client = connect(proxy(origin.hangs(), listen="body_timeout = 0.2"))
    stream = client.request(get("/", method="POST"), end=False)

    assert client.response(stream).status == 408


def test_a_client_that_gives_no_window_is_cut_after_send_timeout(moongate, connect):
    gate = moongate('gate.route { "/*", handler = function() return 200, ("x"):rep(200000) end }',
                    listen="send_timeout = 0.3")
    client = connect(gate, manual=True)
    stream = client.request()

    answer = client.response(stream)

    assert (len(answer.body), answer.reset) == (65535, CANCEL)


def test_an_idle_connection_is_told_before_it_is_closed(moongate, connect):
    client = connect(moongate(HELLO, listen="idle_timeout = 0.2"))

    client.get("/")

    assert client.goaway_code() == NO_ERROR


def test_pings_do_not_keep_a_connection(moongate, connect):
    client = connect(moongate(HELLO, listen="head_timeout = 0.5")).ready()
    stop = threading.Event()

    def pings():
        while not stop.wait(0.1):
            try:
                client.ping()
            except OSError:
                return
    thread = threading.Thread(target=pings)
    thread.start()
    code = client.goaway_code()
    stop.set()
    thread.join()

    assert code == NO_ERROR


def test_curl_and_nghttp_agree(proxy, origin):
    gate = proxy(origin.echoes())
    url = f"http://127.0.0.1:{gate.port}/"

    body = b"z" * 300_000
    curl = subprocess.run(["curl", "-s", "--http2-prior-knowledge", "--data-binary", "@-", "-w", "%{http_version}", url],
                          input=body, capture_output=True, timeout=20)
    load = subprocess.run(["h2load", "-n", "2000", "-c", "4", "-m", "32", url], capture_output=True, text=True,
                          timeout=30)

    assert curl.stdout == body + b"2"
    assert re.search(r"2000 succeeded, 0 failed, 0 errored", load.stdout), load.stdout


# ---- Bounds.

def test_a_head_over_max_head_size_counts_what_is_decoded(moongate, connect):
    gate = moongate(HELLO, listen='max_head_size = "4K"')
    client = connect(gate)
    client.get("/", ("x-big", "a" * 1000))        # in the table now: a byte each from here on

    answer = client.get("/", *[("x-big", "a" * 1000)] * 8)

    assert answer.status == 431
    assert client.get("/").status == 200


def test_a_bomb_of_fields_ends_the_connection(moongate, connect):
    gate = moongate(HELLO, listen='max_head_size = "4K"')
    client = connect(gate)
    client.get("/", ("x-big", "a" * 3000))

    client.request(get("/", *[("x-big", "a" * 3000)] * 1000))

    assert client.goaway_code() == ENHANCE_YOUR_CALM
    gate.wait_log("max_head_size")


def test_limits_of_fields_and_targets_hold(moongate, connect):
    client = connect(moongate(HELLO, listen='max_fields = 5, max_target_size = "1K"'))

    assert client.get("/", *[("x-a", "1")] * 6).status == 431
    assert client.get("/" + "a" * 1024).status == 414
    assert client.get("/").status == 200


def test_streams_over_max_concurrent_streams_are_refused(proxy, origin, connect):
    server = origin.hangs()
    client = connect(proxy(server, listen="max_concurrent_streams = 3"))
    streams = [client.request() for _ in range(4)]          # before it can know

    assert client.reset_code(streams[3]) == REFUSED_STREAM
    assert client.settings[3] == 3
    server.wait_seen(3)
    client.request()                                        # and now it knows
    assert client.goaway_code() == PROTOCOL_ERROR


def calm_after(gate, client, work, text):
    """The connection ends with ENHANCE_YOUR_CALM, and the log says why."""
    try:
        for i in range(20_000):
            work(i)
    except OSError:
        pass
    assert client.goaway_code() == ENHANCE_YOUR_CALM
    gate.wait_log(text)


def test_rapid_resets_end_the_connection(proxy, origin, connect):
    server = origin.hangs()
    gate = proxy(server, listen="max_resets = 50")
    client = connect(gate).ready()

    calm_after(gate, client, lambda i: client.rst(client.request()), "max_resets")
    gate.wait_total("exchanges", 0)
    assert server.seen <= 60


def test_max_resets_of_0_is_no_bound(proxy, origin, connect):
    client = connect(proxy(origin.answers(), listen="max_resets = 0")).ready()

    for _ in range(1500):
        client.rst(client.request())

    assert client.get("/").status == 200


@pytest.mark.parametrize("flood", ["ping", "settings", "priority", "window", "empty-data"])
def test_a_flood_of_control_frames_ends_the_connection(proxy, origin, connect, flood):
    gate = proxy(origin.hangs(), listen="max_control_frames = 100")
    client = connect(gate).ready()
    stream = client.request(get("/", method="POST"), end=False)
    send = {
        "ping": lambda i: client.ping(),
        "settings": lambda i: client.raw(4, 0, 0),
        "priority": lambda i: client.raw(2, 0, 2001, b"\0\0\0\0\x10"),
        "window": lambda i: client.window(stream, 1),
        "empty-data": lambda i: client.data(stream, b""),
    }[flood]

    calm_after(gate, client, send, "max_control_frames")


def test_a_flood_of_continuations_ends_the_connection(moongate, connect):
    gate = moongate(HELLO)
    client = connect(gate).ready()

    client.headers(1, get("/"), whole=False)
    try:
        for _ in range(20_000):
            client.raw(9, 0, 1, b"")
    except OSError:
        pass

    assert client.goaway_code() == ENHANCE_YOUR_CALM
    assert gate.get("/").status == 200


def test_requests_that_are_reset_leave_nothing_behind(proxy, origin, connect):
    gate = proxy(origin.answers(), listen="max_resets = 0")
    client = connect(gate).ready()

    for i in range(500):
        stream = client.request()
        if i % 3:
            client.rst(stream)
        else:
            assert client.response(stream).status == 200

    client.close()
    gate.wait_total("streams", 0)

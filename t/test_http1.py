"""Connections, versions, targets and methods of HTTP/1.1 and 1.0 (RFC 9110, RFC 9112)."""
import threading

import pytest

from client import chunked, request


# ---- Connections.

def test_a_connection_serves_one_request_after_another(proxy, origin):
    server = origin.answers(lambda r: (200, r.target.encode(), ()))
    client = proxy(server).raw()

    bodies = [client.get(f"/{i}").body for i in range(5)]

    assert bodies == [b"/0", b"/1", b"/2", b"/3", b"/4"]
    assert len(server.connections) == 1


def test_pipelined_requests_are_answered_in_their_order(proxy, origin):
    server = origin.answers(lambda r: (200, r.target.encode() * 100, ()))
    client = proxy(server).raw()

    client.send(b"".join(request("GET", f"/{i}") for i in range(20)))
    bodies = [client.response().body for _ in range(20)]

    assert bodies == [b"/%d" % i * 100 for i in range(20)]


def test_pipelined_requests_with_bodies_keep_their_bodies(proxy, origin):
    server = origin.echoes()
    client = proxy(server).raw()

    client.send(request("POST", "/a", body=b"first"),
                request("POST", "/b", "Transfer-Encoding: chunked"), chunked(b"sec", b"ond"),
                request("GET", "/c"),
                request("POST", "/d", body=b"last"))

    assert [client.response().body for _ in range(4)] == [b"first", b"second", b"", b"last"]


def test_the_client_s_connection_close_is_honoured(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    answer = client.get("/", "Connection: close")

    assert answer.body == b"ok"
    assert "close" in answer["Connection"].lower()
    assert client.ended() == b""


def test_nothing_after_a_request_with_connection_close_is_served(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    client.send(request("GET", "/first", "Connection: close"), request("GET", "/second"))
    client.response()

    assert client.ended() == b""
    assert [r.target for r in server.requests] == ["/first"]


def test_the_origin_s_connection_close_stays_between_the_proxy_and_the_origin(proxy, origin):
    def script(connection):
        connection.request()
        connection.answer(200, b"ok", ["Connection: close"])
    server = origin.plays(script)
    client = proxy(server).raw()

    first, second = client.get("/"), client.get("/")

    assert (first.body, second.body) == (b"ok", b"ok")
    assert "Connection" not in first.fields
    assert len(server.connections) == 2


def test_a_client_that_shuts_its_writing_still_gets_the_answer(proxy, origin):
    server = origin.holds(b"x" * 100000)
    client = proxy(server).raw()

    client.send(request("GET", "/"))
    client.shutdown()
    server.wait_seen(1)
    server.go.set()

    assert client.response().body == b"x" * 100000
    assert client.ended() == b""


@pytest.mark.parametrize("count", [2, 3, 20])
def test_all_requests_before_a_half_close_are_answered(proxy, origin, count):
    server = origin.answers(lambda r: (200, r.target.encode(), ()))
    client = proxy(server).raw()

    client.send(b"".join(request("GET", f"/{i}") for i in range(count)))
    client.shutdown()

    assert [client.response().body for _ in range(count)] == [b"/%d" % i for i in range(count)]
    assert client.ended() == b""


def test_a_request_that_arrives_byte_by_byte_is_served(proxy, origin):
    server = origin.echoes()
    client = proxy(server).raw()

    for byte in request("POST", "/slow", "X-Field: value", "Transfer-Encoding: chunked") + chunked(b"hello", b" you"):
        client.send(bytes([byte]))

    assert client.response().body == b"hello you"


def test_an_empty_line_before_a_request_is_passed_over(proxy, origin):
    server = origin.echoes()
    client = proxy(server).raw()

    client.send(b"\r\n", request("POST", "/", body=b"one"), b"\r\n", request("POST", "/", body=b"two"))

    assert (client.response().body, client.response().body) == (b"one", b"two")


def test_a_client_that_leaves_early_ends_the_origin_s_work(proxy, origin):
    left = threading.Event()

    def script(connection):
        connection.request()
        connection.ended()
        left.set()
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(request("GET", "/"))
    server.wait_seen(1)
    client.reset()

    assert left.wait(5)


def test_a_unix_listener_serves(moongate, origin, tmp_path):
    server = origin.answers(200, b"ok")
    gate = moongate(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}',
                    path=tmp_path / "front.sock")

    assert gate.get("/").body == b"ok"


def test_an_ipv6_listener_serves(moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate(f"""gate.listen "[::1]:$PORT"
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")
    gate.address = ("::1", gate.port)

    assert gate.get("/").body == b"ok"
    assert server.last["X-Forwarded-For"] == "::1"
    assert 'for="[::1]"' in server.last["Forwarded"]


def test_nothing_is_left_open_after_many_mixed_exchanges(proxy, origin):
    server = origin.echoes()
    gate = proxy(server)

    for i in range(50):
        client = gate.raw()
        client.send(request("POST", f"/{i}", body=b"x" * (i * 997)))
        if i % 3:
            assert len(client.response().body) == i * 997
        client.close()


# ---- HTTP/1.0.

def test_an_http_1_0_client_is_answered_and_the_connection_closed(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    answer = client.request("GET", "/", version="1.0")

    assert answer.body == b"ok"
    assert client.ended() == b""


def test_an_http_1_0_client_may_keep_its_connection(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    answers = [client.request("GET", "/", "Connection: keep-alive", version="1.0") for _ in range(2)]

    assert [a.body for a in answers] == [b"ok", b"ok"]
    assert answers[0]["Connection"].lower() == "keep-alive"


def test_an_http_1_0_client_without_host_is_served(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    client.send(b"GET / HTTP/1.0\r\n\r\n")

    assert client.response().body == b"ok"
    assert len(server.last.fields.all("Host")) == 1


def test_an_http_1_0_client_gets_a_chunked_body_until_the_close(proxy, origin):
    server = origin.plays(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
                          chunked(b"one,", b"two", trailers=["X-Sum: 1"]))

    answer = proxy(server).request("GET", "/", "Connection: keep-alive", version="1.0")

    assert (answer.framing, answer.body) == ("close", b"one,two")


def test_an_http_1_0_client_sees_a_cut_body_as_a_reset(proxy, origin):
    server = origin.plays(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    client = proxy(server).raw()

    client.send(request("GET", "/", version="1.0"))

    assert client.cut_response().status == 200


def test_requests_to_the_origin_are_http_1_1_whatever_the_client_speaks(proxy, origin):
    server = origin.answers()

    proxy(server).request("GET", "/", version="1.0")

    assert server.last.version == "1.1"


def test_an_http_1_0_origin_s_body_until_the_close_becomes_chunked(proxy, origin):
    server = origin.plays(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the close")
    client = proxy(server).raw()

    answers = [client.get("/"), client.get("/")]

    assert [(a.version, a.framing, a.body) for a in answers] == [("1.1", "chunked", b"until the close")] * 2
    assert len(server.connections) == 2


def test_an_http_1_0_origin_s_connection_is_not_kept(proxy, origin):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert connection.ended() == b""
    server = origin.plays(script)
    client = proxy(server).raw()

    assert [client.get("/").body for _ in range(2)] == [b"ok", b"ok"]
    assert len(server.connections) == 2


# ---- Targets and methods.

def test_the_absolute_form_beats_host(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    client.send(b"GET http://other.test:81/a/b?c=d HTTP/1.1\r\nHost: example.test\r\n\r\n")

    assert client.response().body == b"ok"
    assert (server.last.target, server.last["Host"]) == ("/a/b?c=d", "other.test:81")


def test_the_absolute_form_is_what_routes(moongate):
    gate = moongate("""
        gate.route { "one.test/*", handler = function() return 200, "one" end }
        gate.route { "two.test/*", handler = function() return 200, "two" end }""")

    assert gate.get("http://two.test/", "Host: one.test").body == b"two"


def test_the_asterisk_form_is_for_options(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    assert client.request("OPTIONS", "*").status == 200
    assert (server.last.method, server.last.target) == ("OPTIONS", "*")


@pytest.mark.parametrize("target", ["/", "/a%20b?x=%41&y", "/a//b/", "/?", "/%2F%7e", "/a;b=c,d:e@f!$&'()*+", "//x/y"])
def test_a_target_is_forwarded_as_it_came(proxy, origin, target):
    server = origin.answers(200, b"ok")

    assert proxy(server).get(target).status == 200
    assert server.last.target == target


def test_the_host_is_forwarded_as_it_came(proxy, origin):
    server = origin.answers()

    proxy(server).get("/", "Host: Example.TEST:8080")

    assert server.last["Host"].lower() == "example.test:8080"


@pytest.mark.parametrize("method", ["BREW", "VERSION-CONTROL", "M-SEARCH", "x", "get"])
def test_unknown_methods_pass(proxy, origin, method):
    server = origin.answers(200, b"ok")

    assert proxy(server).request(method, "/").body == b"ok"
    assert server.last.method == method


@pytest.mark.parametrize("line", [b"CONNECT example.test:443", b"TRACE /"])
def test_connect_and_trace_are_refused(proxy, origin, line):
    server = origin.answers()
    client = proxy(server).raw()

    client.send(line + b" HTTP/1.1\r\nHost: example.test\r\n\r\n")

    assert client.response().status == 405
    assert server.seen == 0


def test_a_route_may_allow_trace(proxy, origin):
    server = origin.answers(200, b"traced")

    assert proxy(server, route='methods = { "TRACE" }').request("TRACE", "/").body == b"traced"


def test_a_method_that_no_route_allows_gets_405_with_allow(moongate):
    gate = moongate('gate.route { "/a", methods = { "GET", "PUT" }, handler = function() return 200 end }')

    answer = gate.post("/a")

    assert answer.status == 405
    assert {m.strip() for m in answer["Allow"].split(",")} >= {"GET", "PUT"}


def test_no_route_gets_404(moongate):
    gate = moongate('gate.route { "/a", handler = function() return 200 end }')

    assert gate.get("/b").status == 404

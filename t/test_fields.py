"""Fields: what passes unchanged, what ends at the proxy, what it adds (RFC 9110 5, 7.6)."""
import re

from client import request



def test_fields_keep_their_order_repetition_and_bytes(proxy, origin):
    server = origin.answers(200, b"ok", ["Set-Cookie: a=1", "X-A: 1", "Set-Cookie: b=2", "x-a: \xe9", "X-Empty:"])

    answer = proxy(server).get("/", "X-B: 1", "Cookie: a=b", "x-b:2", "X-Bytes: \xff\xfe \t x", "X-Empty:", "X-B:  3 ")

    def ours(fields):
        known = ("x-a", "x-b", "cookie", "set-cookie", "x-bytes", "x-empty")
        return [(name.lower(), value) for name, value in fields if name.lower() in known]
    assert ours(server.last.fields) == [("x-b", "1"), ("cookie", "a=b"), ("x-b", "2"), ("x-bytes", "\xff\xfe \t x"),
                                        ("x-empty", ""), ("x-b", "3")]
    assert ours(answer.fields) == [("set-cookie", "a=1"), ("x-a", "1"), ("set-cookie", "b=2"), ("x-a", "\xe9"),
                                   ("x-empty", "")]


def test_hop_by_hop_fields_of_a_request_do_not_pass(proxy, origin):
    server = origin.answers()

    proxy(server).get("/", "Connection: X-Secret, keep-alive,,x-other", "X-Secret: 1", "X-Other: 2",
                      "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: trailers, deflate", "X-Stays: 3")

    names = set(server.last.fields.names())
    assert not names & {"x-secret", "x-other", "keep-alive", "proxy-connection", "te"}
    assert "x-stays" in names


def test_hop_by_hop_fields_of_a_response_do_not_pass(proxy, origin):
    server = origin.answers(200, b"ok", ["Connection: X-Secret", "X-Secret: 1", "Keep-Alive: timeout=5",
                                         "Proxy-Connection: close", "X-Stays: 3"])

    answer = proxy(server).get("/")

    assert not set(answer.fields.names()) & {"x-secret", "keep-alive", "proxy-connection"}
    assert answer["X-Stays"] == "3"


def test_connection_cannot_take_host_or_framing_away(proxy, origin):
    server = origin.echoes()
    client = proxy(server).raw()

    client.send(request("POST", "/", "Connection: host, content-length", body=b"body"))
    answer = client.response()

    assert answer.status == 400 or (answer.body, server.last["Host"]) == (b"body", "example.test")


X_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")


def test_forwarding_fields_tell_who_asked(proxy, origin):
    server = origin.answers()

    proxy(server).get("/", "Host: example.test")

    got = server.last
    assert [got[name] for name in X_FORWARDED] == ["127.0.0.1", "http", "example.test"]
    parts = dict(part.split("=", 1) for part in got["Forwarded"].lower().split(";"))
    assert (parts["for"], parts["proto"], parts["host"].strip('"')) == ("127.0.0.1", "http", "example.test")
    assert re.fullmatch(r"1\.1 \S+", got["Via"])


SPOOFED = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test",
           "Forwarded: for=6.6.6.6;proto=https")


def test_forwarding_fields_of_a_stranger_are_dropped(proxy, origin):
    server = origin.answers()

    proxy(server).get("/", *SPOOFED)

    got = server.last
    assert [got[name] for name in X_FORWARDED] == ["127.0.0.1", "http", "example.test"]
    assert "6.6.6.6" not in got["Forwarded"]
    assert "evil" not in str(got.fields)


def test_forwarding_fields_of_a_trusted_client_are_extended(proxy, origin):
    server = origin.answers()

    proxy(server, listen='trusted = { "127.0.0.0/8" }').get("/", *SPOOFED)

    got = server.last
    assert got["X-Forwarded-For"] == "6.6.6.6, 127.0.0.1"
    assert (got["X-Forwarded-Proto"], got["X-Forwarded-Host"]) == ("https", "evil.test")
    assert re.match(r"for=6\.6\.6\.6;proto=https, ?for=127\.0\.0\.1", got["Forwarded"])


def test_via_is_extended(proxy, origin):
    server = origin.answers()

    proxy(server).get("/", "Via: 1.0 fred")

    assert re.fullmatch(r"1\.0 fred, ?1\.1 \S+", server.last["Via"])


def test_a_date_is_added_where_the_origin_gave_none(proxy, origin):
    with_date = origin.answers(200, b"", ["Date: Tue, 15 Nov 1994 08:12:31 GMT"])
    without = origin.answers(200, b"")

    assert proxy(with_date).get("/").fields.all("Date") == ["Tue, 15 Nov 1994 08:12:31 GMT"]
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", proxy(without).get("/")["Date"])


def test_the_reason_phrase_passes(proxy, origin):
    server = origin.plays(b"HTTP/1.1 299 Quite \xfcnusual\r\nContent-Length: 0\r\n\r\n")

    answer = proxy(server).get("/")

    assert (answer.status, answer.reason) == (299, "Quite \xfcnusual")


def test_a_status_line_without_a_reason_is_understood(proxy, origin):
    server = origin.plays(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok")

    assert proxy(server).get("/").body == b"ok"


def test_max_forwards_of_options_is_counted_down(proxy, origin):
    server = origin.answers()

    proxy(server).request("OPTIONS", "/", "Max-Forwards: 3")

    assert server.last["Max-Forwards"] == "2"


def test_max_forwards_of_zero_is_answered_by_the_proxy(proxy, origin):
    server = origin.answers()

    answer = proxy(server).request("OPTIONS", "/", "Max-Forwards: 0")

    assert answer.status < 500
    assert server.seen == 0

"""Whatever could be read in two ways is refused: 400 to clients, 502 for origins, and nothing after it is served.

Each row is one message on the wire. `origin` in the fixtures reads by the letter too, so a row that slips through
in a changed form fails as well."""
import re
import threading

import pytest

from client import chunked, request
from wire import Cut, Malformed

NEXT = b"GET /next HTTP/1.1\r\nHost: example.test\r\n\r\n"
HOST = b"Host: example.test\r\n"


def post(*fields, body=b""):
    return b"POST /first HTTP/1.1\r\n" + HOST + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


def get(*fields, line=b"GET /first HTTP/1.1"):
    return line + b"\r\n" + HOST + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


def rows(table):
    return pytest.mark.parametrize("sent, status", [pytest.param(sent, status, id=name)
                                                    for name, (sent, status) in table.items()])


REFUSED_HEADS = {
    # Framing (RFC 9112 6.1, 6.3).
    "length and chunked": (post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "chunked and length": (post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"), 400),
    "two lengths that differ": (post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), 400),
    "two lengths that agree": (post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400),
    "a list of lengths": (post(b"Content-Length: 5, 5", body=b"hello"), 400),
    "a list of different lengths": (post(b"Content-Length: 5, 6", body=b"hello"), 400),
    "a signed length": (post(b"Content-Length: +5", body=b"hello"), 400),
    "a negative length": (post(b"Content-Length: -5", body=b"hello"), 400),
    "a hexadecimal length": (post(b"Content-Length: 0x5", body=b"hello"), 400),
    "a length with a space inside": (post(b"Content-Length: 1 0", body=b"hello"), 400),
    "a length of words": (post(b"Content-Length: five", body=b"hello"), 400),
    "an empty length": (post(b"Content-Length:", body=b"hello"), 400),
    "a length that overflows": (post(b"Content-Length: 18446744073709551621", body=b"hello"), 400),
    "a length of 40 digits": (post(b"Content-Length: " + b"9" * 40), 400),
    "a length with a fraction": (post(b"Content-Length: 5.0", body=b"hello"), 400),
    "chunked twice": (post(b"Transfer-Encoding: chunked, chunked", body=chunked(b"hello")), 400),
    "chunked in two fields": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=chunked(b"a")), 400),
    "chunked not last": (post(b"Transfer-Encoding: chunked, gzip", body=chunked(b"hello")), 400),
    "chunked and identity in two fields": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity",
                                                body=chunked(b"a")), 400),
    "a coding that we do not know": (post(b"Transfer-Encoding: cow", body=b"hello"), {400, 501}),
    "gzip under chunked": (post(b"Transfer-Encoding: gzip, chunked", body=chunked(b"hello")), {400, 501}),
    "identity": (post(b"Transfer-Encoding: identity", body=b"hello"), {400, 501}),
    "chunked with a prefix": (post(b"Transfer-Encoding: xchunked", body=chunked(b"hello")), {400, 501}),
    "chunked with a parameter": (post(b"Transfer-Encoding: chunked;q=1", body=chunked(b"hello")), {400, 501}),
    "chunked in quotes": (post(b'Transfer-Encoding: "chunked"', body=chunked(b"hello")), {400, 501}),
    "chunked behind a vertical tab": (post(b"Transfer-Encoding: \x0bchunked", body=chunked(b"hello")), 400),
    "chunked behind a no-break space": (post(b"Transfer-Encoding: \xa0chunked", body=chunked(b"hello")), {400, 501}),
    "an empty transfer coding": (post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), {400, 501}),
    "a transfer coding of a comma": (post(b"Transfer-Encoding: ,", body=b"0\r\n\r\n"), {400, 501}),
    "chunked in HTTP/1.0": (b"POST /first HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"a"), 400),
    "a space before the colon of the coding": (post(b"Transfer-Encoding : chunked", body=chunked(b"hello")), 400),
    "a space before the colon of the length": (post(b"Content-Length : 5", body=b"hello"), 400),
    "a folded coding": (post(b"Transfer-Encoding:\r\n chunked", body=chunked(b"hello")), 400),

    # Lines (RFC 9112 2.2, 5.2).
    "bare LF after the request line": (b"GET /first HTTP/1.1\n" + HOST + b"\r\n", 400),
    "bare LF after a field": (b"GET /first HTTP/1.1\r\nHost: example.test\n\r\n", 400),
    "bare LF at the end of the head": (b"GET /first HTTP/1.1\r\n" + HOST + b"\n", 400),
    "bare CR in a value": (get(b"X-A: a\rb"), 400),
    "bare CR in the request line": (get(line=b"GET /fi\rrst HTTP/1.1"), 400),
    "CR CR LF": (b"GET /first HTTP/1.1\r\r\n" + HOST + b"\r\n", 400),
    "a folded value": (get(b"X-A: a", b" b"), 400),
    "a value folded with a tab": (get(b"X-A: a", b"\tb"), 400),
    "a space before the first field": (b"GET /first HTTP/1.1\r\n Host: example.test\r\n\r\n", 400),
    "an empty line of spaces": (get(b"X-A: a", b"  "), 400),

    # Fields (RFC 9110 5.1, 5.5, 5.6.2).
    "a space before the colon": (get(b"X-A : a"), 400),
    "a tab before the colon": (get(b"X-A\t: a"), 400),
    "a space in a name": (get(b"X A: a"), 400),
    "no colon": (get(b"X-A"), 400),
    "no name": (get(b": a"), 400),
    "NUL in a name": (get(b"X-\0A: a"), 400),
    "NUL in a value": (get(b"X-A: a\0b"), 400),
    "a control byte in a value": (get(b"X-A: a\x01b"), 400),
    "DEL in a value": (get(b"X-A: a\x7fb"), 400),
    "a parenthesis in a name": (get(b"X(A): a"), 400),
    "a quote in a name": (get(b'X"A: a'), 400),
    "a slash in a name": (get(b"X/A: a"), 400),
    "a high byte in a name": (get(b"X-\xe9: a"), 400),

    # The request line (RFC 9112 3; RFC 9110 9.1, 4.2.4).
    "two spaces in the request line": (get(line=b"GET  /first HTTP/1.1"), 400),
    "a tab in the request line": (get(line=b"GET\t/first HTTP/1.1"), 400),
    "a space at the end": (get(line=b"GET /first HTTP/1.1 "), 400),
    "a space at the start": (get(line=b" GET /first HTTP/1.1"), 400),
    "a space in the target": (get(line=b"GET /fi rst HTTP/1.1"), 400),
    "no version": (get(line=b"GET /first"), {400, 505}),
    "no target": (get(line=b"GET HTTP/1.1"), 400),
    "a version in lower case": (get(line=b"GET /first http/1.1"), {400, 505}),
    "a version of another protocol": (get(line=b"GET /first HTTX/1.1"), {400, 505}),
    "version 2.0": (get(line=b"GET /first HTTP/2.0"), {400, 505}),
    "version 3.1": (get(line=b"GET /first HTTP/3.1"), {400, 505}),
    "version 1.2": (get(line=b"GET /first HTTP/1.2"), {400, 505}),
    "version 0.9": (get(line=b"GET /first HTTP/0.9"), {400, 505}),
    "version 1.10": (get(line=b"GET /first HTTP/1.10"), {400, 505}),
    "version 01.1": (get(line=b"GET /first HTTP/01.1"), {400, 505}),
    "version 1": (get(line=b"GET /first HTTP/1"), {400, 505}),
    "a comma in the version": (get(line=b"GET /first HTTP/1,1"), {400, 505}),
    "a method with a slash": (get(line=b"GE/T /first HTTP/1.1"), {400, 501}),
    "a method with a colon": (get(line=b"GET: /first HTTP/1.1"), {400, 501}),
    "a method with a NUL": (get(line=b"G\0T /first HTTP/1.1"), 400),
    "a method with a high byte": (get(line=b"G\xc9T /first HTTP/1.1"), 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 40 + b"\r\n\r\n", 400),
    "an endless method": (b"A" * 2000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", {400, 414, 431, 501}),

    # The target (RFC 9112 3.2; RFC 3986).
    "a target without a slash": (get(line=b"GET first HTTP/1.1"), 400),
    "an asterisk for GET": (get(line=b"GET * HTTP/1.1"), 400),
    "an authority for GET": (get(line=b"GET example.test:80 HTTP/1.1"), 400),
    "a path for CONNECT": (get(line=b"CONNECT /first HTTP/1.1"), {400, 405}),
    "no port for CONNECT": (get(line=b"CONNECT example.test HTTP/1.1"), {400, 405}),
    "a fragment": (get(line=b"GET /first#part HTTP/1.1"), 400),
    "a scheme that is not HTTP": (get(line=b"GET ftp://example.test/ HTTP/1.1"), 400),
    "userinfo in the target": (get(line=b"GET http://a:b@example.test/ HTTP/1.1"), 400),
    "an absolute form without a host": (get(line=b"GET http:///first HTTP/1.1"), 400),
    "a NUL in the target": (get(line=b"GET /fi\0rst HTTP/1.1"), 400),
    "a control byte in the target": (get(line=b"GET /fi\x01rst HTTP/1.1"), 400),
    "DEL in the target": (get(line=b"GET /fi\x7frst HTTP/1.1"), 400),
    "a broken percent sign": (get(line=b"GET /fi%rst HTTP/1.1"), 400),
    "a percent sign at the end": (get(line=b"GET /first% HTTP/1.1"), 400),
    "a percent sign with one digit": (get(line=b"GET /first%4 HTTP/1.1"), 400),

    # Host (RFC 9112 3.2; RFC 9110 7.2).
    "no Host": (b"GET /first HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (get(b"Host: other.test"), 400),
    "two Hosts that agree": (get(b"Host: example.test"), 400),
    "a list of Hosts": (b"GET /first HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n", 400),
    "two Hosts under an absolute form": (get(b"Host: other.test", line=b"GET http://example.test/ HTTP/1.1"), 400),
    "an invalid Host under an absolute form": (b"GET http://example.test/ HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "no Host under an absolute form": (b"GET http://example.test/ HTTP/1.1\r\n\r\n", 400),
    "a Host with a space": (b"GET /first HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a Host with a path": (b"GET /first HTTP/1.1\r\nHost: a.test/x\r\n\r\n", 400),
    "a Host with userinfo": (b"GET /first HTTP/1.1\r\nHost: u@a.test\r\n\r\n", 400),
    "a Host with a bad port": (b"GET /first HTTP/1.1\r\nHost: a.test:8o\r\n\r\n", 400),
    "a Host with a port too large": (b"GET /first HTTP/1.1\r\nHost: a.test:65536\r\n\r\n", 400),
    "a Host with two ports": (b"GET /first HTTP/1.1\r\nHost: a.test:80:80\r\n\r\n", 400),
    "a Host of an unclosed bracket": (b"GET /first HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "a Host of no IPv6 address": (b"GET /first HTTP/1.1\r\nHost: [::xyz]\r\n\r\n", 400),
    "a Host with a query": (b"GET /first HTTP/1.1\r\nHost: a.test?x\r\n\r\n", 400),
    "a Host with a backslash": (b"GET /first HTTP/1.1\r\nHost: a.test\\x\r\n\r\n", 400),
    "a folded Host": (b"GET /first HTTP/1.1\r\nHost:\r\n example.test\r\n\r\n", 400),

    # Limits of the head (RFC 9110 4.1, 15.5.15; RFC 6585 5).
    "a target that is too long": (get(line=b"GET /" + b"a" * 20000 + b" HTTP/1.1"), 414),
    "an endless target": (b"GET /" + b"a" * 40000, 414),
    "a field that is too long": (get(b"X-A: " + b"a" * 40000), 431),
    "too many fields": (get(*[b"X-%d: a" % i for i in range(200)]), 431),
    "a head that never ends": (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 40000, 431),
    "an endless line of blank lines": (b"\r\n" * 20000, 400),
}


@rows(REFUSED_HEADS)
def test_an_ambiguous_request_is_refused_and_nothing_after_it_is_served(proxy, origin, sent, status):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    client.send(sent + NEXT)
    answer = client.response()

    assert answer.status in (status if isinstance(status, set) else {status}), answer
    assert client.ended() == b""
    assert server.seen == 0


def test_a_request_before_an_ambiguous_one_is_still_answered(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    client.send(NEXT + post(b"Content-Length: 5", b"Transfer-Encoding: chunked") + NEXT)

    assert [client.response().status for _ in range(2)] == [200, 400]
    assert client.ended() == b""
    assert server.seen == 1


def test_an_expectation_that_nobody_knows_is_refused(proxy, origin):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    assert client.get("/", "Expect: 200-maybe").status in (400, 417)
    assert server.seen == 0


BROKEN_CHUNKS = {
    "a size that is not hexadecimal": b"g\r\nhello\r\n0\r\n\r\n",
    "an empty size": b"\r\nhello\r\n0\r\n\r\n",
    "a signed size": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size with a space before it": b" 5\r\nhello\r\n0\r\n\r\n",
    "a size that overflows": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a size of 40 digits": b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n",
    "a size with bare LF": b"5\nhello\r\n0\r\n\r\n",
    "a size with bare CR": b"5\rhello\r\n0\r\n\r\n",
    "a chunk longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "a chunk without CRLF": b"5\r\nhello0\r\n\r\n",
    "a chunk with bare LF": b"5\r\nhello\n0\r\n\r\n",
    "a chunk with two bytes for CRLF": b"5\r\nhelloXX0\r\n\r\n",
    "a last chunk with bare LF": b"5\r\nhello\r\n0\n\r\n",
    "an end with bare LF": b"5\r\nhello\r\n0\r\n\n",
    "an extension with a control byte": b"5;a=\x01\r\nhello\r\n0\r\n\r\n",
    "an extension with bare CR": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "an extension with bare LF": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a comma for a semicolon": b"5,a\r\nhello\r\n0\r\n\r\n",
    "a word after the size": b"5 a\r\nhello\r\n0\r\n\r\n",
    "an extension that is too long": b"5;" + b"a" * 20000 + b"\r\nhello\r\n0\r\n\r\n",
    "too many extensions": (b"1;" + b"a" * 2000 + b"\r\nx\r\n") * 30 + b"0\r\n\r\n",
    "a trailer with a space before its colon": b"5\r\nhello\r\n0\r\nX-A : b\r\n\r\n",
    "a trailer without a colon": b"5\r\nhello\r\n0\r\nX-A\r\n\r\n",
    "a folded trailer": b"5\r\nhello\r\n0\r\nX-A: b\r\n c\r\n\r\n",
    "a trailer with bare LF": b"5\r\nhello\r\n0\r\nX-A: b\n\r\n",
    "a trailer with a NUL": b"5\r\nhello\r\n0\r\nX-A: \0\r\n\r\n",
    "a trailer section that is too long": b"5\r\nhello\r\n0\r\nX-A: " + b"b" * 20000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_a_broken_chunk_never_completes_a_request(proxy, origin, body):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    client.send(post(b"Transfer-Encoding: chunked", body=body) + NEXT)
    answer = client.response()

    assert answer.status == 400
    assert client.ended() == b""
    assert server.seen <= 1
    assert not server.seen or not server.last.whole


@pytest.mark.parametrize("sent", [post(b"Content-Length: 10", body=b"hello"),
                                  post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),
                                  post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n")])
def test_a_body_that_ends_too_early_never_completes_a_request(proxy, origin, sent):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    client.send(sent)
    client.shutdown()
    client.ended()

    assert not any(r.whole for r in server.requests)


# ---- What must pass all the same.

PASSES = {
    "an empty value": get(b"X-A:"),
    "spaces around a value": get(b"X-A: \t a b \t "),
    "a name of all token bytes": get(b"!#$%&'*+-.^_`|~09azAZ: a"),
    "high bytes in a value": get(b"X-A: \xc3\xa9"),
    "127 fields": get(*[b"X-%d: a" % i for i in range(120)]),
    "a target of 8000 bytes": get(line=b"GET /" + b"a" * 8000 + b" HTTP/1.1"),
    "a field of 8000 bytes": get(b"X-A: " + b"a" * 8000),
    "a Host with a port": b"GET / HTTP/1.1\r\nHost: example.test:8080\r\n\r\n",
    "a Host of IPv6": b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
    "a Host of IPv4": b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
    "a Host with an underscore": b"GET / HTTP/1.1\r\nHost: a_b.test\r\n\r\n",
    "a Host in upper case": b"GET / HTTP/1.1\r\nHOST: EXAMPLE.TEST\r\n\r\n",
    "a query with odd bytes": get(line=b"GET /?a=/?:@!$&'()*+,;=%20 HTTP/1.1"),
    "GET with a body": b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
    "DELETE with a chunked body": b"DELETE / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"a"),
    "a length with leading zeros": post(b"Content-Length: 005", body=b"hello"),
    "chunked in capitals": post(b"Transfer-Encoding: CHUNKED", body=chunked(b"hello")),
    "chunk sizes with leading zeros": post(b"Transfer-Encoding: chunked", body=b"0005\r\nhello\r\n000\r\n\r\n"),
    "chunk sizes in capitals": post(b"Transfer-Encoding: chunked", body=b"A\r\nhellohello\r\n0\r\n\r\n"),
    "a chunk extension": post(b"Transfer-Encoding: chunked", body=b"5;a=b;c\r\nhello\r\n0\r\n\r\n"),
    "a quoted chunk extension": post(b"Transfer-Encoding: chunked", body=b'5;a="b;\\"c"\r\nhello\r\n0\r\n\r\n'),
    "Expect in capitals": post(b"Expect: 100-CONTINUE", b"Content-Length: 0"),
}


@pytest.mark.parametrize("sent", PASSES.values(), ids=PASSES)
def test_what_is_unusual_but_valid_passes(proxy, origin, sent):
    server = origin.answers(200, b"ok")
    client = proxy(server).raw()

    client.send(sent + NEXT)

    assert [client.response().body for _ in range(2)] == [b"ok", b"ok"]
    assert [r.target for r in server.requests][1] == "/next"


# ---- Origins.

def ok(*fields, line=b"HTTP/1.1 200 OK", body=b""):
    return line + b"\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


BAD_ORIGIN_HEADS = {
    "length and chunked": ok(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=chunked(b"hello")),
    "two lengths that differ": ok(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"),
    "a list of lengths that differ": ok(b"Content-Length: 5, 6", body=b"hello!"),
    "a signed length": ok(b"Content-Length: +5", body=b"hello"),
    "a negative length": ok(b"Content-Length: -1", body=b"hello"),
    "a length that overflows": ok(b"Content-Length: 99999999999999999999", body=b"hello"),
    "a length of words": ok(b"Content-Length: five", body=b"hello"),
    "chunked twice": ok(b"Transfer-Encoding: chunked, chunked", body=chunked(b"hello")),
    "chunked not last": ok(b"Transfer-Encoding: chunked, gzip", body=chunked(b"hello")),
    "a coding that we do not know": ok(b"Transfer-Encoding: cow", body=b"hello"),
    "chunked in an HTTP/1.0 answer": ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK", body=chunked(b"hello")),
    "a status of two digits": ok(b"Content-Length: 0", line=b"HTTP/1.1 20 OK"),
    "a status of four digits": ok(b"Content-Length: 0", line=b"HTTP/1.1 2000 OK"),
    "a status of letters": ok(b"Content-Length: 0", line=b"HTTP/1.1 2xx OK"),
    "a status below 100": ok(b"Content-Length: 0", line=b"HTTP/1.1 099 OK"),
    "status 600": ok(b"Content-Length: 0", line=b"HTTP/1.1 600 OK"),
    "version 2.0": ok(b"Content-Length: 0", line=b"HTTP/2.0 200 OK"),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no HTTP at all": b"hello\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "a space before the colon": ok(b"Content-Length : 2", body=b"ok"),
    "a space in a name": ok(b"X A: b", b"Content-Length: 2", body=b"ok"),
    "a NUL in a value": ok(b"X-A: \0", b"Content-Length: 2", body=b"ok"),
    "a CR in a value": ok(b"X-A: a\rb", b"Content-Length: 2", body=b"ok"),
    "a folded value": ok(b"X-A: a", b" b", b"Content-Length: 2", body=b"ok"),
    "a line without a colon": ok(b"X-A", b"Content-Length: 2", body=b"ok"),
    "a NUL in the reason": ok(b"Content-Length: 2", line=b"HTTP/1.1 200 O\0K", body=b"ok"),
    "a head that never ends": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100000,
    "too many fields": ok(*[b"X-%d: a" % i for i in range(3000)], body=b""),
    "an end in the middle of the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "nothing": b"",
    "a flood of interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 100 + ok(b"Content-Length: 2", body=b"ok"),
    "an interim answer with a body": ok(b"Content-Length: 5", line=b"HTTP/1.1 103 Early", body=b"hello"),
}


@pytest.mark.parametrize("answer", BAD_ORIGIN_HEADS.values(), ids=BAD_ORIGIN_HEADS)
def test_an_origin_that_breaks_the_protocol_gives_502(proxy, origin, answer):
    server = origin.plays(answer)
    client = proxy(server, upstream="retry = { attempts = 1 }").raw()

    assert client.get("/").status == 502


BAD_ORIGIN_BODIES = {
    "a size that is not hexadecimal": b"5\r\nhello\r\nxyz\r\n",
    "a size that overflows": b"5\r\nhello\r\n10000000000000000\r\n",
    "a chunk longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "a size with bare LF": b"5\nhello\r\n0\r\n\r\n",
    "a chunk with bare LF": b"5\r\nhello\n0\r\n\r\n",
    "a trailer with a NUL": b"5\r\nhello\r\n0\r\nX-A: \0\r\n\r\n",
    "a trailer without a colon": b"5\r\nhello\r\n0\r\nX-A\r\n\r\n",
    "an extension that never ends": b"5\r\nhello\r\n5;" + b"a" * 100000,
    "an end before the last chunk": b"5\r\nhello\r\n",
    "an end inside the last chunk": b"5\r\nhello\r\n0\r\n",
}


@pytest.mark.parametrize("body", BAD_ORIGIN_BODIES.values(), ids=BAD_ORIGIN_BODIES)
def test_an_answer_whose_body_breaks_stays_visibly_cut(proxy, origin, body):
    server = origin.plays(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    client = proxy(server).raw()

    client.send(request("GET", "/"))
    try:
        answer = client.response()
    except (Cut, ConnectionResetError):
        return
    except Malformed as problem:
        pytest.fail(str(problem))
    assert answer.status == 502


SURPLUS = {
    "after a length": ok(b"Content-Length: 2", body=b"ok" + ok(b"Content-Length: 4", body=b"evil")),
    "after the last chunk": ok(b"Transfer-Encoding: chunked", body=chunked(b"ok") + ok(b"Content-Length: 4", body=b"evil")),
    "after a 204": ok(line=b"HTTP/1.1 204 No Content", body=ok(b"Content-Length: 4", body=b"evil")),
    "after a 304": ok(line=b"HTTP/1.1 304 Not Modified", body=b"evil"),
    "after one byte": ok(b"Content-Length: 2", body=b"okX"),
}


@pytest.mark.parametrize("answer", SURPLUS.values(), ids=SURPLUS)
def test_what_an_origin_says_after_its_answer_reaches_nobody(proxy, origin, answer):
    def script(connection):
        if connection.number == 0:
            connection.request()
            connection.send(answer)
            connection.ended()
        while connection.request():
            connection.answer(200, b"good")
    server = origin.plays(script)
    client = proxy(server).raw()

    first, second = client.get("/"), client.get("/")

    assert b"evil" not in first.body + second.body
    assert second.body == b"good"


def test_an_answer_that_nobody_asked_for_reaches_nobody(proxy, origin):
    go, dropped = threading.Event(), threading.Event()

    def script(connection):
        if connection.number == 0:
            connection.request()
            connection.answer(200, b"ok")
            go.wait(5)
            connection.send(ok(b"Content-Length: 4", body=b"evil"))
            connection.ended()
            dropped.set()
        while connection.request():
            connection.answer(200, b"good")
    server = origin.plays(script)
    client = proxy(server).raw()

    client.get("/")
    go.set()
    assert dropped.wait(5)

    assert [client.get("/").body for _ in range(3)] == [b"good"] * 3


def test_an_origin_that_speaks_first_confuses_nobody(proxy, origin):
    spoken = threading.Event()

    def script(connection):
        if connection.number == 0:
            connection.send(ok(b"Content-Length: 5", body=b"early"))
            connection.request()
            connection.send(ok(b"Content-Length: 4", body=b"late"))
            spoken.set()
            connection.ended()
        while connection.request():
            connection.answer(200, b"good")
    client = proxy(origin.plays(script), upstream="retry = { attempts = 1 }").raw()

    answers = [client.get("/")]
    assert spoken.wait(5)
    answers += [client.get("/"), client.get("/")]

    assert answers[0].status == 502 or answers[0].body in (b"early", b"good")
    assert [a.body for a in answers[1:]] == [b"good"] * 2


def test_a_body_after_head_reaches_nobody(proxy, origin):
    def script(connection):
        while asked := connection.request():
            connection.send(ok(b"Content-Length: 4", body=b"evil" if asked.method == "HEAD" else b"good"))
    server = origin.plays(script)
    client = proxy(server).raw()

    client.request("HEAD", "/")

    assert client.get("/").body == b"good"


def test_an_origin_s_duplicate_lengths_that_agree_become_one_or_none(proxy, origin):
    server = origin.plays(ok(b"Content-Length: 2", b"Content-Length: 2", body=b"ok"))

    answer = proxy(server).get("/")

    assert answer.status == 502 or answer.fields.all("Content-Length") == ["2"]


def test_a_script_cannot_write_a_line_end_into_a_field(moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate(f"""gate.route {{ "/*", policies = {{ {{ access = function(req)
        local fine = pcall(function() req.headers["x-a"] = "a\\r\\nX-Evil: 1" end)
        if fine then return 500 end
        req.headers["x-b"] = "b"
    end }} }}, upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")

    assert gate.get("/").status == 200
    assert not re.search(b"evil", server.last.head, re.I)


# ---- However the bytes arrive.

def test_requests_are_refused_alike_when_they_arrive_byte_by_byte(proxy, origin):
    server = origin.answers(200, b"ok")
    gate = proxy(server)
    wrong = {}

    for name, (sent, status) in REFUSED_HEADS.items():
        if len(sent) > 400:
            continue
        client = gate.raw()
        try:
            for byte in sent:
                client.send(bytes([byte]))
        except OSError:
            pass                        # refused before its end
        got = client.response().status
        if got not in (status if isinstance(status, set) else {status}):
            wrong[name] = got
        client.close()

    assert not wrong
    assert server.seen == 0


def test_valid_requests_are_served_alike_when_they_arrive_byte_by_byte(proxy, origin):
    server = origin.answers(200, b"ok")
    gate = proxy(server)

    for name, sent in PASSES.items():
        client = gate.raw()
        for byte in sent[:400]:
            client.send(bytes([byte]))
        client.send(sent[400:])
        assert client.response().body == b"ok", name
        client.close()


def test_bad_answers_are_refused_alike_when_they_arrive_byte_by_byte(proxy, origin):
    answers = [answer for answer in BAD_ORIGIN_HEADS.values() if 0 < len(answer) < 400]

    def script(connection):
        asked = connection.request()
        for byte in answers[int(asked.target[1:])]:
            connection.send(bytes([byte]))
    gate = proxy(origin.plays(script), upstream="retry = { attempts = 1 }")

    assert [gate.get(f"/{i}").status for i in range(len(answers))] == [502] * len(answers)

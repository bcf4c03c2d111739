"""HTTP/2 by the letter: what RFC 9113 and RFC 7541 forbid ends the stream or the connection with the code they name.

The rules are those that h2spec walks through, section by section; each case sends frames by hand.
"""
import pytest

from h2wire import (COMPRESSION_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR, STREAM_CLOSED,
                    Http2, get)

SCRIPT = """
gate.route { "/echo", handler = function(req) local text = req:text() return 200, text or "" end }
gate.route { "/*", handler = function() return 200, ("x"):rep(100) end }
"""


@pytest.fixture
def connect(moongate):
    gate = moongate(SCRIPT, log_format=None)

    def start(**options):
        made = Http2(gate.address, **options)
        gate.clients.append(made)
        return made
    start.gate = gate
    return start


def headers(fields):
    return lambda c: c.headers(1, fields)


def after_request(work):
    def run(c):
        c.response(c.request())
        work(c)
    return run


def half_open(work):
    """With a request on stream 1 whose body is still to come."""
    def run(c):
        c.request(get("/echo", method="POST"), end=False)
        work(c)
    return run


def half_closed(work):
    """With a whole request on stream 1 whose answer finds no window."""
    def run(c):
        c.raw(4, 0, 0, b"\0\4\0\0\0\0").request()
        work(c)
    return run


HEAD = b"\x82\x86\x84\x41\x01a"        # GET http://a/

# What ends the connection: (section, what, codes).
CONNECTION = {
    "4.2 a frame over SETTINGS_MAX_FRAME_SIZE": (half_open(lambda c: c.raw(0, 0, 1, b"x" * 16385)),
                                                 (FRAME_SIZE_ERROR,)),
    "4.2 HEADERS over SETTINGS_MAX_FRAME_SIZE": (lambda c: c.raw(1, 5, 1, HEAD + b"\0" * 16384), (FRAME_SIZE_ERROR,)),
    "4.3 a block that is no HPACK": (lambda c: c.raw(1, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
                                     (COMPRESSION_ERROR,)),
    "4.3 another frame inside a block": (lambda c: c.headers(1, get(), whole=False).raw(2, 0, 1, b"\0\0\0\0\x10"),
                                         (PROTOCOL_ERROR,)),
    "4.3 a block of another stream inside": (lambda c: c.headers(1, get(), whole=False).headers(3, get()),
                                             (PROTOCOL_ERROR,)),
    "4.3 an unknown frame inside a block": (lambda c: c.headers(1, get(), whole=False).raw(0x77, 0, 1, b"x"),
                                            (PROTOCOL_ERROR,)),
    "5.1 DATA on an idle stream": (lambda c: c.raw(0, 1, 1, b"x"), (PROTOCOL_ERROR, STREAM_CLOSED)),
    "5.1 RST_STREAM on an idle stream": (lambda c: c.rst(1), (PROTOCOL_ERROR,)),
    "5.1 WINDOW_UPDATE on an idle stream": (lambda c: c.window(1, 10), (PROTOCOL_ERROR,)),
    "5.1 CONTINUATION on an idle stream": (lambda c: c.raw(9, 4, 1, b"\x82"), (PROTOCOL_ERROR,)),
    "5.1 DATA on a half-closed stream": (half_closed(lambda c: c.raw(0, 1, 1, b"x")), (STREAM_CLOSED,)),
    "5.1 HEADERS on a half-closed stream": (half_closed(lambda c: c.headers(1, get())), (STREAM_CLOSED,)),
    "5.1 CONTINUATION on a half-closed stream": (half_closed(lambda c: c.raw(9, 4, 1, HEAD)), (PROTOCOL_ERROR,)),
    "5.1 HEADERS on a closed stream": (after_request(lambda c: c.headers(1, get())), (STREAM_CLOSED,)),
    "5.1 CONTINUATION on a closed stream": (after_request(lambda c: c.raw(9, 4, 1, HEAD)), (PROTOCOL_ERROR,)),
    "5.1.1 an even stream": (lambda c: c.headers(2, get()), (PROTOCOL_ERROR,)),
    "5.1.1 a lower stream than the last": (lambda c: c.headers(5, get()).headers(3, get()), (STREAM_CLOSED,)),
    "6.1 DATA on stream 0": (lambda c: c.raw(0, 0, 0, b"x"), (PROTOCOL_ERROR,)),
    "6.1 padding longer than the frame": (half_open(lambda c: c.raw(0, 8, 1, b"\x06hello")), (PROTOCOL_ERROR,)),
    "6.2 HEADERS on stream 0": (lambda c: c.raw(1, 5, 0, b"\x82"), (PROTOCOL_ERROR,)),
    "6.2 padding longer than HEADERS": (lambda c: c.raw(1, 0xd, 1, b"\xff\x82\x86\x84\x41\x01a"), (PROTOCOL_ERROR,)),
    "6.3 PRIORITY on stream 0": (lambda c: c.raw(2, 0, 0, b"\0\0\0\0\x10"), (PROTOCOL_ERROR,)),
    "6.3 PRIORITY of another length": (lambda c: c.raw(2, 0, 1, b"\0\0\0\0"), (FRAME_SIZE_ERROR,)),
    "6.4 RST_STREAM on stream 0": (lambda c: c.raw(3, 0, 0, b"\0\0\0\x08"), (PROTOCOL_ERROR,)),
    "6.4 RST_STREAM of another length": (half_open(lambda c: c.raw(3, 0, 1, b"\0\0\x08")), (FRAME_SIZE_ERROR,)),
    "6.5 SETTINGS ACK with a payload": (lambda c: c.raw(4, 1, 0, b"\0\0\0\0\0\0"), (FRAME_SIZE_ERROR,)),
    "6.5 SETTINGS on a stream": (lambda c: c.raw(4, 0, 1, b"\0\3\0\0\0\x64"), (PROTOCOL_ERROR,)),
    "6.5 SETTINGS of another length": (lambda c: c.raw(4, 0, 0, b"\0\3\0"), (FRAME_SIZE_ERROR,)),
    "6.5.2 ENABLE_PUSH of 2": (lambda c: c.raw(4, 0, 0, b"\0\2\0\0\0\2"), (PROTOCOL_ERROR,)),
    "6.5.2 INITIAL_WINDOW_SIZE over 2^31-1": (lambda c: c.raw(4, 0, 0, b"\0\4\x80\0\0\0"), (FLOW_CONTROL_ERROR,)),
    "6.5.2 MAX_FRAME_SIZE below 2^14": (lambda c: c.raw(4, 0, 0, b"\0\5\0\0\x3f\xff"), (PROTOCOL_ERROR,)),
    "6.5.2 MAX_FRAME_SIZE over 2^24-1": (lambda c: c.raw(4, 0, 0, b"\0\5\1\0\0\0"), (PROTOCOL_ERROR,)),
    "6.7 PING on a stream": (lambda c: c.raw(6, 0, 1, b"12345678"), (PROTOCOL_ERROR,)),
    "6.7 PING of another length": (lambda c: c.raw(6, 0, 0, b"123456"), (FRAME_SIZE_ERROR,)),
    "6.8 GOAWAY on a stream": (lambda c: c.raw(7, 0, 1, b"\0" * 8), (PROTOCOL_ERROR,)),
    "6.9 WINDOW_UPDATE of 0 for all": (lambda c: c.raw(8, 0, 0, b"\0\0\0\0"), (PROTOCOL_ERROR,)),
    "6.9 WINDOW_UPDATE of 0 for a stream": (half_open(lambda c: c.raw(8, 0, 1, b"\0\0\0\0")), (PROTOCOL_ERROR,)),
    "6.9 WINDOW_UPDATE of another length": (lambda c: c.raw(8, 0, 0, b"\0\0\0"), (FRAME_SIZE_ERROR,)),
    "6.9.1 a window over 2^31-1": (lambda c: (c.window(0, 2**31 - 1), c.window(0, 2**31 - 1)), (FLOW_CONTROL_ERROR,)),
    "6.10 CONTINUATION behind a whole block": (half_open(lambda c: c.raw(9, 4, 1, b"\x82")), (PROTOCOL_ERROR,)),
    "6.10 CONTINUATION behind the last of a block": (
        half_open(lambda c: c.headers(3, get(), whole=False).raw(9, 4, 3, b"").raw(9, 4, 3, b"")), (PROTOCOL_ERROR,)),
    "6.10 CONTINUATION on stream 0": (lambda c: c.headers(1, get(), whole=False).raw(9, 4, 0, b"\x82"),
                                      (PROTOCOL_ERROR,)),
    "6.10 CONTINUATION behind DATA": (half_open(lambda c: c.data(1, b"x").raw(9, 4, 1, b"\x82")), (PROTOCOL_ERROR,)),
    "8.4 PUSH_PROMISE from a client": (half_open(lambda c: c.raw(5, 4, 1, b"\0\0\0\2\x82")), (PROTOCOL_ERROR,)),
    "HPACK 2.3.3 an index that is not there": (lambda c: c.raw(1, 5, 1, b"\xc6"), (COMPRESSION_ERROR,)),
    "HPACK 2.3.3 a name's index that is not there": (lambda c: c.raw(1, 5, 1, b"\x7f\x07\x01a"), (COMPRESSION_ERROR,)),
    "HPACK 4.2 a table's size behind a field": (lambda c: c.raw(1, 5, 1, HEAD + b"\x20"), (COMPRESSION_ERROR,)),
    "HPACK 6.1 the index 0": (lambda c: c.raw(1, 5, 1, b"\x80"), (COMPRESSION_ERROR,)),
    "HPACK 6.3 a table over the setting": (lambda c: c.raw(1, 5, 1, b"\x3f\xe1\xff\x03\x82\x86\x84\x41\x01a"),
                                           (COMPRESSION_ERROR,)),
    "HPACK 5.2 a Huffman padding of zeros": (lambda c: c.raw(1, 5, 1, b"\x82\x86\x84\x41\x81\x18"),
                                             (COMPRESSION_ERROR,)),
    "HPACK 5.2 the end of a string inside it": (
        lambda c: c.raw(1, 5, 1, b"\x82\x86\x84\x41\x84\xff\xff\xff\xff"), (COMPRESSION_ERROR,)),
    "HPACK 5.2 a Huffman padding that is too long": (
        lambda c: c.raw(1, 5, 1, b"\x82\x86\x84\x41\x85\xff\xff\xff\xff\xff"), (COMPRESSION_ERROR,)),
}


@pytest.mark.parametrize("case", CONNECTION.values(), ids=CONNECTION.keys())
def test_the_connection_ends(connect, case):
    work, codes = case
    client = connect()

    work(client)

    assert client.goaway_code() in codes
    assert connect().get("/").status == 200


@pytest.mark.parametrize("begun", [
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x08\6\0\0\0\0\x0012345678",
], ids=["3.4 another preface", "3.4 no SETTINGS first"])
def test_a_connection_begins_as_it_must(connect, begun):
    client = connect(preface=False)

    client.send(begun)

    assert client.goaway_code() == PROTOCOL_ERROR


# What ends a stream alone (RFC 9113 8.1.1).
STREAM = {
    "6.9.1 a stream's window over 2^31-1": (half_open(lambda c: (c.window(1, 2**31 - 1), c.window(1, 2**31 - 1))),
                                            FLOW_CONTROL_ERROR),
    "8.1 a second HEADERS without END_STREAM": (half_open(lambda c: c.headers(1, [("x-a", "1")], end=False)),
                                                PROTOCOL_ERROR),
    "8.1 pseudo fields in trailers": (half_open(lambda c: c.headers(1, [(":method", "GET")])), PROTOCOL_ERROR),
    "8.1.1 less data than Content-Length": (
        lambda c: c.request(get("/echo", ("content-length", "5"), method="POST"), body=b"four"), PROTOCOL_ERROR),
    "8.1.1 more data than Content-Length": (
        lambda c: c.request(get("/echo", ("content-length", "3"), method="POST"), body=b"four"), PROTOCOL_ERROR),
    "8.1.1 more data than Content-Length, in pieces": (
        lambda c: (c.request(get("/echo", ("content-length", "3"), method="POST"), body=b"fo", end=False),
                   c.data(1, b"ur", end=True)), PROTOCOL_ERROR),
    "8.1.1 two lengths": (headers(get("/echo", ("content-length", "3"), ("content-length", "3"))), PROTOCOL_ERROR),
    "8.1.1 a length that is no number": (headers(get("/echo", ("content-length", "+3"))), PROTOCOL_ERROR),
    "8.2 an uppercase name": (headers(get("/", ("X-Upper", "1"))), PROTOCOL_ERROR),
    "8.2 a blank in a name": (headers(get("/", ("x a", "1"))), PROTOCOL_ERROR),
    "8.2 a colon in a name": (headers(get("/", ("x:a", "1"))), PROTOCOL_ERROR),
    "8.2 an empty name": (headers(get("/", ("", "1"))), PROTOCOL_ERROR),
    "8.2 CR in a value": (headers(get("/", ("x-a", "1\rx"))), PROTOCOL_ERROR),
    "8.2 LF in a value": (headers(get("/", ("x-a", "1\nx-b: 2"))), PROTOCOL_ERROR),
    "8.2 NUL in a value": (headers(get("/", ("x-a", "1\0"))), PROTOCOL_ERROR),
    "8.2 a blank before a value": (headers(get("/", ("x-a", " 1"))), PROTOCOL_ERROR),
    "8.2 a blank behind a value": (headers(get("/", ("x-a", "1 "))), PROTOCOL_ERROR),
    "8.2.2 Connection": (headers(get("/", ("connection", "close"))), PROTOCOL_ERROR),
    "8.2.2 Keep-Alive": (headers(get("/", ("keep-alive", "timeout=5"))), PROTOCOL_ERROR),
    "8.2.2 Proxy-Connection": (headers(get("/", ("proxy-connection", "close"))), PROTOCOL_ERROR),
    "8.2.2 Transfer-Encoding": (headers(get("/", ("transfer-encoding", "chunked"))), PROTOCOL_ERROR),
    "8.2.2 Upgrade": (headers(get("/", ("upgrade", "websocket"))), PROTOCOL_ERROR),
    "8.2.2 TE other than trailers": (headers(get("/", ("te", "gzip"))), PROTOCOL_ERROR),
    "8.3 an unknown pseudo field": (headers([*get(), (":wonder", "1")]), PROTOCOL_ERROR),
    "8.3 a response's pseudo field": (headers([*get(), (":status", "200")]), PROTOCOL_ERROR),
    "8.3 a pseudo field behind others": (headers([("x-a", "1"), *get()]), PROTOCOL_ERROR),
    **{f"8.3 {name} twice": (headers([(name, value), *get()]), PROTOCOL_ERROR) for name, value in get()},
    "8.3.1 two Hosts": (headers([*get()[:2], get()[3], ("host", "a.example"), ("host", "b.example")]), PROTOCOL_ERROR),
    "8.3.1 neither :authority nor Host": (headers([*get()[:2], get()[3]]), PROTOCOL_ERROR),
    "8.3.1 no :method": (headers(get()[1:]), PROTOCOL_ERROR),
    "8.3.1 no :scheme": (headers([get()[0], *get()[2:]]), PROTOCOL_ERROR),
    "8.3.1 no :path": (headers(get()[:3]), PROTOCOL_ERROR),
    "8.3.1 an empty :path": (headers(get("")), PROTOCOL_ERROR),
    "8.3.1 a :path that is no path": (headers(get("nowhere")), PROTOCOL_ERROR),
    "8.5 CONNECT with a :path": (headers(get("/", method="CONNECT")), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", STREAM.values(), ids=STREAM.keys())
def test_the_stream_ends_alone(connect, case):
    work, code = case
    client = connect().ready()

    work(client)
    assert client.reset_code(1) == code

    client.next_id = 11
    assert client.get("/").status == 200


# What is allowed, however odd: a request on stream 11 is answered behind it. h2spec's generic part, and 5.1, 6 and 7.
ALLOWED = {
    "3.3 DATA in pieces, with padding": half_open(lambda c: (c.data(1, b"a"), c.raw(0, 9, 1, b"\2b\0\0"))),
    "4.1 flags that nobody knows": lambda c: c.raw(6, 0x16, 0, b"12345678"),
    "4.1 the reserved bit": lambda c: c.raw(6, 0, 1 << 31, b"12345678"),
    "4.2 DATA of 2^14 bytes": half_open(lambda c: c.data(1, b"x" * 16384, end=True)),
    "5.1 PRIORITY on an idle stream": lambda c: c.raw(2, 0, 9, b"\0\0\0\0\x10"),
    "5.1 WINDOW_UPDATE on a half-closed stream": half_closed(lambda c: c.window(1, 100)),
    "5.1 RST_STREAM on a half-closed stream": half_closed(lambda c: c.rst(1)),
    "5.1 PRIORITY on a half-closed stream": half_closed(lambda c: c.raw(2, 0, 1, b"\0\0\0\0\x10")),
    "5.1 DATA on a closed stream": after_request(lambda c: c.raw(0, 1, 1, b"x")),
    "5.1 HEADERS on a stream that was reset": half_open(lambda c: c.rst(1).headers(1, [("x-a", "1")])),
    "5.1 WINDOW_UPDATE on a closed stream": after_request(lambda c: c.window(1, 100)),
    "5.1 RST_STREAM on a closed stream": after_request(lambda c: c.rst(1)),
    "5.1 PRIORITY on a closed stream": after_request(lambda c: c.raw(2, 0, 1, b"\0\0\0\0\x10")),
    "6.2 HEADERS with padding and priority": lambda c: c.raw(1, 0x2d, 1, b"\2\0\0\0\0\x10" + HEAD + b"\0\0"),
    "6.4 RST_STREAM with a code that nobody knows": half_open(lambda c: c.rst(1, 0xff)),
    "6.5 SETTINGS of no entries": lambda c: c.raw(4, 0, 0),
    "6.5.2 a setting twice": lambda c: c.raw(4, 0, 0, b"\0\4\0\0\0\0\0\4\0\0\xff\xff"),
    "6.7 a PING's answer that nobody asked for": lambda c: c.raw(6, 1, 0, b"12345678"),
    "6.9.1 the largest window": lambda c: c.window(0, 2**31 - 1 - 65535),
    "6.10 a block in many pieces": lambda c: (c.raw(1, 1, 1, HEAD[:3]).raw(9, 0, 1, b"").raw(9, 0, 1, HEAD[3:4])
                                              .raw(9, 4, 1, HEAD[4:])),
    "HPACK 4.2 a table of another size": lambda c: c.raw(1, 5, 1, b"\x20\x3f\x61" + HEAD),
    "HPACK 6.2.1 a literal, indexed": lambda c: c.raw(1, 5, 1, HEAD + b"\x40\x03x-a\x01b\xbe"),
    "HPACK 6.2.2 a literal, not indexed": lambda c: c.raw(1, 5, 1, HEAD + b"\0\x03x-a\x01b"),
    "HPACK 6.2.3 a literal, never indexed": lambda c: c.raw(1, 5, 1, HEAD + b"\x10\x03x-a\x01b"),
    "HPACK 5.2 a string in Huffman's code": lambda c: c.raw(1, 5, 1, b"\x82\x86\x84\x41\x81\x1f"),
}


@pytest.mark.parametrize("work", ALLOWED.values(), ids=ALLOWED.keys())
def test_the_connection_goes_on(connect, work):
    client = connect().ready()

    work(client)

    client.raw(4, 0, 0, b"\0\4\0\0\xff\xff").next_id = 11
    assert client.get("/").status == 200


# Well formed HTTP/2 that HTTP/1.1 would read another way.
ANSWERED = {
    "Host differs from :authority": (get("/", ("host", "other.example")), 400),
    "userinfo in :authority": (get("/", authority="user@a.example"), 400),
    "a scheme of another world": ([get()[0], (":scheme", "ftp"), *get()[2:]], 400),
    "a fragment in :path": (get("/a#b"), 400),
    "a broken escape that climbs": (get("/%zz"), 400),
    "an expectation nobody knows": (get("/", ("expect", "the-unexpected")), 417),
}


@pytest.mark.parametrize("case", ANSWERED.values(), ids=ANSWERED.keys())
def test_doubt_is_answered_and_the_connection_stays(connect, case):
    fields, status = case
    client = connect().ready()

    answer = client.response(client.request(fields))

    assert answer.status == status
    assert client.get("/").status == 200


def test_a_reset_stream_takes_no_more(connect):
    client = connect().ready()
    stream = client.request(get("/echo", method="POST"), end=False)

    client.rst(stream).data(stream, b"late", end=True)

    assert client.get("/").status == 200


def test_unknown_frames_and_settings_are_passed_over(connect):
    client = connect(settings={0x55: 7}).ready()

    client.raw(0x77, 0xff, 0, b"whatever")
    client.raw(0x77, 0xff, 3, b"whatever")

    assert client.get("/").status == 200


def test_padding_is_no_body(connect):
    client = connect().ready()
    stream = client.request(get("/echo", method="POST"), end=False)

    client.raw(0, 9, stream, b"\x05hello\0\0\0\0\0")

    assert client.response(stream).body == b"hello"


def test_a_smaller_window_in_midst_of_a_body_holds(connect):
    client = connect(settings={4: 10}, manual=True).ready()
    stream = client.request()

    client.until(lambda: len(client.streams[stream].body) == 10)
    client.send(b"\0\0\6\4\0\0\0\0\0\0\4\0\0\0\x14")       # INITIAL_WINDOW_SIZE 20: ten more

    client.until(lambda: len(client.streams[stream].body) == 20)
    client.window(stream, 1000)
    assert len(client.response(stream).body) == 100


def test_a_ping_is_answered_with_what_it_carries(connect):
    client = connect().ready()

    client.ping(b"\1\2\3\4\5\6\7\x08")

    client.until(lambda: any(f.type == 6 and "ACK" in f.flags and f.opaque_data == b"\1\2\3\4\5\6\7\x08"
                             for f in client.seen))

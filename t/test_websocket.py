"""WebSocket messages on their way through message hooks (RFC 6455)."""
import asyncio
import base64
import os
import signal
import socket
import struct
import threading

import pytest
import websockets

import node
from client import request
from h2wire import Http2
from moongate import wait_until
from wire import Cut, PATIENCE

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode, data=b"", mask=True, final=True, reserved=0):
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    bit = 0x80 if mask else 0
    if len(data) < 126:
        head += bytes([bit | len(data)])
    elif len(data) < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", len(data))
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", len(data))
    if not mask:
        return head + data
    key = os.urandom(4)
    return head + key + bytes(b ^ key[i % 4] for i, b in enumerate(data))


def read_frame(wire):
    """One frame: opcode, payload, whether it was masked."""
    first, second = wire.exactly(2)
    size = second & 127
    if size == 126:
        size = struct.unpack(">H", wire.exactly(2))[0]
    elif size == 127:
        size = struct.unpack(">Q", wire.exactly(8))[0]
    key = wire.exactly(4) if second & 128 else None
    data = wire.exactly(size)
    if key:
        data = bytes(b ^ key[i % 4] for i, b in enumerate(data))
    assert first & 0xf0 == 0x80
    return first & 15, data, key is not None


HANDSHAKE = request("GET", "/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                    "Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef").decode(),
                    "Sec-WebSocket-Extensions: permessage-deflate")


@pytest.fixture
def pair(proxy, origin):
    """pair(hook) -> (client, seen): a raw client of an origin that repeats each frame and keeps what it got."""
    def start(hook, limits="", before=""):
        seen = []

        def script(connection):
            asked = connection.request()
            assert "Sec-WebSocket-Extensions" not in asked.fields
            connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while True:
                try:
                    opcode, data, masked = read_frame(connection)
                except Exception:
                    return                  # the proxy has ended its side
                assert masked
                seen.append((opcode, data))
                connection.send(frame(opcode, data, mask=False))
                if opcode == CLOSE:
                    return
        gate = proxy(origin.plays(script), route=f"{limits} message = {hook}", before=before)
        client = gate.raw()
        client.send(HANDSHAKE)
        assert client.head().status == 101
        client.gate = gate
        return client, seen
    return start


def say(client, opcode, data=b"", **how):
    client.send(frame(opcode, data, **how))


def hear(client):
    opcode, data, masked = read_frame(client)
    assert not masked
    return opcode, data


def close_code(client):
    opcode, data = hear(client)
    assert opcode == CLOSE
    return struct.unpack(">H", data[:2])[0]


KEEP = "function() end"


def test_a_hook_sees_both_directions_and_replaces(pair):
    client, seen = pair('function(req, message, from) return from .. ":" .. message.data end')

    say(client, TEXT, b"a")
    say(client, BINARY, b"\xff\x00")

    assert [hear(client), hear(client)] == [(TEXT, b"origin:client:a"), (BINARY, b"origin:client:\xff\x00")]
    assert seen == [(TEXT, b"client:a"), (BINARY, b"client:\xff\x00")]


def test_text_is_nil_for_a_binary_message(pair):
    client, _ = pair("function(req, m) return tostring(m.binary) .. tostring(m.text) end")

    say(client, TEXT, b"a")
    say(client, BINARY, b"a")

    assert [hear(client)[1], hear(client)[1]] == [b"falsefalsea", b"truenil"]


def test_false_drops_and_an_empty_string_is_an_empty_message(pair):
    client, seen = pair("""function(req, m, from)
        if m.data == "drop" then return false end
        if m.data == "empty" then return "" end
    end""")

    for word in (b"drop", b"empty", b"kept"):
        say(client, TEXT, word)

    assert [hear(client), hear(client)] == [(TEXT, b""), (TEXT, b"kept")]
    assert seen == [(TEXT, b""), (TEXT, b"kept")]


def test_a_hook_that_waits_keeps_the_order(pair):
    client, seen = pair("""function(req, m, from)
        if m.data == "slow" then gate.sleep(0.05) end
    end""")

    for word in (b"slow", b"1", b"slow", b"2"):
        say(client, TEXT, word)

    assert [hear(client)[1] for _ in range(4)] == [b"slow", b"1", b"slow", b"2"]


def test_a_hook_answers_either_side(pair):
    client, seen = pair("""function(req, m, from)
        if from == "client" then
            assert(req:send("client", "to you"))
            assert(req:send("origin", "\\255", "binary"))
            return false
        end
    end""")

    say(client, TEXT, b"a")

    assert [hear(client), hear(client)] == [(TEXT, b"to you"), (BINARY, b"\xff")]
    assert seen == [(BINARY, b"\xff")]


def test_a_hook_closes_both_sides_with_its_code(pair):
    client, seen = pair('function(req) req:close(4001, "enough") end')

    say(client, TEXT, b"a")

    assert hear(client) == (CLOSE, struct.pack(">H", 4001) + b"enough")
    wait_until(lambda: seen == [(CLOSE, struct.pack(">H", 4001) + b"enough")])
    client.shutdown()
    assert client.ended() == b""


def test_a_hook_that_throws_closes_with_1011_and_the_log_says_where(pair):
    client, seen = pair('function() error "oh no" end')

    say(client, TEXT, b"a")

    assert close_code(client) == 1011
    client.shutdown()
    client.ended()
    client.gate.expect_error("oh no")
    wait_until(lambda: seen == [(CLOSE, struct.pack(">H", 1011))])


def test_fragments_become_one_message_and_control_frames_between_them_pass_at_once(pair):
    client, seen = pair(KEEP)

    say(client, TEXT, b"a\xc3", final=False)
    say(client, PING, b"p")
    assert hear(client) == (PING, b"p")
    say(client, 0, b"\xa4", final=False)
    say(client, 0, b"b")

    assert hear(client) == (TEXT, "aäb".encode())


def test_a_message_that_arrives_byte_by_byte_is_whole(pair):
    client, _ = pair(KEEP)
    data = os.urandom(300)

    for byte in frame(BINARY, data):
        client.send(bytes([byte]))

    assert hear(client) == (BINARY, data)


FAULTS = {name: (sent, code) for name, sent, code in [
    ("an unmasked frame", frame(TEXT, b"a", mask=False), 1002),
    ("a reserved bit", frame(TEXT, b"a", reserved=4), 1002),
    ("an unknown opcode", frame(3, b"a"), 1002),
    ("a control frame in pieces", frame(PING, b"a", final=False), 1002),
    ("a long control frame", frame(PING, b"a" * 126), 1002),
    ("a continuation of nothing", frame(0, b"a"), 1002),
    ("a message within another", frame(TEXT, b"a", final=False) + frame(TEXT, b"b"), 1002),
    ("a length in a longer form", b"\x81\xfe\x00\x01\0\0\0\0a", 1002),
    ("a close with half a code", frame(CLOSE, b"\x03"), 1002),
    ("a close with a code that is never sent", frame(CLOSE, struct.pack(">H", 1006)), 1002),
    ("a text that is no UTF-8", frame(TEXT, b"\xc3\x28"), 1007),
    ("a text that ends in a character", frame(TEXT, b"\xe2\x82"), 1007),
    ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007),
    ("a message over max_message_size", frame(BINARY, b"x" * 1001), 1009),
    ("pieces over max_message_size", frame(BINARY, b"x" * 600, final=False) + frame(0, b"x" * 401), 1009),
]}


@pytest.mark.parametrize("name", FAULTS)
def test_what_breaks_the_protocol_closes_both_sides(pair, name):
    sent, code = FAULTS[name]
    client, seen = pair(KEEP, limits="max_message_size = 1000,")

    client.send(sent)

    assert close_code(client) == code, name
    wait_until(lambda: seen == [(CLOSE, struct.pack(">H", code))])
    client.shutdown()
    assert client.ended() == b""


def test_a_message_of_max_message_size_passes(pair):
    client, _ = pair(KEEP, limits="max_message_size = 1000,")

    say(client, BINARY, b"x" * 1000)

    assert hear(client) == (BINARY, b"x" * 1000)


def test_close_frames_pass_and_the_exchange_ends(pair):
    client, seen = pair(KEEP)

    say(client, CLOSE, struct.pack(">H", 1000) + b"bye")

    assert hear(client) == (CLOSE, struct.pack(">H", 1000) + b"bye")
    assert client.ended() == b""
    assert seen == [(CLOSE, struct.pack(">H", 1000) + b"bye")]


def test_a_client_that_leaves_while_a_hook_waits_ends_the_exchange(pair):
    client, seen = pair("function(req, m) gate.sleep(30) end")

    say(client, TEXT, b"a")
    client.reset()

    wait_until(lambda: client.gate.status()["workers"][0]["exchanges"] == 0)
    assert seen == []


def test_policies_run_in_order_from_the_client_and_in_reverse_from_the_origin(pair):
    client, _ = pair('function(_, m) return m.data .. "r" end',
                     before='gate.use { message = function(_, m) return m.data .. "u" end }')

    say(client, TEXT, b"")

    assert hear(client) == (TEXT, b"urru")


def test_real_clients_talk_through_a_hook(proxy):
    async def scenario():
        async def serve(socket):
            async for message in socket:
                await socket.send(message)

        async with websockets.serve(serve, "127.0.0.1", 0, max_size=None) as server:
            port = server.sockets[0].getsockname()[1]
            gate = await asyncio.to_thread(
                proxy, f"127.0.0.1:{port}", route="""max_message_size = "8M", message = function(req, m, from)
                    if from == "client" then return m.data:reverse() end
                end""")
            async with websockets.connect(f"ws://127.0.0.1:{gate.port}/chat", max_size=None) as client:
                assert client.extensions == []
                for message in ["hello", b"\x00\x01", "x" * 70000, b"yz" * 2_500_000, ""]:
                    await client.send(message)
                    assert await client.recv() == message[::-1]
                await (await client.ping())
                await asyncio.gather(*(client.send(f"{n:03}") for n in range(100)))
                assert sorted([(await client.recv())[::-1] for _ in range(100)]) == [f"{n:03}" for n in range(100)]
            assert client.close_code == 1000

    asyncio.run(asyncio.wait_for(scenario(), 20))


@node.needs("ws")
@pytest.mark.parametrize("hook", ["", 'message = function(_, m) if m.text == "hello" then return "HELLO" end end'],
                         ids=["tunnel", "message hook"])
def test_npms_ws_talks_on_both_sides(proxy, hook):
    told = node.play("ws.js", lambda port: proxy(f"127.0.0.1:{port}", route=hook))

    assert told["client"]["got"] == [["text", "HELLO" if hook else "hello"], ["binary", 300_000], ["text", "in two"],
                                     ["text", 140_000]]
    assert told["client"]["pongs"] == ["are you there"]
    assert (told["client"]["code"], told["server"]["code"], told["server"]["reason"]) == (4001, 4001, "enough")
    assert (told["server"]["offered"] is None) == bool(hook), "what is compressed no hook could read"


def test_messages_over_http2_meet_the_hook(proxy, origin):
    """RFC 8441: the same frames in the DATA of an extended CONNECT."""
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while True:
            opcode, data, _ = read_frame(connection)
            connection.send(frame(opcode, data, mask=False))

    gate = proxy(origin.plays(script), route='message = function(_, m, from) if from == "client" then return m.data .. "!" end end')
    client, stream, answer = open_over_h2(gate)

    client.data(stream, frame(TEXT, b"hello"))
    client.until(lambda: len(answer.body) >= 8)

    assert (answer.status, answer.body) == (200, b"\x81\x06hello!")


# ---- WebSockets to origins of HTTP/2 (RFC 8441).


class Frames:
    """The frames of a stream at an origin of HTTP/2, read as from a wire."""

    def __init__(self, connection, asked):
        self.connection, self.asked, self.at = connection, asked, 0

    def exactly(self, n):
        with self.connection.lock:
            self.connection.news.wait_for(lambda: len(self.asked.body) >= self.at + n or self.asked.whole, PATIENCE)
            piece = self.asked.body[self.at:self.at + n]
        if len(piece) < n:
            raise Cut("the client has ended its side")
        self.at += n
        return piece

    def send(self, data):
        self.connection.send(self.asked, data)


def echo_over_h2(connection, asked):
    with connection.lock:
        connection.h2.send_headers(asked.stream, [(":status", "200"), ("x-chat", "yes")])
        connection.flush()
    wire = Frames(connection, asked)
    opcode = None
    while opcode != CLOSE:
        opcode, data, _ = read_frame(wire)
        wire.send(frame(PONG if opcode == PING else opcode, data, mask=False))
    with connection.lock:
        connection.h2.end_stream(asked.stream)
        connection.flush()


HOOKS = pytest.mark.parametrize("hook", ["", "message = function() end"], ids=["tunnel", "message hook"])


@HOOKS
def test_a_websocket_reaches_an_http2_origin(proxy, h2_origin, hook):
    server = h2_origin(echo_over_h2)
    gate = proxy(server, upstream='protocol = "h2"', route=hook)

    async def scenario():
        async with websockets.connect(f"ws://127.0.0.1:{gate.port}/chat?a=b", compression=None) as client:
            for message in ("hello", b"\0" * 100_000, "é" * 10):
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping())
        assert client.close_code == 1000
        assert client.response_headers["x-chat"] == "yes"
    asyncio.run(asyncio.wait_for(scenario(), 20))

    asked = server.requests[0]
    assert {name: asked.pseudo[name] for name in (":method", ":protocol", ":scheme", ":path")} == {
        ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/chat?a=b"}
    assert asked["sec-websocket-version"] == "13"
    assert (asked["sec-websocket-key"], asked["upgrade"], asked["connection"]) == (None, None, None)


def test_the_client_gets_the_answer_to_its_own_key(proxy, h2_origin):
    client = proxy(h2_origin(echo_over_h2), upstream='protocol = "h2"').raw()

    client.send(request("GET", "/", "Connection: Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13",
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
    head = client.head()

    assert (head.status, head["Sec-WebSocket-Accept"]) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")


def open_over_h2(gate):
    client = Http2(gate.address)
    gate.clients.append(client)
    client.ready()
    stream = client.request([(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/chat"),
                             (":authority", "a"), ("sec-websocket-version", "13")], end=False)
    answer = client.streams[stream]
    client.until(lambda: answer.status is not None)
    return client, stream, answer


@HOOKS
def test_a_websocket_passes_from_http2_to_http2(proxy, h2_origin, hook):
    gate = proxy(h2_origin(echo_over_h2), upstream='protocol = "h2"', route=hook)
    client, stream, answer = open_over_h2(gate)

    client.data(stream, frame(TEXT, b"hello"))
    client.until(lambda: len(answer.body) >= 7)
    client.data(stream, frame(CLOSE, b"\x03\xe8"), end=True)
    client.response(stream)

    assert (answer.status, answer.body, answer.reset) == (200, b"\x81\x05hello\x88\x02\x03\xe8", None)


def test_websockets_share_a_connection_with_requests(proxy, h2_origin):
    def play(connection, asked):
        if asked.pseudo[":method"] == "GET":
            connection.answer(asked, body=b"plain")
        else:
            echo_over_h2(connection, asked)

    server = h2_origin(play)
    gate = proxy(server, upstream='protocol = "h2"')
    talkers = [gate.raw() for _ in range(3)]
    for talker in talkers:
        talker.send(HANDSHAKE)
    for talker in talkers:
        assert talker.head().status == 101
        say(talker, TEXT, b"one")

    assert gate.get("/").body == b"plain"
    assert [hear(talker) for talker in talkers] == [(TEXT, b"one")] * 3
    assert len(server.connections) == 1


def test_an_http2_origin_that_takes_no_websockets_gets_none(proxy, h2_origin):
    server = h2_origin(websockets=False)
    gate = proxy(server, upstream='protocol = "h2"')
    client = gate.raw()

    for _ in range(2):                          # before the origin's SETTINGS have come, and after
        client.send(HANDSHAKE)
        assert client.response().status == 502
    gate.wait_log("its HTTP/2 takes no WebSocket: SETTINGS_ENABLE_CONNECT_PROTOCOL is not in its SETTINGS")

    assert server.requests == []
    assert gate.get("/").status == 200


def test_a_websocket_that_an_http2_origin_refuses_is_an_answer(proxy, h2_origin):
    server = h2_origin(lambda connection, asked: connection.answer(asked, 403, b"not for you"))
    client = proxy(server, upstream='protocol = "h2"').raw()

    for _ in range(2):
        client.send(HANDSHAKE)
        answer = client.response()
        assert (answer.status, answer.body) == (403, b"not for you")
    assert len(server.connections) == 1
    wait_until(lambda: all(asked.whole for asked in server.requests), what="both requests have ended")


def test_an_http2_origin_that_does_not_answer_a_websocket_gets_504(proxy, h2_origin):
    server = h2_origin(lambda connection, asked: None)
    client = proxy(server, upstream='protocol = "h2", response_timeout = 0.2').raw()

    client.send(HANDSHAKE)

    assert client.response().status == 504


@HOOKS
def test_a_client_that_leaves_ends_its_stream_at_an_http2_origin(proxy, h2_origin, hook):
    ended = threading.Event()

    def play(connection, asked):
        try:
            echo_over_h2(connection, asked)
        except Cut:
            ended.set()
    gate = proxy(h2_origin(play), upstream='protocol = "h2"', route=hook)
    client = gate.raw()
    client.send(HANDSHAKE)
    assert client.head().status == 101

    client.close()

    assert ended.wait(PATIENCE)


# ---- The end of the process.


def connects(gate):
    try:
        socket.create_connection(gate.address, 1).close()
        return True
    except OSError:                             # refused, or reset as the listener closes
        return False


def test_a_drain_closes_websockets_with_1001(pair):
    client, seen = pair(KEEP)
    say(client, TEXT, b"one")
    assert hear(client) == (TEXT, b"one")

    client.gate.signal(signal.SIGQUIT)

    assert close_code(client) == 1001
    client.close()
    assert client.gate.wait_exit() == 0
    wait_until(lambda: seen[-1] == (CLOSE, struct.pack(">H", 1001)), what="the origin is told, too")


def test_a_drain_closes_websockets_over_http2_with_1001(proxy, h2_origin):
    gate = proxy(h2_origin(echo_over_h2), upstream='protocol = "h2"', route=f"message = {KEEP}")
    client, stream, answer = open_over_h2(gate)

    gate.signal(signal.SIGQUIT)
    client.response(stream)

    assert answer.body == b"\x88\x02\x03\xe9"
    assert gate.wait_exit() == 0


def test_a_websocket_that_opens_in_a_drain_is_closed_with_1001(proxy, origin):
    asked, go_on = threading.Event(), threading.Event()

    def script(connection):
        connection.request()
        asked.set()
        assert go_on.wait(PATIENCE)
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        connection.until_close()
    gate = proxy(origin.plays(script), route=f"message = {KEEP}")
    client = gate.raw()
    client.send(HANDSHAKE)
    assert asked.wait(PATIENCE)

    gate.signal(signal.SIGQUIT)
    wait_until(lambda: not connects(gate), what="the listener closes")
    go_on.set()

    assert client.head().status == 101
    assert close_code(client) == 1001
    client.close()
    assert gate.wait_exit() == 0


def test_a_client_that_does_not_read_holds_back_the_origin(proxy, origin):
    sent = []

    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        piece = frame(BINARY, b"x" * 100_000, mask=False)
        connection.sock.settimeout(1)
        try:
            for _ in range(400):
                connection.send(piece)
                sent.append(1)
        except TimeoutError:
            sent.append("held")
    client = proxy(origin.plays(script), route=f"message = {KEEP}").raw(receive_buffer=65536)

    client.send(HANDSHAKE)
    assert client.head().status == 101

    wait_until(lambda: sent[-1:] == ["held"], what="the origin is held back")
    assert len(sent) < 300
    client.close()

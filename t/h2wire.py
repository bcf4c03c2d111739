"""h2wire.py - HTTP/2 frame by frame, for tests that say what no library would (hyperframe and hpack only pack and unpack)."""
import socket

from hpack import Decoder, Encoder
from hyperframe import frame as frames

from wire import Cut, Fields, Malformed, PATIENCE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, \
    REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(12)


class Stream:
    """What has come of one response."""

    def __init__(self):
        self.status, self.fields, self.body, self.trailers, self.interims = None, Fields(), b"", Fields(), []
        self.ended, self.reset = False, None

    def __getitem__(self, name):
        return self.fields.get(name)


def get(path="/", *fields, method="GET", authority="test.example"):
    """A request's fields."""
    return [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *fields]


class Http2:
    """A client's connection. Windows are given back at once unless `manual`."""

    def __init__(self, address, settings=(), manual=False, preface=True, tls=None, name="example.test",
                 sock=None):
        self.sock = sock or socket.create_connection(address, PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname=name)
            assert self.sock.selected_alpn_protocol() == "h2"
        self.encoder, self.decoder = Encoder(), Decoder()
        self.buffer, self.streams, self.seen = b"", {}, []
        self.settings, self.goaway, self.manual, self.next_id = {}, None, manual, 1
        self.acked = 0
        if preface:
            self.send(PREFACE, frames.SettingsFrame(0, settings=dict(settings)))

    def close(self):
        self.sock.close()

    def send(self, *pieces):
        """Frames, or raw bytes."""
        self.sock.sendall(b"".join(p if isinstance(p, bytes) else p.serialize() for p in pieces))
        return self

    def raw(self, kind, flags, stream, payload=b"", length=None):
        """A frame as its bytes say, whatever that means."""
        length = len(payload) if length is None else length
        return self.send(length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload)

    def headers(self, stream, fields, end=True, whole=True, **options):
        made = frames.HeadersFrame(stream, self.encoder.encode(fields, huffman=False), **options)
        if whole:
            made.flags.add("END_HEADERS")
        if end:
            made.flags.add("END_STREAM")
        self.streams.setdefault(stream, Stream())
        return self.send(made)

    def request(self, fields=None, body=None, end=True):
        """Sends a whole request (or, not to be ended, its first part); the number of its stream."""
        stream, self.next_id = self.next_id, self.next_id + 2
        self.headers(stream, fields or get(), end=end and body is None)
        if body is not None:
            self.data(stream, body, end)
        return stream

    def data(self, stream, body, end=False, **options):
        pieces = [body[at:at + 16384] for at in range(0, len(body), 16384)] or [b""]
        for i, piece in enumerate(pieces):
            made = frames.DataFrame(stream, piece, **options)
            if end and i == len(pieces) - 1:
                made.flags.add("END_STREAM")
            self.send(made)
        return self

    def window(self, stream, more):
        return self.send(frames.WindowUpdateFrame(stream, window_increment=more))

    def rst(self, stream, code=CANCEL):
        return self.send(frames.RstStreamFrame(stream, error_code=code))

    def ping(self, opaque=b"12345678"):
        return self.send(frames.PingFrame(0, opaque))

    # ---- Reading.

    def _bytes(self, n):
        while len(self.buffer) < n:
            try:
                got = self.sock.recv(65536)
            except ConnectionResetError:
                got = b""
            if not got:
                raise Cut("the connection has ended")
            self.buffer += got
        taken, self.buffer = self.buffer[:n], self.buffer[n:]
        return taken

    def frame(self):
        """The next frame; what is plain about it is done already."""
        made, length = frames.Frame.parse_frame_header(memoryview(self._bytes(9)))
        made.parse_body(memoryview(self._bytes(length)))
        self.seen.append(made)
        if isinstance(made, frames.SettingsFrame):
            if "ACK" in made.flags:
                self.acked += 1
            else:
                self.settings.update(made.settings)
                self.send(frames.SettingsFrame(0, flags=["ACK"]))
        elif isinstance(made, frames.PingFrame) and "ACK" not in made.flags:
            self.send(frames.PingFrame(0, made.opaque_data, flags=["ACK"]))
        elif isinstance(made, frames.GoAwayFrame):
            self.goaway = made
        elif made.stream_id:
            self._on_stream(made, self.streams.setdefault(made.stream_id, Stream()))
        return made

    def _on_stream(self, made, stream):
        if isinstance(made, frames.HeadersFrame):
            block, last = made.data, made
            while "END_HEADERS" not in last.flags:
                last = self.frame()
                block += last.data
            fields = Fields((str(k), str(v)) for k, v in self.decoder.decode(block))
            for name, _ in fields:
                if name != name.lower() or name in ("connection", "transfer-encoding", "keep-alive", "upgrade"):
                    raise Malformed(f"{name} in HTTP/2")
            if stream.status is not None:
                stream.trailers = fields
            else:
                status = int(fields.pop(0)[1])
                if status < 200:
                    stream.interims.append((status, fields))
                else:
                    stream.status, stream.fields = status, fields
        elif isinstance(made, frames.DataFrame):
            stream.body += made.data
            if made.flow_controlled_length and not self.manual:
                self.window(0, made.flow_controlled_length)
                if "END_STREAM" not in made.flags:
                    self.window(made.stream_id, made.flow_controlled_length)
        elif isinstance(made, frames.RstStreamFrame):
            stream.reset = made.error_code
        if "END_STREAM" in made.flags:
            stream.ended = True

    def until(self, fact):
        while not fact():
            self.frame()
        return self

    def response(self, stream):
        """The whole answer, or as much as came before it was reset."""
        answer = self.streams[stream]
        self.until(lambda: answer.ended or answer.reset is not None)
        return answer

    def get(self, *args, **options):
        return self.response(self.request(get(*args, **options)))

    def ready(self):
        """Both sides' settings are in force."""
        return self.until(lambda: self.acked and self.settings)

    def reset_code(self, stream):
        answer = self.streams.setdefault(stream, Stream())
        return self.until(lambda: answer.reset is not None).streams[stream].reset

    def goaway_code(self):
        """The code of the GOAWAY with which the connection ends."""
        try:
            while True:
                self.frame()
        except Cut:
            return self.goaway and self.goaway.error_code

"""wire.py - HTTP/1.1 messages off a socket, by the letter of RFC 9112.

Both ends of the tests read with it: what the proxy sends to an origin and
what it sends to a client. There is no leniency: whatever the grammar does not
allow is Malformed, an end in the middle of a message is Cut.
"""
import re
import select
import socket
import struct

PATIENCE = 10           # seconds; no wait in the tests is longer unless it says so

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[ \t\x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\Z")
TARGET = re.compile(rb"[!-;=?-Z_a-z~\[\]@%|^`{}\"\\]+\Z")
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?\Z")
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+"
                        rb"(?:[ \t]*=[ \t]*(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+|\"[^\"\r\n]*\"))?)*)\Z")


class Malformed(Exception):
    """What came is not HTTP."""


class Cut(Exception):
    """The connection ended in the middle of a message."""


class Fields(list):
    """Name and value pairs in the order in which they came; names keep their case."""

    def all(self, name):
        return [value for key, value in self if key.lower() == name.lower()]

    def get(self, name, default=None):
        values = self.all(name)
        return ", ".join(values) if values else default

    def __contains__(self, name):
        return bool(self.all(name))

    def names(self):
        return [key.lower() for key, _ in self]


class Wire:
    """A connected socket, read strictly."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""
        self.taken = b""                # the bytes of the message being read, as they came
        sock.settimeout(PATIENCE)

    def send(self, *pieces):
        self.sock.sendall(b"".join(p.encode("latin-1") if isinstance(p, str) else p for p in pieces))
        return self

    def more(self):
        """One read. False at the end."""
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def _take(self, n):
        piece, self.buffer = self.buffer[:n], self.buffer[n:]
        self.taken += piece
        return piece

    def exactly(self, n):
        while len(self.buffer) < n:
            if not self.more():
                raise Cut(f"{len(self.buffer)} of {n} bytes, then the end: {self.buffer[:200]!r}")
        return self._take(n)

    def line(self):
        while b"\n" not in self.buffer:
            if not self.more():
                raise Cut(f"the end in the middle of a line: {self.buffer[:200]!r}")
        line = self._take(self.buffer.index(b"\n") + 1)
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise Malformed(f"a line that does not end in CRLF: {line[:200]!r}")
        return line[:-2]

    def fields(self):
        fields = Fields()
        while line := self.line():
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            if not colon or not TOKEN.match(name) or not VALUE.match(value):
                raise Malformed(f"not a field: {line[:200]!r}")
            fields.append((name.decode(), value.decode("latin-1")))
        return fields

    def chunks(self):
        """Yields the pieces of a chunked body; trailers lie in self.trailers at the end."""
        while True:
            line = self.line()
            size = CHUNK_LINE.match(line)
            if not size:
                raise Malformed(f"not a chunk's first line: {line[:200]!r}")
            if int(size[1], 16) == 0:
                self.trailers = self.fields()
                return
            yield self.exactly(int(size[1], 16))
            if self.exactly(2) != b"\r\n":
                raise Malformed("a chunk that does not end in CRLF")

    def until_close(self):
        while self.more():
            pass
        return self._take(len(self.buffer))

    def ended(self, patience=PATIENCE):
        """Waits for the other side's end: b"" if nothing came before it, else what came."""
        self.sock.settimeout(patience)
        try:
            return self.until_close()
        except ConnectionResetError:
            return self._take(len(self.buffer))
        finally:
            self.sock.settimeout(PATIENCE)

    def silent(self, seconds=0.15):
        """Does nothing at all arrive for so long, not even the end?"""
        return not self.buffer and not select.select([self.sock], [], [], seconds)[0]

    def shutdown(self):
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with a reset instead of an orderly end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def body_length(fields):
    """How the fields frame a body: "chunked", a number, or None. Two framings are Malformed."""
    lengths, codings = fields.all("content-length"), fields.all("transfer-encoding")
    if lengths and codings:
        raise Malformed("both Content-Length and Transfer-Encoding")
    if len(lengths) > 1 or len(codings) > 1:
        raise Malformed("a framing field twice")
    if codings:
        if codings[0].lower() != "chunked":
            raise Malformed(f"Transfer-Encoding: {codings[0]}")
        return "chunked"
    if lengths:
        if not re.fullmatch("[0-9]{1,19}", lengths[0]):
            raise Malformed(f"Content-Length: {lengths[0]}")
        return int(lengths[0])
    return None

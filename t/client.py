"""client.py - a client that says exactly what a test wants, and believes nothing that is not HTTP."""
import re
import socket

from wire import Cut, Fields, Malformed, PATIENCE, Wire, body_length

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9]) ([ \t\x21-\x7e\x80-\xff]*)\Z")


class Response:
    def __init__(self, version, status, reason, fields):
        self.version, self.status, self.reason, self.fields = version, status, reason, fields
        self.body, self.trailers, self.interims = b"", Fields(), []
        self.framing = None             # "chunked", "length", "close", or None without a body
        self.head = b""

    def __repr__(self):
        return f"<{self.status} {self.reason!r} {list(self.fields)} {self.body[:80]!r}>"

    def __getitem__(self, name):
        return self.fields.get(name)


class Client(Wire):
    """A raw connection to the proxy.

    send(...) writes bytes; response(method) reads the answer to such a request, with its 1xx before it;
    ended() waits for the proxy to close; silent() is true while nothing comes. `tls` is an ssl.SSLContext, `name` the
    host that is asked for.
    """

    def __init__(self, address, receive_buffer=None, tls=None, name="example.test", session=None):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        if isinstance(address, str):
            family = socket.AF_UNIX
        sock = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(address)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            sock = tls.wrap_socket(sock, server_hostname=name, session=session)
        super().__init__(sock)

    def head(self):
        """A response's head, interim or final, without its body."""
        self.taken = b""
        line = self.line()
        parts = STATUS_LINE.match(line)
        if not parts:
            raise Malformed(f"not a status line: {line[:200]!r}")
        response = Response("1." + parts[1].decode(), int(parts[2]), parts[3].decode("latin-1"), self.fields())
        response.head = self.taken
        return response

    def final_head(self):
        """The head after all interim ones."""
        interims = []
        while (response := self.head()).status < 200 and response.status != 101:
            interims.append(response)
        response.interims = interims
        return response

    def body(self, response, method="GET"):
        """Reads the body that belongs to this head."""
        length = body_length(response.fields)
        if response.status in (204, 304) or response.status < 200 or method == "HEAD":
            if response.status in (204, 101) and length is not None:
                raise Malformed(f"a {response.status} with framing")
            return response
        if method == "CONNECT" and response.status < 300:
            return response
        if length == "chunked":
            if response.version == "1.0":
                raise Malformed("chunked in HTTP/1.0")
            response.framing = "chunked"
            response.body = b"".join(self.chunks())
            response.trailers = self.trailers
        elif length is not None:
            response.framing = "length"
            response.body = self.exactly(length)
        else:
            response.framing = "close"
            response.body = self.until_close()
        return response

    def response(self, method="GET"):
        return self.body(self.final_head(), method)

    def request(self, method="GET", target="/", *fields, body=None, version="1.1"):
        """Sends one well-formed request and reads its answer."""
        self.send(request(method, target, *fields, body=body, version=version))
        return self.response(method)

    def get(self, target="/", *fields):
        return self.request("GET", target, *fields)

    def cut_response(self, method="GET"):
        """Reads an answer that must break off, visibly; gives its head."""
        head = self.final_head()
        try:
            self.body(head, method)
        except (Cut, ConnectionResetError):
            return head
        raise AssertionError(f"whole: {head}")


def request(method="GET", target="/", *fields, body=None, version="1.1", host="example.test"):
    """The bytes of a request. Fields are lines: "Name: value"."""
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None and not any(f.lower().startswith("host:") for f in fields):
        lines.append(f"Host: {host}")
    lines += fields
    if body is not None:
        body = body.encode() if isinstance(body, str) else body
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def chunked(*pieces, trailers=()):
    """A chunked body of these pieces."""
    out = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces)
    return out + b"0\r\n" + b"".join(t.encode() + b"\r\n" for t in trailers) + b"\r\n"

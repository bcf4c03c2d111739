"""origin.py - servers behind the proxy: they record every byte they get and play what a test tells them.

Every request that an origin reads, it reads by the letter (wire.py); one that
is not well formed is written down in `violations`, and the fixture fails the
test for it, whatever the test itself looks at.
"""
import re
import socket
import threading
import time

import wire
from wire import Cut, Fields, Malformed, Wire, body_length

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.([01])\Z")


class Request:
    def __init__(self, line, head, fields, connection):
        parts = REQUEST_LINE.match(line)
        if not parts:
            raise Malformed(f"not a request line: {line[:200]!r}")
        self.method, self.target, self.version = parts[1].decode(), parts[2].decode(), "1." + parts[3].decode()
        self.head, self.fields, self.connection = head, fields, connection
        self.body, self.trailers, self.whole = b"", Fields(), False
        hosts = fields.all("host")
        if len(hosts) != 1 or not wire.HOST.match(hosts[0].encode("latin-1")):
            raise Malformed(f"Host: {hosts}")
        if "#" in self.target:
            raise Malformed("a fragment in the target")
        self.length = body_length(fields)

    def __repr__(self):
        return f"<{self.method} {self.target} {list(self.fields)} {self.body[:80]!r}>"

    def __getitem__(self, name):
        return self.fields.get(name)


class Connection(Wire):
    """One connection from the proxy, in the hands of a test's script."""

    def __init__(self, sock, origin, number):
        super().__init__(sock)
        self.origin, self.number = origin, number

    def head(self):
        """The next request's head; None if the proxy has closed instead."""
        self.taken = b""
        while not self.buffer:
            if not self.more():
                return None
        line, fields = self.line(), self.fields()
        request = Request(line, self.taken, fields, self)
        self.origin._saw(request)
        return request

    def body(self, request):
        """Reads the request's body."""
        if request.length == "chunked":
            for piece in self.chunks():
                request.body += piece
            request.trailers = self.trailers
        elif request.length:
            while len(request.body) < request.length:
                if not self.buffer and not self.more():
                    raise Cut("in the request's body")
                request.body += self._take(request.length - len(request.body))
        request.whole = True
        with self.origin.changed:
            self.origin.changed.notify_all()
        return request

    def request(self):
        """The next request, whole; None if the proxy has closed instead."""
        request = self.head()
        return request and self.body(request)

    def answer(self, status=200, body=b"", fields=(), head_only=False, reason="Whatever"):
        self.send(response(status, body, fields, head_only, reason))


def response(status=200, body=b"", fields=(), head_only=False, reason="Whatever"):
    """The bytes of an answer, with Content-Length unless the fields frame it."""
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} {reason}"] + list(fields)
    framed = any(f.lower().startswith(("content-length:", "transfer-encoding:")) for f in fields)
    if not framed and status not in (204, 304) and status >= 200:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (b"" if head_only else body)


class Origin:
    def __init__(self, play, path=None, backlog=512, port=0, address="127.0.0.1", tls=None):
        self.tls = tls                  # an ssl.SSLContext
        self.handshakes, self.failures = [], []
        self.play = play                # play(connection), once a connection, in a thread of its own
        self.requests, self.violations, self.connections = [], [], []
        self.changed = threading.Condition()
        self.closed = False
        self.path, self.address = path, address
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_STREAM)
        if not path:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(str(path) if path else (address, port))
        self.listener.listen(backlog)
        self.port = 0 if path else self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def __str__(self):
        return f"unix:{self.path}" if self.path else f"{self.address}:{self.port}"

    @property
    def seen(self):
        return len(self.requests)

    @property
    def last(self):
        return self.requests[-1]

    def _saw(self, request):
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()

    def wait(self, fact, patience=wire.PATIENCE):
        """Waits until fact() holds; it is looked at whenever something has come."""
        with self.changed:
            assert self.changed.wait_for(fact, patience), f"the origin saw {self.requests}"

    def wait_seen(self, count):
        self.wait(lambda: self.seen >= count)

    def _accept(self):
        while not self.closed:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._begin, args=(sock,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _begin(self, sock):
        if self.tls:
            try:
                sock.settimeout(wire.PATIENCE)
                sock = self.tls.wrap_socket(sock, server_side=True)
            except OSError as problem:
                with self.changed:
                    self.failures.append(str(problem))
                    self.changed.notify_all()
                sock.close()
                return
            self.handshakes.append((sock.version(), sock.session_reused, sock.getpeercert()))
        with self.changed:
            connection = Connection(sock, self, len(self.connections))
            self.connections.append(connection)
            self.changed.notify_all()
        self._serve(connection)

    def _serve(self, connection):
        try:
            self.play(connection)
        except (Malformed, AssertionError) as problem:
            self.violations.append(str(problem))
        except (Cut, OSError):
            pass                        # the proxy went away: what there was is recorded
        finally:
            connection.close()
            with self.changed:
                self.changed.notify_all()

    def close(self):
        self.closed = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for connection in list(self.connections):
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join(wire.PATIENCE)

    def close_idle(self):
        """The origin ends its connections, as one that has waited long enough; it goes on to listen."""
        for connection in list(self.connections):
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Origins:
    """What the fixture `origin` gives: a maker of origins that closes and checks them all."""

    def __init__(self, directory):
        self.directory = directory
        self.all, self.sockets = [], []

    def plays(self, script, **options):
        """script(connection) is run for each connection; bytes are the answer to each request,
        after which the connection ends."""
        if isinstance(script, bytes):
            answer = script

            def script(connection):
                if connection.request():
                    connection.send(answer)
        made = Origin(script, **options)
        self.all.append(made)
        return made

    def answers(self, status=200, body=b"ok", fields=(), **options):
        """The same answer to every request; a function gets the request and gives (status, body, fields)."""
        def script(connection):
            while request := connection.request():
                given = status(request) if callable(status) else (status, body, fields)
                connection.answer(*given, head_only=request.method == "HEAD")
        return self.plays(script, **options)

    def echoes(self, **options):
        """Answers with the request's body."""
        return self.answers(lambda request: (200, request.body, ()), **options)

    def holds(self, body=b"ok", shown=None, **options):
        """Answers when the test says server.go.set(), not before; what comes later is answered at once.
        shown: so many bytes of the body are sent before that."""
        go = threading.Event()

        def script(connection):
            while connection.request():
                answer = response(200, body)
                sent = 0 if shown is None else len(answer) - len(body) + shown
                connection.send(answer[:sent])
                go.wait(2 * wire.PATIENCE)
                connection.send(answer[sent:])
        server = self.plays(script, **options)
        server.go = go
        return server

    def hangs(self, **options):
        """Reads everything, says nothing."""
        def script(connection):
            while connection.request():
                pass
        return self.plays(script, **options)

    def refuses(self):
        """An address where nobody listens, and nobody else will meanwhile."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.sockets.append(sock)
        return "127.0.0.1:%d" % sock.getsockname()[1]

    def blackhole(self):
        """An address that answers no connection attempt: its queue is full and nobody accepts."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        self.sockets.append(sock)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            filler = socket.socket()
            filler.settimeout(0.2)
            self.sockets.append(filler)
            try:
                filler.connect(sock.getsockname())
            except OSError:
                break
        return "127.0.0.1:%d" % sock.getsockname()[1]

    def path(self, name="origin.sock"):
        return self.directory / name

    def close(self):
        for origin in self.all:
            origin.close()
        for sock in self.sockets:
            sock.close()

    def check(self):
        problems = [problem for origin in self.all for problem in origin.violations]
        assert not problems, "an origin has seen what must not be: " + "; ".join(problems)

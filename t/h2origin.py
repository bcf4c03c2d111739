"""h2origin.py - an HTTP/2 origin, by python3-h2, that plays what a test tells it."""
import select
import socket
import ssl
import threading

import h2.config
import h2.connection
import h2.events
import h2.settings

from wire import Fields, PATIENCE


class Request:
    def __init__(self, stream, fields):
        self.stream, self.body, self.trailers, self.whole = stream, b"", Fields(), False
        self.fields = Fields((k, v) for k, v in fields if not k.startswith(":"))
        self.pseudo = {k: v for k, v in fields if k.startswith(":")}

    def __getitem__(self, name):
        return self.fields.get(name)


class Connection:
    def __init__(self, sock, origin, number):
        self.sock, self.origin, self.number, self.lock = sock, origin, number, threading.RLock()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.requests, self.news = {}, threading.Condition(self.lock)

    def run(self):
        with self.lock:
            self.h2.local_settings = h2.settings.Settings(client=False, initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.origin.streams,
                h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: int(self.origin.websockets)})
            self.h2.initiate_connection()
            self.flush()
        while data := self.receive():
            with self.lock:
                for event in self.h2.receive_data(data):
                    self.on(event)
                self.flush()

    def receive(self):
        """With TLS the socket must not be read and written at once."""
        while self.origin.tls:
            if not self.sock.pending():
                select.select([self.sock], [], [])
            with self.lock:
                self.sock.setblocking(False)
                try:
                    return self.sock.recv(65536)
                except ssl.SSLWantReadError:
                    pass
                finally:
                    self.sock.settimeout(PATIENCE)
        return self.sock.recv(65536)

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def on(self, event):
        if isinstance(event, h2.events.RequestReceived):
            request = self.requests[event.stream_id] = Request(event.stream_id, event.headers)
            if ":protocol" in request.pseudo:
                self.begin(request)
        elif isinstance(event, h2.events.DataReceived):
            self.requests[event.stream_id].body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.requests[event.stream_id].trailers = Fields(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            request = self.requests[event.stream_id]
            request.whole = True
            if ":protocol" not in request.pseudo:
                self.begin(request)
        self.news.notify_all()

    def begin(self, request):
        with self.origin.changed:
            self.origin.requests.append(request)
            self.origin.changed.notify_all()
        threading.Thread(target=self.play, args=(request,), daemon=True).start()

    def play(self, request):
        try:
            self.origin.play(self, request)
        except (OSError, h2.exceptions.ProtocolError):
            pass

    def send(self, request, body):
        with self.lock:
            while body:
                n = min(self.h2.local_flow_control_window(request.stream), len(body), 16384)
                if n:
                    self.h2.send_data(request.stream, body[:n])
                    body = body[n:]
                self.flush()
                if not n:
                    self.news.wait(PATIENCE)

    def answer(self, request, status=200, body=b"ok", fields=(), trailers=()):
        with self.lock:
            self.h2.send_headers(request.stream, [(":status", str(status)), *fields], end_stream=False)
            self.send(request, body)
            if trailers:
                self.h2.send_headers(request.stream, list(trailers), end_stream=True)
            else:
                self.h2.end_stream(request.stream)
            self.flush()

    def reset(self, request, code):
        with self.lock:
            self.h2.reset_stream(request.stream, code)
            self.flush()

    def goaway(self, last):
        with self.lock:
            self.h2.close_connection(last_stream_id=last)
            self.flush()


class H2Origin:
    """play(connection, request) is run in a thread of its own for each whole request, and for each WebSocket's head."""

    def __init__(self, play=lambda connection, request: connection.answer(request), streams=100, tls=None,
                 websockets=True):
        self.play, self.streams, self.tls, self.websockets = play, streams, tls, websockets
        self.requests, self.connections, self.changed = [], [], threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __str__(self):
        return f"127.0.0.1:{self.port}"

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._begin, args=(sock,), daemon=True).start()

    def _begin(self, sock):
        if self.tls:
            try:
                sock = self.tls.wrap_socket(sock, server_side=True)
            except OSError:
                sock.close()
                return
        self.connections.append(Connection(sock, self, len(self.connections)))
        self._serve(self.connections[-1])

    def _serve(self, connection):
        try:
            connection.run()
        except OSError:
            pass
        finally:
            connection.sock.close()

    def wait_seen(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= count, PATIENCE)

    def close(self):
        self.listener.close()
        for connection in self.connections:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

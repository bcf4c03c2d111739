"""The PROXY protocol: whom a proxy in front names is the client, and nobody else may name one."""
import socket
import struct

import pytest

import h2wire
import proxies
from client import request
from proxies import SIGNATURE, tlv, version1, version2

TELL = """gate.route { "/*", handler = function(req)
  return 200, ("%s %d %d"):format(req.client.ip, req.client.port, req.server.port)
end }"""


@pytest.fixture
def behind(moongate):
    """behind(script, listen="more options"): a gateway whose connections begin with a PROXY header."""
    def start(script=TELL, listen="", **options):
        return moongate(script, listen=f"proxy_protocol = true, {listen}", **options)
    return start


@pytest.mark.parametrize("header, client", [
    (version1(), b"192.0.2.7 51234 443"),
    (version1("2001:db8::7", "2001:db8::8", 1, 65535), b"2001:db8::7 1 65535"),
    (version1("::ffff:192.0.2.7", "::ffff:192.0.2.8"), b"192.0.2.7 51234 443"),
    (version2(), b"192.0.2.7 51234 443"),
    (version2("2001:db8::7", "2001:db8::8"), b"2001:db8::7 51234 443"),
    (version2(tlvs=tlv(4, b"abc") + tlv(0x20, b"\1\0\0\0\0" + tlv(0x21, b"TLSv1.3")) + tlv(5, b"")), b"192.0.2.7 51234 443"),
    (version2(tlvs=tlv(4, b"x" * 9000)), b"192.0.2.7 51234 443"),
    (SIGNATURE + b"\x21\x31" + struct.pack(">H", 216) + b"/run/a".ljust(216, b"\0"), b"unix 0 0"),
], ids=["v1-tcp4", "v1-tcp6", "v1-mapped", "v2-tcp4", "v2-tcp6", "v2-tlvs", "v2-long", "v2-unix"])
@pytest.mark.parametrize("pieces", [False, True], ids=["at-once", "byte-by-byte"])
def test_the_client_is_whom_the_header_names(behind, header, client, pieces):
    gate = behind()
    connection = gate.raw()

    for piece in ([header[i:i + 1] for i in range(min(len(header), 300))] + [header[300:]] if pieces else [header]):
        connection.send(piece)
    connection.send(request() + request())

    assert connection.response().body == client
    assert connection.response().body == client
    assert [line["client"] for line in gate.access_log(2)] == [client.split()[0].decode()] * 2


@pytest.mark.parametrize("header", [
    b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 1.2.3.4 and anything else\r\n", SIGNATURE + b"\x20\x00\0\0",
    version2(command=0), SIGNATURE + b"\x21\x00\0\5hello",
], ids=["v1-unknown", "v1-unknown-and-more", "v2-local", "v2-local-with-addresses", "v2-unspecified"])
def test_a_header_that_names_nobody_leaves_the_connections_own_ends(behind, header):
    gate = behind()
    connection = gate.raw()

    connection.send(header + request())

    ip, port = connection.sock.getsockname()
    assert connection.response().body == f"{ip} {port} {gate.port}".encode()


def test_hooks_and_origins_see_the_client_that_is_named(behind, origin):
    app = origin.answers(200, b"ok")
    gate = behind(f"""
        gate.use {{ connect = function(conn)
          gate.log.info(("from %s %d to %s %d"):format(conn.ip, conn.port, conn.local_ip, conn.local_port))
        end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{app}" }} }}) }}""")
    connection = gate.raw()

    connection.send(version2() + request("GET", "/", "X-Forwarded-For: 203.0.113.9"))

    assert connection.response().body == b"ok"
    gate.wait_log("from 192.0.2.7 51234 to 198.51.100.8 443")
    assert app.last["x-forwarded-for"] == "192.0.2.7"
    assert "for=192.0.2.7;" in app.last["forwarded"]


def test_whether_a_client_is_a_trusted_proxy_is_decided_by_whom_the_header_names(behind, origin):
    app = origin.answers(200, b"ok")
    gate = behind(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{app}" }} }}) }}',
                  listen='trusted = { "127.0.0.0/8", "192.0.2.0/24" }')

    for source in ("192.0.2.7", "203.0.113.1"):
        gate.raw().send(version1(source) + request("GET", "/", "X-Forwarded-For: 10.9.8.7"))
    app.wait_seen(2)

    assert sorted(seen["x-forwarded-for"] for seen in app.requests) == ["10.9.8.7, 192.0.2.7", "203.0.113.1"]


def test_only_peers_in_trusted_may_connect_if_there_are_any(behind):
    gate = behind(listen='trusted = { "10.0.0.0/8" }')
    connection = gate.raw()

    connection.send(version1("10.0.0.1") + request())

    assert connection.ended() == b""
    gate.wait_log("client 127.0.0.1: it is not in `trusted`")


MALFORMED = {
    "no-header": request(),
    "lower-case": b"proxy TCP4 192.0.2.7 198.51.100.8 1 2\r\n",
    "no-blank": b"PROXYTCP4 192.0.2.7 198.51.100.8 1 2\r\n",
    "family": b"PROXY UDP4 192.0.2.7 198.51.100.8 1 2\r\n",
    "no-family": b"PROXY \r\n",
    "two-blanks": b"PROXY TCP4  192.0.2.7 198.51.100.8 1 2\r\n",
    "blank-at-end": b"PROXY TCP4 192.0.2.7 198.51.100.8 1 2 \r\n",
    "too-few": b"PROXY TCP4 192.0.2.7 198.51.100.8 1\r\n",
    "too-many": b"PROXY TCP4 192.0.2.7 198.51.100.8 1 2 3\r\n",
    "other-family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "mixed-families": b"PROXY TCP6 ::1 198.51.100.8 1 2\r\n",
    "scope": b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
    "brackets": b"PROXY TCP6 [::1] ::1 1 2\r\n",
    "name": b"PROXY TCP4 localhost 198.51.100.8 1 2\r\n",
    "short-address": b"PROXY TCP4 192.0.2 198.51.100.8 1 2\r\n",
    "leading-zero": b"PROXY TCP4 192.0.2.7 198.51.100.8 01 2\r\n",
    "port-too-high": b"PROXY TCP4 192.0.2.7 198.51.100.8 65536 2\r\n",
    "port-with-sign": b"PROXY TCP4 192.0.2.7 198.51.100.8 +1 2\r\n",
    "bare-lf": b"PROXY TCP4 192.0.2.7 198.51.100.8 1 2\n" + b"x" * 107,
    "too-long": b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    "v2-version": SIGNATURE + b"\x11\x11\0\x0c" + bytes(12),
    "v2-command": SIGNATURE + b"\x22\x11\0\x0c" + bytes(12),
    "v2-family": SIGNATURE + b"\x21\x41\0\x0c" + bytes(12),
    "v2-protocol": SIGNATURE + b"\x21\x13\0\x0c" + bytes(12),
    "v2-half-family": SIGNATURE + b"\x21\x10\0\x0c" + bytes(12),
    "v2-short": SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
    "v2-tlv-cut": version2(tlvs=b"\4\0"),
    "v2-tlv-too-long": version2(tlvs=b"\4\0\5abcd"),
    "v2-huge": SIGNATURE + b"\x21\x11\xff\xff" + bytes(65535),
    "v2-signature": SIGNATURE[:-1] + b"\r\x21\x11\0\x0c" + bytes(12),
}


@pytest.mark.parametrize("bytes_", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_header_ends_the_connection_and_is_told(behind, bytes_):
    gate = behind()
    connection = gate.raw()

    try:
        connection.send(bytes_)
        ended = connection.ended()
    except (BrokenPipeError, ConnectionResetError):
        ended = b""

    assert ended == b""
    assert "PROXY header" in gate.wait_log("client 127.0.0.1: ")[0]
    assert gate.total("served") == 0


def test_many_malformed_headers_are_told_in_one_line(behind):
    gate = behind()

    for _ in range(50):
        assert gate.raw().send("GET / HTTP/1.1\r\n").ended() == b""

    assert len(gate.wait_log("PROXY header")) <= 3


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 1", SIGNATURE[:5]], ids=["nothing", "v1", "v2"])
def test_a_header_that_does_not_come_in_time_ends_the_connection(behind, sent):
    gate = behind(listen="head_timeout = 0.2")
    connection = gate.raw().send(sent)

    assert connection.ended(5) == b""
    gate.wait_log("within head_timeout")


def test_a_client_that_leaves_before_its_header_is_whole_leaves_nothing(behind):
    gate = behind()
    for sent in (b"", b"PROXY TCP4 1"):
        connection = gate.raw().send(sent)
        gate.wait_total("connections", 1)

        connection.close()

        gate.wait_total("connections", 0)


def test_a_header_on_a_listener_that_expects_none_is_no_request(moongate):
    gate = moongate(TELL)

    assert gate.raw().send(version1() + request()).response().status == 400


def test_connections_that_wait_for_a_header_are_cut_at_the_end(behind):
    gate = behind()
    connection = gate.raw().send("PROXY ")
    gate.wait_total("connections", 1)

    gate.signal(15)

    assert gate.wait_exit() == 0
    assert connection.ended() == b""


def test_a_header_comes_over_a_unix_socket(behind, tmp_path):
    gate = behind(path=tmp_path / "gate.sock", listen='trusted = { "unix" }')

    assert gate.raw().send(version2() + request()).response().body == b"192.0.2.7 51234 443"


def test_http2_follows_a_header(behind):
    gate = behind()

    with socket.create_connection(gate.address) as sock:
        sock.sendall(version2())
        client = h2wire.Http2(gate.address, sock=sock)
        assert client.get().body == b"192.0.2.7 51234 443"


def test_tls_follows_a_header(moongate, site, authority):
    gate = moongate(TELL, listen=f"proxy_protocol = true, tls = {{ {site.lua} }}")

    for whole in (True, False):
        with socket.create_connection(gate.address) as sock:
            sock.sendall(version1() if whole else version1()[:20])
            if not whole:
                sock.sendall(version1()[20:])
            with authority.client_context().wrap_socket(sock, server_hostname="example.test") as secured:
                secured.sendall(request("GET", "/", "Connection: close"))
                answer = b"".join(iter(lambda: secured.recv(4096), b""))
        assert answer.endswith(b"192.0.2.7 51234 443")


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"])
def test_haproxy_in_front_says_who_asks(behind, tmp_path, how):
    gate = behind()
    front = proxies.haproxy(tmp_path, "", f"server gate 127.0.0.1:{gate.port} {how}")
    try:
        with socket.create_connection(("127.0.0.1", front.port)) as sock:
            sock.sendall(request("GET", "/", "Connection: close"))
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
            ip, port = sock.getsockname()
    finally:
        front.close()

    assert answer.endswith(f"{ip} {port} {front.port}".encode())


# ---- To origins. ----

@pytest.fixture
def told(moongate, origin):
    """told(version, play, ...): a gateway whose origin gets a header first; `told.headers` has what came."""
    def start(version, play, upstream="", listen="", script="gate.route { '/*', upstream = app }", **options):
        def begin(connection):
            header = b""                # byte by byte: what follows may be for somebody else
            while not proxies.is_whole(header):
                header += connection.sock.recv(1)
            start.headers.append(header)
            play(connection)
        start.headers = []
        app = origin.plays(begin)
        return moongate(f'local app = gate.upstream("app", {{ peers = {{ "{app}" }}, proxy_protocol = "{version}", {upstream} }})'
                        + "\n" + script, listen=listen, **options)
    return start


def web(connection):
    while request := connection.request():
        connection.answer(200, request.target)


def header_of(version, sock):
    make = version1 if version == "v1" else version2
    (ip, port), (to, at) = sock.getsockname(), sock.getpeername()
    return make(ip, to, port, at)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_origin_is_told_whom_a_request_is_from(told, version):
    gate = told(version, web)
    client = gate.raw()

    assert client.get("/a").body == b"/a"

    assert told.headers == [header_of(version, client.sock)]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_connection_with_a_header_is_never_used_for_another_client(told, version):
    gate = told(version, web)
    clients = [gate.raw() for _ in range(3)]

    for client in clients * 2:
        assert client.get("/a").body == b"/a"

    assert sorted(told.headers) == sorted(header_of(version, client.sock) for client in clients * 2)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_tcp_route_tells_its_origin_too(told, version):
    gate = told(version, lambda connection: connection.send(connection.until_close()), listen='tcp = "app"', script="")
    client = gate.raw().send("bytes")
    header = header_of(version, client.sock)

    client.shutdown()

    assert client.ended() == b"bytes"
    assert told.headers == [header]


@pytest.mark.parametrize("version, header", [("v1", version1("2001:db8::7", "::ffff:192.0.2.1")),
                                             ("v2", version2("2001:db8::7", "::ffff:192.0.2.1"))])
def test_the_client_that_a_header_named_is_named_to_the_origin(told, version, header):
    gate = told(version, web, listen="proxy_protocol = true")
    client = gate.raw()

    client.send(version1("2001:db8::7", "::ffff:192.0.2.1") + request())

    assert client.response().status == 200
    assert told.headers == [header]


@pytest.mark.parametrize("version, header", [("v1", b"PROXY UNKNOWN\r\n"), ("v2", SIGNATURE + b"\x21\0\0\0")])
def test_the_client_of_a_unix_socket_is_named_as_unknown(told, tmp_path, version, header):
    gate = told(version, web, path=tmp_path / "gate.sock")

    assert gate.get("/a").body == b"/a"

    assert told.headers == [header]


def test_the_header_comes_before_tls(told, authority, site):
    def play(connection):
        with authority.server_context(site).wrap_socket(connection.sock, server_side=True) as secured:
            assert secured.recv(4096).startswith(b"GET /a ")
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    gate = told("v1", play, upstream=f'tls = {{ ca = "{authority.cert}" }}')

    answer = gate.get("/a")

    assert answer.body == b"ok" and told.headers[0].startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_haproxy_behind_believes_the_header(moongate, tmp_path, origin, version, kind):
    app = origin.answers(lambda seen: (200, seen["x-forwarded-for"], ()))
    behind = proxies.haproxy(tmp_path, "accept-proxy", f"option forwardfor\n    server app {app}")
    try:
        gate = moongate(f"""local app = gate.upstream("app", {{ peers = {{ "{behind}" }}, proxy_protocol = "{version}" }})
            {'gate.route { "/*", upstream = app, policies = { { attempt = function(req) req.headers["x-forwarded-for"] = nil end } } }'
             if kind == "http" else ""}""", listen='proxy_protocol = true, ' + ('tcp = "app"' if kind == "tcp" else ""))
        client = gate.raw().send(version1("192.0.2.9") + request())

        assert client.response().body == b"192.0.2.9"
        client.close()
    finally:
        behind.close()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_behind_believes_the_header(moongate, tmp_path, version):
    behind = proxies.nginx(tmp_path, "proxy_protocol", 'return 200 "$proxy_protocol_addr $proxy_protocol_port";')
    try:
        gate = moongate(f"""gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{behind}" }},
            proxy_protocol = "{version}" }}) }}""")
        client = gate.raw()
        answers = [client.get("/").body for _ in range(3)]
        port = client.sock.getsockname()[1]
    finally:
        behind.close()

    assert answers == [f"127.0.0.1 {port}".encode()] * 3

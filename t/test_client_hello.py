"""The client_hello phase: who is asked for is known before anybody answers, and may be refused."""
import hashlib
import socket
import ssl
import struct

import pytest

from client import request
from proxies import version2

OK = 'gate.route { "/*", handler = function(req) return 200, "ok" end }'


def hook(deed):
    """A gateway whose client_hello hook does this; it stands in line 3."""
    return f"""gate.use {{ name = "staged", connect = function(conn) conn.ctx.seen = "connect" end,
        client_hello = function(conn) {deed} end }}
        {OK}"""


TELL = hook("""gate.log.info("hello", tostring(conn.sni), table.concat(conn.alpn, ","), table.concat(conn.versions, ","),
    conn.ip, conn.ctx.seen)""")


@pytest.fixture
def secure(moongate, site):
    def start(script, listen="", **options):
        return moongate(script, listen=f"tls = {{ {site.lua} }}, {listen}", **options)
    return start


def hello_of(context, name="example.test"):
    """The bytes of a ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read(), session, incoming, outgoing


def in_records(hello, size):
    """The same message, in records of so many bytes."""
    message = hello[5:]
    pieces = [message[i:i + size] for i in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces)


def get(sock, session, incoming, outgoing):
    """Ends the handshake by hand, asks, and gives the answer."""
    def step(do):
        while True:
            try:
                return do()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                data = sock.recv(65536)
                assert data, "the connection has ended"
                incoming.write(data)

    step(session.do_handshake)
    session.write(request("GET", "/", "Connection: close"))
    answer = b""
    while b"\r\n\r\nok" not in answer:
        answer += step(lambda: session.read(4096))
    return answer


@pytest.mark.parametrize("version, versions", [(None, "1.2,1.3"), (ssl.TLSVersion.TLSv1_2, "1.2"),
                                               (ssl.TLSVersion.TLSv1_3, "1.3")])
def test_the_hook_sees_what_the_client_asks_for_and_the_handshake_goes_on(secure, authority, version, versions):
    gate = secure(TELL)
    context = authority.client_context(version=version, alpn=["http/1.1", "x"])

    connection = gate.raw(tls=context)

    assert connection.get("/").body == b"ok"
    gate.wait_log(f"hello example.test http/1.1,x {versions} 127.0.0.1 connect")


def test_a_client_that_names_nothing_is_seen_so(secure, authority):
    gate = secure(TELL)
    context = authority.client_context()
    context.check_hostname = False

    with socket.create_connection(gate.address) as sock:
        with context.wrap_socket(sock):
            gate.wait_log("hello nil  1.2,1.3 ")


def test_an_upper_case_name_is_seen_in_lower_case(secure, authority):
    gate = secure(TELL)

    gate.raw(tls=authority.client_context(), name="WWW.Example.Test")

    gate.wait_log("hello www.example.test ")


@pytest.mark.parametrize("size", [1, 7, 100, 500])
def test_a_hello_in_many_records_is_read_and_goes_on_as_it_came(secure, authority, size):
    gate = secure(TELL)
    hello, *rest = hello_of(authority.client_context())

    with socket.create_connection(gate.address) as sock:
        sock.sendall(in_records(hello, size))
        assert b"200" in get(sock, *rest)

    gate.wait_log("hello example.test ")


def test_a_hello_that_comes_byte_by_byte_is_read(secure, authority):
    gate = secure(TELL)
    hello, *rest = hello_of(authority.client_context())

    with socket.create_connection(gate.address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(hello)):
            sock.sendall(hello[i:i + 1])
        assert b"200" in get(sock, *rest)

    gate.wait_log("hello example.test ")


def test_a_hook_may_wait_and_other_connections_go_on(secure, authority, origin):
    slow = origin.answers(200, b"slow")
    gate = secure(hook(f'if conn.sni == "slow.example.test" then assert(gate.fetch("http://{slow}/").ok); gate.sleep(0.3) end'))
    context = authority.client_context()
    hello, *rest = hello_of(context, "slow.example.test")
    with socket.create_connection(gate.address) as sock:
        sock.sendall(hello)
        slow.wait_seen(1)

        assert gate.raw(tls=context).get("/").body == b"ok"
        assert b"200" in get(sock, *rest)


@pytest.mark.parametrize("deed", ["return false", "gate.sleep(0.01); return false", 'error("thrown")',
                                  'gate.sleep(0.01); error("thrown")'])
def test_a_hook_that_refuses_or_throws_ends_the_connection(secure, authority, deed):
    gate = secure(hook(deed))
    gate.expect_error("client_hello of policy staged: .*thrown")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        gate.raw(tls=authority.client_context())

    gate.wait_total("connections", 0)
    if "thrown" in deed:
        gate.wait_log("client_hello of policy staged: .*gateway.lua:3: thrown")


def test_a_hook_is_cancelled_when_its_client_leaves(secure, authority):
    gate = secure(hook('gate.log.info("began"); local _, why = pcall(gate.sleep, 30); gate.log.info("ended", why)'),
                  listen="half_close_timeout = 0.05")
    hello = hello_of(authority.client_context())[0]
    connection = gate.raw().send(hello)
    gate.wait_log("began")

    connection.close()

    gate.wait_log("ended cancelled")
    gate.wait_total("connections", 0)


@pytest.mark.parametrize("spoil", [
    lambda hello: request(),
    lambda hello: b"\x80\x2e\x01\x03\x01" + bytes(44),
    lambda hello: hello[:1] + b"\x02" + hello[2:],
    lambda hello: hello[:3] + b"\0\0" + hello[5:],
    lambda hello: hello[:5] + b"\x02" + hello[6:],
    lambda hello: hello[:6] + b"\xff" + hello[7:],
    lambda hello: hello[:3] + struct.pack(">H", len(hello) - 4) + hello[5:] + b"\0",
    lambda hello: hello.replace(b"example.test", b"exam\0le.test"),
    lambda hello: hello.replace(b"\0\0\x0cexample.test", b"\1\0\x0cexample.test"),
    lambda hello: hello.replace(b"\0\0\x0cexample.test", b"\0\0\x0dexample.test"),
], ids=["clear-text", "ssl2", "version", "empty-record", "other-message", "too-long", "trailing", "zero-in-name",
        "kind-of-name", "length-of-name"])
def test_what_is_no_good_hello_ends_the_connection_and_is_told(secure, authority, spoil):
    gate = secure(TELL)
    hello = hello_of(authority.client_context())[0]

    assert gate.raw().send(spoil(hello)).ended() == b""

    gate.wait_log("client 127.0.0.1: .*(ClientHello|TLS)")
    assert "hello example" not in gate.log()


def two(data):
    return struct.pack(">H", len(data)) + data


def extension(kind, body):
    return struct.pack(">H", kind) + two(body)


def made(*extensions, session=b"", ciphers=b"\x13\x01", compression=b"\0", end=b""):
    """A ClientHello of these parts."""
    body = b"\3\3" + bytes(32) + bytes([len(session)]) + session + two(ciphers) + bytes([len(compression)]) + compression
    body += (two(b"".join(extensions)) if extensions else b"") + end
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + two(message)


def named(*names):
    return extension(0, two(b"".join(b"\0" + two(name) for name in names)))


ODD = {
    "a name twice": made(named(b"a.test"), named(b"b.test")),
    "two names": made(named(b"a.test", b"b.test")),
    "no name": made(extension(0, two(b""))),
    "an empty name": made(named(b"")),
    "a name too long": made(named(b"a" * 256)),
    "a name with a blank": made(named(b"a test")),
    "a name list that is too short": made(extension(0, two(b"\0" + two(b"a.test")) + b"x")),
    "no protocol": made(extension(16, two(b""))),
    "an empty protocol": made(extension(16, two(b"\2h2\0"))),
    "a protocol that is cut": made(extension(16, two(b"\5h2"))),
    "half a version": made(extension(43, b"\3\3\4\3")),
    "no version": made(extension(43, b"\0")),
    "an extension that is cut": made(b"\0\x2b\0\x20\2\3\4"),
    "something behind the extensions": made(named(b"a.test"), end=b"x"),
    "no cipher": made(named(b"a.test"), ciphers=b""),
    "half a cipher": made(named(b"a.test"), ciphers=b"\x13\1\x13"),
    "no compression": made(named(b"a.test"), compression=b""),
    "a long identifier": made(named(b"a.test"), session=bytes(33)),
}


@pytest.mark.parametrize("hello", ODD.values(), ids=[name.replace(" ", "-") for name in ODD])
def test_a_hello_that_could_be_read_two_ways_is_refused(secure, hello):
    gate = secure(TELL)

    assert gate.raw().send(hello).ended() == b""

    gate.wait_log("client 127.0.0.1: (an extension of )?the ClientHello|client 127.0.0.1: an extension of the ClientHello")
    assert "hello a.test" not in gate.log()


@pytest.mark.parametrize("hello, told", [
    (made(), "hello nil  1.2 "),
    (made(named(b"A_b-1.test"), extension(16, two(b"\2h2\1x")), extension(0x0a0a, b""), extension(43, b"\4\3\4\x7f\x1c")),
     "hello a_b-1.test h2,x 1.3 "),
], ids=["bare", "full"])
def test_a_hello_is_read_whatever_tls_makes_of_it(secure, hello, told):
    gate = secure(TELL)

    gate.raw().send(hello)

    gate.wait_log(told)


def test_an_endless_hello_is_bounded(secure):
    gate = secure(TELL)
    connection = gate.raw()

    message = b"\x01\x00\xff\xff" + bytes(65535)
    try:
        connection.send(in_records(b"12345" + message, 4000))
        assert connection.ended() == b""
    except (BrokenPipeError, ConnectionResetError):
        pass

    gate.wait_log("longer than 16 KiB")


def test_a_hello_that_does_not_come_in_time_ends_the_connection(secure, authority):
    gate = secure(TELL, listen="head_timeout = 0.2")
    hello = hello_of(authority.client_context())[0]

    assert gate.raw().send(hello[:100]).ended(5) == b""

    gate.wait_log("within head_timeout")


def test_a_listener_in_clear_text_waits_for_no_hello(moongate):
    gate = moongate(TELL)

    assert gate.get("/").body == b"ok"
    assert " hello " not in gate.log()


def test_connections_whose_hooks_wait_in_a_vm_that_is_lost_are_closed(moongate):
    gate = moongate("""
        gate.set { cpu_budget = 0.05 }
        local seen = gate.shared("seen", "64K")
        gate.use { connect = function() if seen:incr("n", 1, 0) == 1 then gate.log.info("waits") gate.sleep(60) end end }
        gate.route { "/", handler = function() return 200, "ok" end }
        gate.route { "/bad", handler = function() string.find(("a"):rep(80), ("a-"):rep(30) .. "b") end }""")
    gate.expect_error(".")
    first = gate.raw()
    gate.wait_log("waits")

    assert gate.get("/bad").status == 500

    assert first.ended() == b""
    gate.wait_log("built anew")
    assert gate.get("/").body == b"ok"


def test_a_connection_whose_hook_waits_longer_than_its_generation_may_is_closed(moongate):
    gate = moongate("""
        gate.set { drain_timeout = 0.3 }
        gate.use { connect = function() gate.log.info("waits") gate.sleep(60) end }
        gate.route { "/", handler = function() return 200, "ok" end }""")
    first = gate.raw()
    gate.wait_log("waits")
    gate.script.write_text(gate.script.read_text().replace("gate.sleep(60)", ""))

    gate.signal(1)

    assert first.ended() == b""
    assert gate.get("/").body == b"ok"


def test_it_follows_a_proxy_header(secure, authority):
    gate = secure(TELL, listen="proxy_protocol = true")
    hello, *rest = hello_of(authority.client_context())

    with socket.create_connection(gate.address) as sock:
        sock.sendall(version2() + hello)
        assert b"200" in get(sock, *rest)

    gate.wait_log("hello example.test .* 192.0.2.7 connect")


# ---- The certificate that a hook chooses.

def shown(gate, authority, name="example.test"):
    """The fingerprint of what is shown to a client that asks for this name."""
    context = authority.client_context()
    context.check_hostname = False
    with socket.create_connection(gate.address) as sock, context.wrap_socket(sock, server_hostname=name) as secured:
        return hashlib.sha256(secured.getpeercert(True)).hexdigest()


def test_a_hook_chooses_the_certificate(secure, authority, site):
    other = authority.issue("other.example")
    gate = secure(hook(f'if conn.sni == "other.example" then conn:certificate {{ {other.lua} }} end'))

    assert shown(gate, authority, "other.example") == other.fingerprint()
    assert shown(gate, authority) == site.fingerprint()


def test_a_hook_may_fetch_the_certificate_first(secure, authority, origin):
    other = authority.issue("*.customers.example")
    store = origin.answers(200, other.cert.read_text() + other.key.read_text())
    gate = secure(hook(f'conn:certificate {{ cert = gate.fetch("http://{store}/" .. conn.sni):text() }}'))

    assert shown(gate, authority, "a.customers.example") == other.fingerprint()
    assert store.last.target == "/a.customers.example"


def test_the_chosen_certificate_serves_whole_exchanges_and_resumed_ones(secure, authority):
    other = authority.issue("example.test")
    gate = secure(hook(f"conn:certificate {{ {other.lua} }}"))
    context = authority.client_context(version=ssl.TLSVersion.TLSv1_2)
    first = gate.raw(tls=context)

    assert first.get("/").body == b"ok"
    again = gate.raw(tls=context, session=first.sock.session)
    assert again.get("/").body == b"ok" and again.sock.session_reused


def test_a_certificate_that_is_no_good_refuses_the_connection_and_is_told(secure, authority, site):
    other = authority.issue("other.example")
    gate = secure(hook(f'conn:certificate {{ cert = "{other.cert}", key = "{site.key}" }}'))
    gate.expect_error("client_hello of policy staged")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        shown(gate, authority)
    gate.wait_log(r'gateway.lua:\d: conn:certificate: key ".*" does not belong to certificate ".*"')


def test_before_the_hello_no_certificate_can_be_chosen(secure, authority, site):
    gate = secure(f"""gate.use {{ name = "staged", connect = function(conn)
        conn:certificate {{ {site.lua} }} end }}
        {OK}""")
    gate.expect_error("connect of policy staged")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        shown(gate, authority)
    gate.wait_log("conn:certificate: a certificate can be chosen in client_hello only")

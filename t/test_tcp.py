"""TCP routes: bytes pass both ways, unread by anybody, with balancing, retries, limits and a line in the log."""
import contextlib
import hashlib
import os
import socket
import ssl
import threading

import pytest

import proxies
from moongate import free_port, run, wait_until
from redis_server import RedisServer
from test_client_hello import hello_of, in_records


def echo(connection):
    """Sends back what comes, to its end."""
    while connection.buffer or connection.more():
        connection.send(connection._take(len(connection.buffer)))
    if isinstance(connection.sock, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):      # the other side may have gone
            connection.sock.unwrap()


def says(word):
    """Says a word first, then echoes."""
    def play(connection):
        connection.send(word)
        echo(connection)
    return play


@pytest.fixture
def route(moongate):
    """route(peers, upstream="options", ...): a gateway whose one listener leads to an upstream of these peers."""
    def start(*peers, upstream="", before="", listen="", **options):
        quoted = ", ".join(f'"{peer}"' for peer in peers)
        return moongate(f'{before}\ngate.upstream("app", {{ peers = {{ {quoted} }}, {upstream} }})',
                        listen=f'tcp = "app", {listen}', **options)
    return start


# ---- Bytes. ----

def test_bytes_pass_both_ways_and_each_end_is_passed_on(route, origin):
    app = origin.plays(echo)
    client = route(app).raw()

    client.send("some bytes")
    assert client.exactly(10) == b"some bytes"
    client.send("\0\r\n\xff")
    assert client.exactly(4) == b"\0\r\n\xff"
    client.shutdown()

    assert client.ended() == b""


def test_a_server_may_speak_first(route, origin):
    client = route(origin.plays(says("220 hello\r\n"))).raw()

    assert client.line() == b"220 hello"


def test_what_a_client_sends_at_once_with_its_end_arrives(route, origin):
    app = origin.plays(lambda connection: connection.send(connection.until_close()[::-1]))
    client = route(app).raw()

    client.send("abc").shutdown()

    assert client.ended() == b"cba"


def test_a_server_that_ends_its_side_may_still_be_sent_to(route, origin):
    got = []

    def play(connection):
        connection.send("bye")
        connection.shutdown()
        got.append(connection.until_close())
    app = origin.plays(play)
    client = route(app).raw()

    assert client.ended() == b"bye"
    client.send("still there")
    client.shutdown()

    wait_until(lambda: got == [b"still there"])


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls-to-the-origin"])
def test_much_passes_both_ways_at_once_unchanged(route, origin, authority, site, tls):
    app = origin.plays(echo, tls=authority.server_context(site) if tls else None)
    gate = route(app, upstream=f'tls = {{ ca = "{authority.cert}" }}' if tls else "")
    client, body = gate.raw(), os.urandom(8_000_000)
    sender = threading.Thread(target=lambda: (client.send(body), client.shutdown()))
    sender.start()

    back = client.until_close()
    sender.join()

    assert hashlib.sha256(back).digest() == hashlib.sha256(body).digest()
    line = gate.access_log()[0]
    assert (line["bytes_in"], line["bytes_out"]) == (len(body), len(body))


def test_a_client_that_does_not_read_holds_back_its_server(route, origin):
    sent, body = [0], os.urandom(1 << 20)

    def play(connection):
        for _ in range(64):
            connection.send(body)
            sent[0] += len(body)
    app = origin.plays(play)
    gate = route(app, listen="send_timeout = 0")
    client = gate.raw(receive_buffer=4096)
    wait_until(lambda: sent[0] > 0)

    before = -1
    while before != sent[0]:
        before = sent[0]
        client.silent(0.3)

    assert sent[0] < 24 << 20
    digest, count = hashlib.sha256(), 0
    while piece := client.sock.recv(1 << 20):
        digest.update(piece)
        count += len(piece)
    assert count == 64 << 20 and digest.digest() == hashlib.sha256(body * 64).digest()


def test_a_server_that_does_not_read_holds_back_its_client(route, origin):
    go_on, got = threading.Event(), []

    def play(connection):
        assert go_on.wait(10)
        got.append(len(connection.until_close()))
    gate = route(origin.plays(play), upstream="send_timeout = 0")
    client = gate.raw()
    client.sock.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 << 20:
            sent += client.sock.send(bytes(1 << 16))

    assert sent < 24 << 20
    go_on.set()
    client.sock.settimeout(10)
    client.shutdown()
    wait_until(lambda: got == [sent])


def test_a_client_that_never_reads_is_cut_after_send_timeout(route, origin):
    def play(connection):
        while True:
            connection.send(bytes(1 << 20))
    gate = route(origin.plays(play), listen="send_timeout = 0.2")

    gate.raw(receive_buffer=4096)

    assert gate.access_log()[0]["error"] == "it did not read within send_timeout"
    gate.wait_total("connections", 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_clients_reset_is_passed_on(route, origin, when):
    seen = []

    def play(connection):
        connection.send("x")
        try:
            seen.append(connection.until_close())
        except ConnectionResetError:
            seen.append("reset")
    gate = route(origin.plays(play))
    client = gate.raw()
    if when == "after":
        client.exactly(1)

    client.reset()

    gate.wait_total("connections", 0)
    if when == "after":
        wait_until(lambda: seen == ["reset"])


def test_a_servers_reset_is_passed_on_behind_what_it_sent(route, origin):
    def play(connection):
        connection.exactly(1)
        connection.send("the end")
        connection.exactly(1)
        connection.reset()
    gate = route(origin.plays(play))
    client = gate.raw().send("a")
    assert client.exactly(7) == b"the end"

    client.send("b")

    with pytest.raises(ConnectionResetError):
        client.sock.recv(1)
    assert gate.access_log()[0]["status"] == 200


def test_a_servers_reset_is_no_failure_of_it(route, origin):
    def play(connection):
        connection.exactly(1)
        connection.reset()
    gate = route(origin.plays(play), upstream="""balance = function(req, peers)
        gate.log.info("failures", peers[1].failures) end""")
    with pytest.raises(ConnectionResetError):
        gate.raw().send("a").sock.recv(1)

    gate.raw().send("b").ended()

    assert [line.split()[-1] for line in gate.wait_log("failures", 2)] == ["0", "0"]


def test_a_server_that_is_gone_ends_its_client(route, origin):
    gate = route(origin.plays(lambda connection: connection.send("bye")))
    client = gate.raw()
    assert client.exactly(3) == b"bye"

    def gone():
        try:
            client.send("x" * 1000)
        except (BrokenPipeError, ConnectionResetError):
            return True
    wait_until(gone)

    gate.wait_total("connections", 0)


def test_unix_sockets_are_served_and_dialled(route, origin, tmp_path):
    app = origin.plays(echo, path=origin.path())
    client = route(app, path=tmp_path / "gate.sock").raw()

    client.send("over two files")
    client.shutdown()

    assert client.ended() == b"over two files"


def test_redis_is_served_through_a_route(route, tmp_path):
    with RedisServer(tmp_path) as server:
        client = route(str(server)).raw()
        client.send("SET a 1\r\nINCR a\r\nGET a\r\n" + "PING\r\n" * 1000)
        assert client.exactly(5 + 4 + 7) == b"+OK\r\n:2\r\n$1\r\n2\r\n"
        assert client.exactly(7000) == b"+PONG\r\n" * 1000
        client.send("QUIT\r\n")
        assert client.ended() == b"+OK\r\n"


def test_many_connections_come_and_go_and_leave_nothing(route, origin):
    gate = route(origin.plays(echo), workers=2)

    def some(number):
        for i in range(50):
            with socket.create_connection(gate.address, 10) as sock:
                word = b"%d-%d" % (number, i)
                sock.sendall(word)
                assert sock.recv(100) == word
    threads = [threading.Thread(target=some, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(gate.access_log(400)) == 400


# ---- Time. ----

def test_an_idle_connection_is_ended_and_a_busy_one_is_not(route, origin):
    gate = route(origin.plays(echo), listen="idle_timeout = 0.5")
    idle, busy = gate.raw(), gate.raw()

    for _ in range(8):
        busy.send("x")
        busy.exactly(1)
        busy.silent(0.1)
    assert idle.ended() == b""

    busy.send("y")
    assert busy.exactly(1) == b"y"
    assert gate.access_log()[0]["error"] == "no byte passed in either direction within idle_timeout"


def test_bytes_of_the_server_alone_keep_a_connection(route, origin):
    def play(connection):
        for _ in range(8):
            connection.send("x")
            connection.silent(0.1)
        echo(connection)
    client = route(origin.plays(play), listen="idle_timeout = 0.5").raw()

    assert client.exactly(8) == b"x" * 8
    client.send("there")
    assert client.exactly(5) == b"there"


# ---- Peers. ----

def test_another_peer_is_tried_when_one_refuses(route, origin):
    gate = route(origin.refuses(), origin.plays(echo))

    for _ in range(4):
        client = gate.raw().send("x")
        assert client.exactly(1) == b"x"
        client.close()

    assert {line["status"] for line in gate.access_log(4)} == {200}
    gate.wait_log("connection refused")


@pytest.mark.parametrize("peer, status", [("refuses", 502), ("blackhole", 504)])
def test_a_client_is_let_go_when_no_peer_can_be_had(route, origin, peer, status):
    gate = route(getattr(origin, peer)(), upstream="connect_timeout = 0.2")

    assert gate.raw().send("x").ended() == b""

    line = gate.access_log()[0]
    assert (line["status"], line["bytes_out"]) == (status, 0) and line["error"]


def test_connections_count_as_active_at_their_peer_and_least_conn_heeds_them(route, origin):
    one, two = origin.plays(says("1")), origin.plays(says("2"))
    gate = route(one, two, upstream='balance = "least_conn"')
    first, second, third = gate.raw(), None, None
    taken = first.exactly(1)

    second = gate.raw()

    assert second.exactly(1) != taken
    first.close()
    gate.wait_total("exchanges", 1)
    third = gate.raw()
    assert third.exactly(1) == taken


def test_max_connections_of_a_peer_count_tunnels(route, origin):
    gate = route(origin.plays(says("1")), upstream="max_connections = 1, queue = 1, queue_timeout = 5")
    first = gate.raw()
    assert first.exactly(1) == b"1"
    second = gate.raw()
    gate.wait_total("queued", 1)
    assert gate.raw().ended() == b""

    first.close()

    assert second.exactly(1) == b"1"
    assert [line["status"] for line in gate.access_log(2)] == [503, 200]


def test_balance_and_log_hooks_see_the_connection(moongate, origin):
    one, two = origin.plays(says("1")), origin.plays(says("2"))
    gate = moongate(f"""
        gate.use {{ name = "seen", request = function() error "never" end, response = function() error "never" end,
          balance = function(req, peers)
            gate.sleep(0.01)
            req.ctx.began = true
            for _, p in ipairs(peers) do if p.address == "{two}" then return p end end
          end,
          log = function(req, res)
            gate.log.info("ended", req.method, req.scheme, req.client.ip, req.route, req.peer.address, res.status, res.bytes,
              tostring(req.version), tostring(req.headers["host"]), tostring(req.ctx.began))
          end }}
        gate.upstream("app", {{ peers = {{ "{one}", "{two}" }} }})""", listen='tcp = "app", name = "database"')
    client = gate.raw()
    assert client.exactly(1) == b"2"

    client.close()

    gate.wait_log(f"ended CONNECT tcp 127.0.0.1 database {two} 200 1 nil nil true")


def test_an_upstreams_own_balance_function_chooses(route, origin):
    one, two = origin.plays(says("1")), origin.plays(says("2"))
    gate = route(one, two, upstream=f"""balance = function(req, peers)
        for _, p in ipairs(peers) do if p.address == "{two}" then return p end end end""")

    assert [gate.raw().exactly(1) for _ in range(3)] == [b"2"] * 3


def test_a_connection_has_a_line_in_the_access_log(route, origin):
    app = origin.plays(echo)
    gate = route(app)
    client = gate.raw().send("12345")
    client.exactly(5)
    client.shutdown()
    client.ended()

    line = gate.access_log()[0]
    assert {key: line[key] for key in ("client", "method", "host", "path", "version", "status", "bytes_in", "bytes_out",
                                       "upstream", "peer", "tries", "error", "tls")} == {
        "client": "127.0.0.1", "method": "CONNECT", "host": "", "path": "", "version": "TCP", "status": 200,
        "bytes_in": 5, "bytes_out": 5, "upstream": "app", "peer": str(app), "tries": 1, "error": None, "tls": None}
    assert line["route"] == f"127.0.0.1:{gate.port}" and line["duration"] > 0 and line["latency"] is not None


@pytest.mark.parametrize("deed", ["return false", 'error("thrown")'])
def test_a_connect_hook_keeps_somebody_out(route, origin, deed):
    app = origin.plays(echo)
    gate = route(app, before=f"gate.use {{ connect = function(conn) {deed} end }}")
    gate.expect_error("thrown")

    assert gate.raw().send("x").ended() == b""

    assert not app.connections


def test_http_and_tcp_listeners_stand_side_by_side(moongate, origin):
    app, web, port = origin.plays(echo), origin.answers(200, b"web"), free_port()
    gate = moongate(f"""
        gate.listen {{ "127.0.0.1:{port}", tcp = "app" }}
        gate.upstream("app", {{ peers = {{ "{app}" }} }})
        gate.route {{ "/*", upstream = gate.upstream("web", {{ peers = {{ "{web}" }} }}) }}""")

    assert gate.get("/").body == b"web"
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"x")
        assert sock.recv(10) == b"x"


# ---- Names. ----

@pytest.fixture
def named(moongate, origin, authority):
    """named(tcp): a gateway that passes TLS on by name to three origins with certificates of their own."""
    def start(tcp, **options):
        lines = []
        for name in ("db", "web", "rest"):
            certificate = authority.issue(f"{name}.example.test", "*.example.test", "a.b.example.test")
            made = origin.plays(says(name + "\r\n"), tls=authority.server_context(certificate))
            lines.append(f'local {name} = gate.upstream("{name}", {{ peers = {{ "{made}" }} }})')
        return moongate("\n".join(lines) + f'\ngate.listen {{ "127.0.0.1:$PORT", tcp = {tcp} }}', declare_listen=False,
                        **options)
    return start


TABLE = '{ ["db.example.test"] = "db", ["*.Example.test"] = web, ["*"] = "rest" }'
FUNCTION = """function(conn)
    gate.sleep(0.01)
    if conn.sni == "db.example.test" then return "db" end
    if conn.sni and conn.sni:find "example" then return web end
    return rest
end"""


@pytest.mark.parametrize("tcp", [TABLE, FUNCTION], ids=["table", "function"])
def test_tls_is_passed_on_by_name_and_ended_by_the_origin(named, authority, tcp):
    gate = named(tcp)
    context = authority.client_context()

    answers = {name: gate.raw(tls=context, name=name).line().decode()
               for name in ("db.example.test", "DB.example.test", "other.example.test", "a.b.example.test")}

    assert answers == {"db.example.test": "db", "DB.example.test": "db", "other.example.test": "web",
                       "a.b.example.test": "web"}
    gate.close_clients()
    assert {(line["host"], line["upstream"]) for line in gate.access_log(4)} == {
        ("db.example.test", "db"), ("other.example.test", "web"), ("a.b.example.test", "web")}


@pytest.mark.parametrize("tcp", [TABLE, FUNCTION], ids=["table", "function"])
def test_what_names_nobody_goes_to_the_rest(named, authority, tcp):
    gate = named(tcp)
    context = ssl._create_unverified_context()

    with socket.create_connection(gate.address, 10) as sock:
        with context.wrap_socket(sock) as secured:
            assert secured.recv(10) == b"rest\r\n"


@pytest.mark.parametrize("tcp", ['{ ["db.example.test"] = db }', "function(conn) if conn.sni == 'db.example.test' then return db end end"],
                         ids=["table", "function"])
def test_a_name_that_leads_nowhere_is_refused(named, authority, tcp):
    gate = named(tcp)

    with pytest.raises((ssl.SSLError, ConnectionError)):
        gate.raw(tls=authority.client_context(), name="other.example.test")

    assert gate.raw(tls=authority.client_context(), name="db.example.test").line() == b"db"


@pytest.mark.parametrize("deed", ['error("thrown")', 'gate.sleep(0.01) error("thrown")', "return 7", 'return "nobody"'])
def test_a_choice_that_fails_refuses_and_is_told(named, deed):
    gate = named(f"function(conn) {deed} end")
    gate.expect_error('tcp of the listener at "127.0.0.1:')

    assert gate.raw().send("no TLS\r\n").ended() == b""

    gate.wait_log("thrown|it returned (7|nobody); return an upstream")


@pytest.mark.parametrize("size", [None, 1, 60])
def test_the_bytes_of_a_hello_arrive_as_they_came(moongate, origin, authority, size):
    hello = hello_of(authority.client_context())[0]
    hello = in_records(hello, size) if size else hello
    got = []
    app = origin.plays(lambda connection: got.append(connection.until_close()))
    gate = moongate(f'gate.upstream("app", {{ peers = {{ "{app}" }} }})', listen='tcp = { ["example.test"] = "app" }')
    client = gate.raw()

    client.send(hello[:50])
    client.send(hello[50:] + b"and more")
    client.shutdown()

    wait_until(lambda: got)
    assert got == [hello + b"and more"]


def test_a_client_hello_hook_runs_for_a_listener_that_reads_it(moongate, origin, authority):
    app = origin.plays(says("hello\r\n"), tls=authority.server_context(authority.issue("a.test", "b.test")))
    gate = moongate(f"""
        gate.use {{ client_hello = function(conn) gate.log.info("asks for", conn.sni) return conn.sni == "a.test" end }}
        gate.upstream("app", {{ peers = {{ "{app}" }} }})""", listen='tcp = "app", sni = true')
    context = authority.client_context()

    assert gate.raw(tls=context, name="a.test").line() == b"hello"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        gate.raw(tls=context, name="b.test")

    gate.wait_log("asks for b.test")


def test_a_function_that_asks_for_no_name_need_not_wait_for_one(moongate, origin):
    app = origin.plays(says("220 hello\r\n"))
    gate = moongate(f"""
        gate.use {{ client_hello = function() error "never" end }}
        local app = gate.upstream("app", {{ peers = {{ "{app}" }} }})
        gate.listen {{ "127.0.0.1:$PORT", sni = false, tcp = function(conn) return conn.ip == "127.0.0.1" and app end }}""",
                    declare_listen=False)

    assert gate.raw().line() == b"220 hello"


def test_other_protocols_pass_a_listener_that_looks_for_names(named):
    gate = named('{ ["*"] = gate.upstream("plain", { peers = { "127.0.0.1:1" } }) }')

    assert gate.raw().send("SSH-2.0-x\r\n").ended() == b""

    assert gate.access_log()[0]["upstream"] == "plain"


def test_tls_may_be_ended_before_a_route(moongate, origin, authority, site):
    app = origin.plays(echo)
    gate = moongate(f'gate.upstream("app", {{ peers = {{ "{app}" }} }})', listen=f'tcp = "app", tls = {{ {site.lua} }}')
    client = gate.raw(tls=authority.client_context(alpn=["postgresql"]))

    client.send("secret")

    assert client.exactly(6) == b"secret"
    client.close()
    line = gate.access_log()[0]
    assert (line["host"], line["tls"], line["bytes_in"]) == ("example.test", "1.3", 6)


def test_check_prints_where_a_listener_leads(tmp_path):
    (tmp_path / "gateway.lua").write_text(f"""local gate = require "moongate"
        gate.listen {{ "127.0.0.1:1", tcp = "app" }}
        gate.listen {{ "127.0.0.1:2", tcp = {TABLE} }}
        for _, name in ipairs {{ "app", "db", "rest" }} do gate.upstream(name, {{ peers = {{ "127.0.0.1:9" }} }}) end
        """.replace("= web", "= 'db'"))

    done = run("check", "gateway.lua", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "tcp -> upstream app" in done.stdout and "tcp -> by a choice" in done.stdout


# ---- The end. ----

def test_a_tunnel_goes_on_while_the_gateway_drains_and_ends_it(route, origin):
    gate = route(origin.plays(echo))
    client = gate.raw().send("a")
    assert client.exactly(1) == b"a"

    gate.signal(3)
    wait_until(lambda: not proxies.is_open(gate.port))

    client.send("b")
    assert client.exactly(1) == b"b"
    assert gate.process.poll() is None
    client.close()
    assert gate.wait_exit() == 0


def test_a_tunnel_is_cut_when_drain_timeout_is_over(route, origin):
    gate = route(origin.plays(echo), set="drain_timeout = 0.3")
    client = gate.raw().send("a")
    assert client.exactly(1) == b"a"

    gate.signal(3)

    assert client.ended() == b""
    assert gate.wait_exit() == 0


def test_a_tunnel_is_cut_when_the_process_is_stopped(route, origin):
    ended = []

    def play(connection):
        connection.send("a")
        ended.append(connection.ended())
    gate = route(origin.plays(play))
    client = gate.raw()
    assert client.exactly(1) == b"a"

    gate.signal(15)

    assert gate.wait_exit() == 0
    assert client.ended() == b""
    wait_until(lambda: ended == [b""])
    assert gate.access_log()[0]["bytes_out"] == 1


@pytest.mark.parametrize("hook", ["", "balance = function(req, peers) gate.sleep(0.001) return peers[1] end"],
                         ids=["no-hook", "balance"])
def test_a_tunnel_goes_on_when_the_vm_is_lost(moongate, origin, hook):
    port = free_port()
    gate = moongate(f"""
        gate.set {{ cpu_budget = 0.05 }}
        gate.listen {{ "127.0.0.1:{port}", tcp = gate.upstream("app", {{ peers = {{ "{origin.plays(echo)}" }}, {hook} }}) }}
        gate.route {{ "/bad", handler = function() string.find(("a"):rep(80), ("a-"):rep(30) .. "b") end }}""")
    gate.expect_error(".")
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"

        assert gate.get("/bad").status == 500
        gate.wait_log("built anew")

        sock.sendall(b"y")
        assert sock.recv(1) == b"y"


# ---- PROXY headers. ----

def test_a_route_behind_a_proxy_header_is_of_the_client_that_is_named(route, origin):
    gate = route(origin.plays(echo), listen="proxy_protocol = true")
    client = gate.raw().send(proxies.version2() + b"bytes")

    assert client.exactly(5) == b"bytes"
    client.close()
    assert gate.access_log()[0]["client"] == "192.0.2.7"

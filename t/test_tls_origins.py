"""TLS to origins: who is believed, what is asked for, what is told when it is not so, and what is kept."""
import json
import os
import socket
import threading

import pytest

from certificates import Authority
from moongate import ROOT, free_port, run
from redis_server import RedisServer


def upstream(server, tls, more=""):
    return f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }}, tls = {tls}, {more} }}) }}'


def trusting(authority, more=""):
    return f'{{ ca = "{authority.cert}", {more} }}'


def test_requests_go_to_an_origin_over_tls(moongate, origin, authority, site):
    server = origin.answers(200, b"secret", tls=authority.server_context(site))
    gate = moongate(upstream(server, trusting(authority)))

    answers = [gate.get(f"/{i}") for i in range(3)]

    assert [a.body for a in answers] == [b"secret"] * 3
    assert len(server.connections) == 1, "the connection is kept"


def test_large_bodies_pass_whole_both_ways(moongate, origin, authority, site):
    server = origin.echoes(tls=authority.server_context(site))
    gate = moongate(upstream(server, trusting(authority)))
    body = os.urandom(2_000_000)

    assert gate.post("/", body=body).body == body


@pytest.mark.parametrize("make, why", [
    (lambda a, tmp: (Authority(tmp / "stranger").issue("IP:127.0.0.1"), a), "unable to get local issuer certificate"),
    (lambda a, tmp: (a.issue("IP:127.0.0.1", days=-1), a), "certificate has expired"),
    (lambda a, tmp: (a.issue("other.example"), a), "IP address mismatch"),
], ids=["unknown authority", "expired", "of somebody else"])
def test_a_certificate_that_is_not_good_gives_502_and_its_fault(moongate, origin, authority, tmp_path, make, why):
    certificate, believed = make(authority, tmp_path)
    server = origin.answers(tls=believed.server_context(certificate))
    gate = moongate(upstream(server, trusting(authority)))

    assert gate.get("/").status == 502
    assert server.seen == 0, "nothing was said to it"
    gate.wait_log(f"peer {server}: the certificate of /CN=.* is refused: {why}")
    assert why in gate.access_log()[0]["error"]


def test_the_systems_store_is_believed_and_nobody_else(moongate, origin, authority, site):
    server = origin.answers(tls=authority.server_context(site))
    believing = moongate(upstream(server, "true"), environment={"SSL_CERT_FILE": str(authority.cert)})
    doubting = moongate(upstream(server, "true"))

    assert believing.get("/").status == 200
    assert doubting.get("/").status == 502


def test_verification_can_be_turned_off(moongate, origin, authority, tmp_path):
    server = origin.answers(tls=authority.server_context(Authority(tmp_path / "stranger").issue("other.example")))
    gate = moongate(upstream(server, "{ verify = false }"))

    assert gate.get("/").status == 200


def test_sni_is_asked_for_and_checked(moongate, origin, authority, site):
    context, asked = authority.server_context(site), []
    context.sni_callback = lambda sock, name, _: asked.append(name)
    server = origin.answers(tls=context)

    good = moongate(upstream(server, trusting(authority, 'sni = "a.example.test"')))
    bad = moongate(upstream(server, trusting(authority, 'sni = "elsewhere.example"')))

    assert (good.get("/").status, bad.get("/").status) == (200, 502)
    assert asked == ["a.example.test", "elsewhere.example"] or asked[0] == "a.example.test"
    bad.wait_log("is refused: hostname mismatch")


def test_the_name_of_the_peer_is_asked_for(moongate, origin, authority):
    context, asked = authority.server_context(authority.issue("localhost")), []
    context.sni_callback = lambda sock, name, _: asked.append(name)
    server = origin.answers(tls=context)
    gate = moongate(upstream(f"localhost:{server.port}", trusting(authority)))

    assert gate.get("/").status == 200 and asked == ["localhost"]


def test_an_origin_may_ask_for_our_certificate(moongate, origin, authority, site):
    ours = authority.issue("gateway.example")
    server = origin.answers(tls=authority.server_context(site, client_authority=authority))
    with_it = moongate(upstream(server, trusting(authority, ours.lua)))
    without = moongate(upstream(server, trusting(authority)))

    assert (with_it.get("/").status, without.get("/").status) == (200, 502)
    assert ("commonName", "gateway.example") in server.handshakes[0][2]["subject"][0]


def test_sessions_with_origins_are_resumed(moongate, origin, authority, site):
    def once(connection):
        connection.request()
        connection.answer(200, b"bye", fields=["Connection: close"])

    server = origin.plays(once, tls=authority.server_context(site))
    gate = moongate(upstream(server, trusting(authority)))

    assert [gate.get("/").status for _ in range(4)] == [200] * 4
    assert [resumed for _, resumed, _ in server.handshakes] == [False, True, True, True]


def test_connections_that_differ_in_tls_are_not_shared(moongate, origin, authority, site):
    server = origin.answers(tls=authority.server_context(site))
    gate = moongate("".join(f"""
        gate.route {{ "/{name}", upstream = gate.upstream("{name}", {{ peers = {{ "{server}" }}, tls = {tls} }}) }}"""
        for name, tls in (("one", trusting(authority)), ("same", trusting(authority)), ("open", "{ verify = false }"),
                          ("named", trusting(authority, 'sni = "a.example.test"')))))

    for path in ("/one", "/same", "/open", "/named", "/one", "/open", "/named"):
        assert gate.get(path).status == 200

    assert len(server.connections) == 3


def test_a_body_without_a_length_must_end_with_a_goodbye(moongate, origin, authority, site):
    """Otherwise somebody in between may have cut it (RFC 8446 6.1)."""
    def until_close(connection):
        request = connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome of it")
        if request.target == "/whole":
            connection.sock.unwrap()
        else:
            connection.sock.shutdown(socket.SHUT_RDWR)

    server = origin.plays(until_close, tls=authority.server_context(site))
    gate = moongate(upstream(server, trusting(authority)))

    assert gate.get("/whole").body == b"some of it"
    client = gate.raw()
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
    client.cut_response()


def test_a_failed_handshake_is_tried_at_another_peer(moongate, origin, authority, site, tmp_path):
    bad = origin.answers(tls=authority.server_context(Authority(tmp_path / "stranger").issue("IP:127.0.0.1")))
    good = origin.answers(200, b"good", tls=authority.server_context(site))
    gate = moongate(f"""gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{bad}", "{good}" }},
        tls = {trusting(authority)}, retry = {{ attempts = 2, budget = 1 }} }}) }}""")

    assert [gate.post("/", body=b"x").body for _ in range(4)] == [b"good"] * 4


def test_an_origin_that_says_nothing_in_the_handshake_is_given_up_in_time(moongate, authority):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gate = moongate(upstream("127.0.0.1:%d" % silent.getsockname()[1], trusting(authority), "connect_timeout = 0.2"))

        assert gate.get("/").status == 504


def test_an_origin_without_tls_gives_502(moongate, authority):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        def answer():
            sock, _ = plain.accept()
            with sock:
                sock.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
                sock.recv(4096)
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        gate = moongate(upstream("127.0.0.1:%d" % plain.getsockname()[1], trusting(authority), "retry = false"))

        assert gate.get("/").status == 502
        thread.join()
    gate.wait_log("the TLS handshake failed: wrong version number")


def test_http2_to_an_origin_over_tls(moongate, h2_origin, authority, site):
    server = h2_origin(lambda c, r: c.answer(r, body=r.pseudo[":scheme"].encode()),
                       tls=authority.server_context(site, alpn=["h2"]))
    gate = moongate(upstream(server, trusting(authority), 'protocol = "h2"'))
    clients = [threading.Thread(target=gate.get, args=("/",)) for _ in range(8)]

    for each in clients:
        each.start()
    for each in clients:
        each.join()

    assert gate.get("/").body == b"https"
    assert len(server.connections) == 1 and len(server.requests) == 9


def test_an_origin_that_does_not_take_http2_is_told(moongate, origin, authority, site):
    server = origin.answers(tls=authority.server_context(site, alpn=["http/1.1"]))
    gate = moongate(upstream(server, trusting(authority), 'protocol = "h2"'))

    assert gate.get("/").status == 502
    gate.wait_log("the TLS handshake|has not chosen it by ALPN")


@pytest.mark.parametrize("chosen, connections", [("h2", 1), ("http/1.1", 8), (None, 8)])
def test_an_origin_may_choose_its_protocol(moongate, origin, h2_origin, authority, site, chosen, connections):
    """By ALPN: over HTTP/2 exchanges share a connection; an origin that does not choose it speaks HTTP/1.1."""
    tls, together = authority.server_context(site, alpn=[chosen] if chosen else []), threading.Barrier(8)

    def answer(*_):
        together.wait(10)
        return 200, chosen or "nothing", ()
    if chosen == "h2":
        server = h2_origin(lambda c, r: c.answer(r, 200, answer()[1].encode()), tls=tls)
    else:
        server = origin.answers(answer, tls=tls)
    gate = moongate(upstream(server, trusting(authority), 'protocol = "alpn"'))
    bodies = []

    for _ in range(2):
        asking = [threading.Thread(target=lambda: bodies.append(gate.get("/").body)) for _ in range(8)]
        for each in asking:
            each.start()
        for each in asking:
            each.join()

    assert bodies == [(chosen or "nothing").encode()] * 16
    assert len(server.connections) == connections, "kept, or shared"


# ---- Scripts' own connections.

def test_fetch_speaks_https(moongate, origin, authority, site):
    server = origin.answers(200, b"fetched", tls=authority.server_context(site))
    gate = moongate(f"""gate.route {{ "/*", handler = function(req)
        local got, problem = gate.fetch("https://{server}/path", {{ tls = {{ ca = "{authority.cert}" }} }})
        local refused, why = gate.fetch("https://{server}/path")
        return 200, {{ body = got:text(), problem = problem, refused = refused.status, why = why }}
    end }}""")

    told = json.loads(gate.get("/").body)

    assert told["body"] == "fetched" and told["refused"] == 0
    assert "unable to get local issuer certificate" in told["why"]
    assert server.last["host"] == str(server)


def test_sockets_speak_tls(moongate, origin, authority, site):
    def echo(connection):
        connection.send(connection.line() + b" again\n")

    server = origin.plays(echo, tls=authority.server_context(site))
    gate = moongate(f"""gate.route {{ "/*", handler = function(req)
        local s, problem = gate.connect("127.0.0.1", {server.port}, {{ tls = {{ ca = "{authority.cert}" }} }})
        if not s then return 500, problem end
        s:send("hello\\r\\n")
        local line = s:receive("line")
        local refused, why = gate.connect("127.0.0.1", {server.port}, {{ tls = true }})
        return 200, line .. "; " .. tostring(refused) .. ": " .. why
    end }}""")

    answer = gate.get("/").body.decode()

    assert answer.startswith("hello again; nil: the certificate of /CN=")


def test_redis_is_asked_over_tls(moongate, authority, site, tmp_path):
    port = free_port()
    with RedisServer(tmp_path, "--tls-port", str(port), "--tls-cert-file", site.cert, "--tls-key-file", site.key,
                     "--tls-ca-cert-file", authority.cert, "--tls-auth-clients", "no"):
        gate = moongate(f"""package.path = "{ROOT}/scripts/?.lua;" .. package.path
            local db = require "store.redis" "127.0.0.1:{port}" {{ tls = {{ ca = "{authority.cert}" }} }}
            gate.route {{ "/*", handler = function(req)
                assert(db:set("key", "secret"))
                return 200, db:get("key")
            end }}""")

        assert gate.get("/").body == b"secret"


# ---- What a script can get wrong.

@pytest.mark.parametrize("tls, peer, told", [
    ("'yes'", "127.0.0.1:1", "tls must be true or a table of options"),
    ("{ ca = '/nowhere.pem' }", "127.0.0.1:1", 'ca "/nowhere.pem" can\'t be read'),
    ("{ key = '/nowhere.key' }", "127.0.0.1:1", "key without cert"),
    ("{ cert = '/nowhere.pem' }", "127.0.0.1:1", 'certificate "/nowhere.pem" can\'t be read'),
    ("{ verfy = false }", "127.0.0.1:1", 'unknown key "verfy"; did you mean "verify"'),
    ("true", "unix:/run/x.sock", "a unix socket has no name"),
    ("nil, protocol = 'alpn'", "127.0.0.1:1", 'protocol "alpn" is settled in the handshake of TLS'),
])
def test_what_is_wrong_with_an_upstreams_tls_is_told(tmp_path, tls, peer, told):
    script = tmp_path / "gateway.lua"
    script.write_text(f"""local gate = require "moongate"
gate.listen "127.0.0.1:1"
gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{peer}" }}, tls = {tls} }}) }}
""")

    done = run("check", script)

    assert done.returncode == 1 and "gateway.lua:3: upstream" in done.stderr and told in done.stderr, done.stderr

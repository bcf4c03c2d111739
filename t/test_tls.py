"""TLS with clients: certificates by name, versions, protocols, tickets, clients' certificates, and its failures."""
import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess

import pytest

import client
from certificates import Authority, openssl
from h2wire import Http2
from moongate import run, wait_until

TELL = """gate.route { "/*", handler = function(req)
  local tls = req.tls
  return 200, { scheme = req.scheme, sni = tls.sni, version = tls.version, cipher = tls.cipher, alpn = tls.alpn,
    resumed = tls.resumed, cert = tls.client_cert, http = req.version }
end }"""
OK = 'gate.route { "/*", handler = function(req) return 200, "ok" end }'


def json(answer):
    import json
    return json.loads(answer.body)


@pytest.fixture
def secure(moongate, site):
    """secure(script, tls="more options", **options): a gateway that listens with TLS."""
    def start(script, tls="", listen="", **options):
        return moongate(script, listen=f"tls = {{ {site.lua}, {tls} }}, {listen}", **options)
    return start


def certificate_shown(gate, context, name):
    with socket.create_connection(gate.address) as sock:
        with context.wrap_socket(sock, server_hostname=name) as secured:
            return hashlib.sha256(secured.getpeercert(True)).hexdigest()


@pytest.mark.parametrize("version, name", [(ssl.TLSVersion.TLSv1_2, "1.2"), (ssl.TLSVersion.TLSv1_3, "1.3")])
def test_a_request_tells_what_the_handshake_has_shown(secure, authority, version, name):
    gate = secure(TELL)

    told = json(gate.raw(tls=authority.client_context(version=version)).get("/"))

    assert (told["scheme"], told["sni"], told["version"], told["resumed"]) == ("https", "example.test", name, False)
    assert "GCM" in told["cipher"] or "CHACHA" in told["cipher"]
    assert "alpn" not in told and "cert" not in told and told["http"] == "1.1"
    assert gate.access_log()[0]["tls"] == name


def test_a_connection_in_clear_text_has_no_tls(moongate):
    gate = moongate('gate.route { "/*", handler = function(req) return 200, tostring(req.tls) end }')

    assert gate.get("/").body == b"nil"
    assert gate.access_log()[0]["tls"] is None


def test_many_requests_and_large_bodies_pass_whole(secure, authority, origin):
    body = os.urandom(3_000_000)
    echo = origin.echoes()
    gate = secure(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{echo}" }} }}) }}')
    client = gate.raw(tls=authority.client_context())

    for size in (0, 1, 16383, 16384, 16385, 70_000, len(body)):
        assert client.request("POST", "/", body=body[:size]).body == body[:size]


def test_a_client_that_reads_slowly_gets_all_of_it(secure, authority, origin):
    body = os.urandom(4_000_000)
    big = origin.answers(200, body)
    gate = secure(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{big}" }} }}) }}')
    client = gate.raw(tls=authority.client_context(), receive_buffer=8192)

    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    big.wait_seen(1)

    assert client.response().body == body


def test_pipelined_requests_in_one_record_are_all_answered(secure, authority):
    client = secure(OK).raw(tls=authority.client_context())

    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 50)

    assert [client.response().status for _ in range(50)] == [200] * 50


def test_more_than_one_read_takes_at_once_is_read_without_another_event(secure, authority):
    """What OpenSSL holds decrypted, no socket announces."""
    gate = secure('gate.route { "/*", handler = function(req) return 200, tostring(#req:text()) end }')
    client = gate.raw(tls=authority.client_context())

    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + "x" * 300_000)

    assert client.response("POST").body == b"300000"


class ByHand:
    """A client whose records a test holds in its hand."""

    def __init__(self, gate, context):
        self.sock = socket.create_connection(gate.address, 10)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="example.test")
        self.step(self.tls.do_handshake)
        self.sock.sendall(self.outgoing.read())
        gate.clients.append(self)

    def step(self, do):
        while True:
            try:
                return do()
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                data = self.sock.recv(65536)
                assert data, "the connection has ended"
                self.incoming.write(data)

    def seal(self, text):
        self.tls.write(text)
        return self.outgoing.read()

    def read(self):
        return self.step(lambda: self.tls.read(65536))

    def close(self):
        self.sock.close()


def test_errors_that_a_script_leaves_with_openssl_are_not_the_connections(secure, authority):
    """OpenSSL's queue of errors is one for all that runs in a worker."""
    gate = secure("""local ffi = require "ffi"
        ffi.cdef "void ERR_new(void); void ERR_set_error(int library, int reason, const char *format, ...);"
        gate.route { "/*", handler = function() ffi.C.ERR_new(); ffi.C.ERR_set_error(6, 100, nil) return 200, "ok" end }""")
    client, other = ByHand(gate, authority.client_context()), gate.raw(tls=authority.client_context())

    for _ in range(3):
        record = client.seal(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.sock.sendall(record[:20])
        assert other.get("/").body == b"ok"     # which leaves an error, and comes behind the half record
        client.sock.sendall(record[20:21])
        assert other.get("/").body == b"ok"
        client.sock.sendall(record[21:])
        assert client.read().endswith(b"ok")


# ---- Certificates by name.

def test_the_name_chooses_the_certificate(secure, authority, site):
    exact, wild = authority.issue("shop.example"), authority.issue("*.wild.example", "wild.example")
    gate = secure(OK, tls=f"certificates = {{ {{ {exact.lua} }}, {{ {wild.lua} }} }}")
    context = authority.client_context()
    context.check_hostname = False

    shown = {name: certificate_shown(gate, context, name) for name in
             ("shop.example", "SHOP.Example", "a.wild.example", "wild.example", "a.b.wild.example", "nobody.example")}

    assert shown["shop.example"] == shown["SHOP.Example"] == exact.fingerprint()
    assert shown["a.wild.example"] == shown["wild.example"] == wild.fingerprint()
    assert shown["a.b.wild.example"] == shown["nobody.example"] == site.fingerprint()


def test_a_client_without_a_name_gets_the_first_certificate(secure, authority, site):
    other = authority.issue("shop.example")
    gate = secure(OK, tls=f"certificates = {{ {{ {other.lua} }} }}")
    context = authority.client_context()
    context.check_hostname = False

    assert certificate_shown(gate, context, None) == site.fingerprint()


def test_a_name_may_have_certificates_of_two_kinds(secure, authority):
    ec, rsa = authority.issue("two.example"), authority.issue("two.example", kind="rsa")
    gate = secure(OK, tls=f"certificates = {{ {{ {ec.lua} }}, {{ {rsa.lua} }} }}")
    old = ssl.TLSVersion.TLSv1_2

    by_ec = certificate_shown(gate, authority.client_context(version=old, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256"),
                              "two.example")
    by_rsa = certificate_shown(gate, authority.client_context(version=old, ciphers="ECDHE-RSA-AES128-GCM-SHA256"),
                               "two.example")

    assert (by_ec, by_rsa) == (ec.fingerprint(), rsa.fingerprint())


def test_names_of_the_script_stand_in_place_of_the_certificates_own(secure, authority, site):
    other = authority.issue("shop.example")
    gate = secure(OK, tls=f'certificates = {{ {{ {other.lua}, names = {{ "alias.example" }} }} }}')
    context = authority.client_context()
    context.check_hostname = False

    assert certificate_shown(gate, context, "alias.example") == other.fingerprint()
    assert certificate_shown(gate, context, "shop.example") == site.fingerprint()


@pytest.mark.parametrize("name", ["nobody.example", None])
def test_with_strict_sni_a_client_must_name_a_host_that_is_there(secure, authority, name):
    gate = secure(OK, tls="strict_sni = true")
    context = authority.client_context()
    context.check_hostname = False

    with pytest.raises(ssl.SSLError, match="unrecognized name"):
        certificate_shown(gate, context, name)
    assert gate.raw(tls=authority.client_context()).get("/").status == 200
    gate.wait_log("client 127.0.0.1: the TLS handshake failed")


def test_pem_text_does_as_well_as_files(moongate, authority, site):
    cert, key = site.cert.read_text(), site.key.read_text()
    gate = moongate(OK, listen=f"tls = {{ cert = [[{cert}]], key = [[{key}]] }}")

    assert gate.raw(tls=authority.client_context()).get("/").status == 200


def test_the_whole_chain_is_sent(moongate, tmp_path, authority):
    middle = Authority(tmp_path / "middle", "Middle")
    asked = tmp_path / "middle.csr"
    openssl("req", "-new", "-key", middle.key, "-subj", "/CN=Middle", "-out", asked)
    extensions = tmp_path / "middle.ext"
    extensions.write_text("basicConstraints=critical,CA:TRUE\n")
    openssl("x509", "-req", "-in", asked, "-CA", authority.cert, "-CAkey", authority.key, "-set_serial", "77",
            "-extfile", extensions, "-days", "9", "-out", middle.cert)
    leaf = middle.issue("example.test")
    leaf.cert.write_text(leaf.cert.read_text() + middle.cert.read_text())
    gate = moongate(OK, listen=f"tls = {{ {leaf.lua} }}")

    assert gate.raw(tls=authority.client_context()).get("/").status == 200


# ---- Versions, ciphers, protocols.

def test_old_versions_are_refused(secure, authority):
    gate = secure(OK)
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{gate.port}", "-tls1_1", "-cipher",
                           "ALL@SECLEVEL=0"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)

    assert done.returncode != 0 and "alert protocol version" in done.stderr


def test_min_version_is_the_least(secure, authority):
    gate = secure(OK, tls='min_version = "1.3"')

    with pytest.raises(ssl.SSLError, match="protocol version"):
        gate.raw(tls=authority.client_context(version=ssl.TLSVersion.TLSv1_2))
    assert gate.raw(tls=authority.client_context()).get("/").status == 200


def test_ciphers_without_forward_secrecy_are_refused(secure, authority):
    gate = secure(OK)

    with pytest.raises(ssl.SSLError, match="handshake failure"):
        gate.raw(tls=authority.client_context(version=ssl.TLSVersion.TLSv1_2, ciphers="AES128-GCM-SHA256"))


@pytest.mark.parametrize("offered, chosen, http", [(["h2", "http/1.1"], "h2", "2"), (["http/1.1"], "http/1.1", "1.1"),
                                                   (["http/1.1", "h2"], "h2", "2")])
def test_alpn_chooses_the_protocol(secure, authority, offered, chosen, http):
    gate = secure(TELL)
    context = authority.client_context(alpn=offered)

    if chosen == "h2":
        connection = Http2(gate.address, tls=context)
        gate.clients.append(connection)
    else:
        connection = gate.raw(tls=context)
    told = json(connection.get("/"))

    assert (told["alpn"], told["http"]) == (chosen, http)


def test_without_http2_alpn_does_not_offer_it(secure, authority):
    gate = secure(TELL, listen="http2 = false")

    assert json(gate.raw(tls=authority.client_context(alpn=["h2", "http/1.1"])).get("/"))["alpn"] == "http/1.1"


def test_a_client_that_speaks_no_protocol_of_ours_is_refused(secure, authority):
    gate = secure(OK)

    with pytest.raises(ssl.SSLError, match="no application protocol"):
        gate.raw(tls=authority.client_context(alpn=["smtp"]))


def test_curl_speaks_http2_over_tls(secure, authority):
    gate = secure(TELL)
    done = subprocess.run(["curl", "-sS", "--cacert", authority.cert, "--resolve", f"example.test:{gate.port}:127.0.0.1",
                           f"https://example.test:{gate.port}/", "-w", "\n%{http_version}"], capture_output=True,
                          text=True, timeout=20)

    assert done.stdout.endswith("\n2"), done.stderr


# ---- Sessions.

def resumed_at(gates_address, context, version, connections):
    """How many of so many connections resume the session of the first."""
    count, session, tickets = 0, None, set()
    for i in range(connections + 1):
        made = client.Client(gates_address, tls=context, session=session)
        assert made.get("/").status == 200
        count += made.sock.session_reused
        session = made.sock.session if version == ssl.TLSVersion.TLSv1_3 or i == 0 else session
        tickets.add(made.sock.session.id)
        made.close()
    # A ticket of TLS 1.3 is for one connection: each one brings another.
    assert version == ssl.TLSVersion.TLSv1_2 or len(tickets) == connections + 1
    return count


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_by_every_worker(secure, authority, version):
    gate = secure(OK, workers=4)

    assert resumed_at(gate.address, authority.client_context(version=version), version, 24) == 24


def test_a_worker_that_is_started_later_resumes_too(secure, authority):
    gate = secure(OK)
    context = authority.client_context(version=ssl.TLSVersion.TLSv1_2)
    first = gate.raw(tls=context)
    first.get("/")
    session = first.sock.session
    first.close()
    pid = gate.worker_pids()[0]

    os.kill(pid, signal.SIGKILL)
    gate.wait_log("a new one takes its place")
    wait_until(lambda: gate.worker_pids() not in ([], [pid]))
    again = gate.raw(tls=context, session=session)

    assert again.get("/").status == 200 and again.sock.session_reused


def test_stapled_answers_reach_the_client(secure, authority, site, tmp_path):
    index = tmp_path / "index.txt"
    serial = site.field("serial")
    index.write_text(f"V\t400101000000Z\t\t{serial}\tunknown\t/CN=example.test\n")
    asked, answer = tmp_path / "ocsp.req", tmp_path / "ocsp.der"
    openssl("ocsp", "-issuer", authority.cert, "-cert", site.cert, "-reqout", asked)
    openssl("ocsp", "-index", index, "-CA", authority.cert, "-rsigner", authority.cert, "-rkey", authority.key, "-reqin",
            asked, "-respout", answer, "-ndays", "1")
    gate = secure(OK, tls=f'ocsp = "{answer}"')

    shown = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{gate.port}", "-status", "-servername",
                            "example.test"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)

    assert "OCSP Response Status: successful" in shown.stdout and "Cert Status: good" in shown.stdout


# ---- Early data.

@pytest.fixture
def early(secure, tmp_path):
    """early(gate, request): the output of a client that resumes and sends this as early data."""
    def send(gate, text):
        session, asked = tmp_path / "session.pem", tmp_path / "request"
        asked.write_text(text)
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gate.port}", "-servername", "example.test", "-tls1_3",
                   "-ign_eof"]
        subprocess.run([*command, "-sess_out", session], input=b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                       capture_output=True, timeout=20, check=True)
        done = subprocess.run([*command, "-sess_in", session, "-early_data", asked], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=20)
        return done.stdout.decode("latin-1")
    return send


def test_early_data_is_refused_unless_it_is_allowed(secure, early):
    gate = secure(TELL)

    told = early(gate, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    assert "Early data was not sent" in told or "Early data was rejected" in told


def test_early_data_that_is_allowed_is_answered_and_the_origin_is_told(secure, early, origin):
    server = origin.answers(200, b"early bird")
    gate = secure(f'''gate.use {{ request = function(req) req.headers["x-early"] = tostring(req.tls.early) end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}''', tls="early_data = true")

    told = early(gate, "GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    assert "Early data was accepted" in told and told.count("early bird") == 1
    assert [(r["early-data"], r["x-early"]) for r in server.requests] == [(None, "false"), ("1", "true")]


def test_a_method_that_changes_something_is_too_early(secure, early, origin):
    server = origin.answers()
    gate = secure(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}',
                  tls="early_data = true")

    told = early(gate, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
                       "GET /later HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    assert "HTTP/1.1 425 Too Early" in told and "HTTP/1.1 200" in told
    assert [r.method for r in server.requests] == ["GET", "GET"]


def test_what_follows_early_data_is_not_early(secure, early, origin):
    """A body that is longer than early data may be, of which the rest comes behind the handshake."""
    gate = secure('gate.route { "/*", handler = function(req) return 200, #req:text() .. " bytes" end }',
                  tls="early_data = true")

    told = early(gate, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 15000\r\n\r\n" + "x" * 15000)

    assert "Early data was accepted" in told and "15000 bytes" in told


def test_clients_without_early_data_are_served_where_it_is_allowed(secure, authority):
    gate = secure(TELL, tls="early_data = true")
    context = authority.client_context(alpn=["h2", "http/1.1"])

    connection = Http2(gate.address, tls=context)
    gate.clients.append(connection)

    assert json(connection.get("/"))["http"] == "2"
    assert resumed_at(gate.address, authority.client_context(version=ssl.TLSVersion.TLSv1_2), ssl.TLSVersion.TLSv1_2, 2) == 2
    assert resumed_at(gate.address, authority.client_context(), ssl.TLSVersion.TLSv1_3, 3) == 3


# ---- Clients' certificates.

def test_a_clients_certificate_is_told(secure, authority):
    ada = authority.issue("email:ada@example.test", "ada.example.test", subject="/CN=Ada/O=Engines")
    gate = secure(TELL, tls=f'client_cert = "require", client_ca = "{authority.cert}"')

    told = json(gate.raw(tls=authority.client_context(certificate=ada)).get("/"))["cert"]

    assert told["verified"] is True and "problem" not in told
    assert told["subject"] == "O=Engines,CN=Ada" and told["issuer"] == "CN=Test Authority"
    assert told["fingerprint"] == ada.fingerprint()
    assert sorted(told["names"]) == ["DNS:ada.example.test", "email:ada@example.test"]
    assert int(told["serial"], 16) == int(ada.field("serial"), 16)
    assert told["not_before"] < told["not_after"]


def test_a_required_certificate_must_be_there_and_good(secure, authority, tmp_path):
    stranger = Authority(tmp_path / "stranger", "Stranger").issue("mallory.example")
    gate = secure(OK, tls=f'client_cert = "require", client_ca = "{authority.cert}"')

    for certificate in (None, stranger):
        with pytest.raises((ssl.SSLError, ConnectionError, client.Cut)):
            gate.raw(tls=authority.client_context(certificate=certificate)).get("/")
    gate.wait_log("client 127.0.0.1: the ")


def test_what_one_client_has_shown_is_not_told_of_the_next(secure, authority):
    ada = authority.issue("ada.example.test")
    gate = secure(TELL, tls=f'client_cert = "request", client_ca = "{authority.cert}"')

    with_it = json(gate.raw(tls=authority.client_context(certificate=ada)).get("/"))
    without = json(gate.raw(tls=authority.client_context()).get("/"))

    assert "cert" in with_it and "cert" not in without


def test_a_requested_certificate_may_be_missing_or_bad_and_the_script_knows(secure, authority, tmp_path):
    stranger = Authority(tmp_path / "stranger", "Stranger").issue("mallory.example")
    gate = secure(TELL, tls=f'client_cert = "request", client_ca = "{authority.cert}"')

    nobody = json(gate.raw(tls=authority.client_context()).get("/"))
    mallory = json(gate.raw(tls=authority.client_context(certificate=stranger)).get("/"))["cert"]

    assert "cert" not in nobody
    assert mallory["verified"] is False and mallory["problem"] == "unable to verify the first certificate"


def test_a_resumed_session_still_knows_the_clients_certificate(secure, authority):
    ada = authority.issue("ada.example.test")
    gate = secure(TELL, tls=f'client_cert = "require", client_ca = "{authority.cert}"')
    context = authority.client_context(certificate=ada, version=ssl.TLSVersion.TLSv1_2)
    first = gate.raw(tls=context)
    first.get("/")

    told = json(gate.raw(tls=context, session=first.sock.session).get("/"))

    assert told["resumed"] is True and told["cert"]["verified"] is True
    assert told["cert"]["fingerprint"] == ada.fingerprint()


def test_the_log_phase_knows_the_handshake_after_the_client_has_left(secure, authority, origin):
    slow = origin.hangs()
    gate = secure(f"""gate.use {{ log = function(req) gate.log.info("tls of " .. req.tls.version) end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{slow}" }} }}) }}""")
    client = gate.raw(tls=authority.client_context())

    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    slow.wait_seen(1)
    client.close()

    gate.wait_log("tls of 1.3")


# ---- What goes wrong.

def test_a_handshake_that_does_not_come_ends_in_time(secure):
    gate = secure(OK, set="handshake_timeout = 0.2")

    with socket.create_connection(gate.address, 10) as sock:
        sock.settimeout(10)
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass
    gate.wait_log("did not end within handshake_timeout")


def test_clear_text_to_a_tls_port_is_closed_and_told(secure):
    gate = secure(OK)

    with socket.create_connection(gate.address, 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        try:
            while sock.recv(4096):
                pass
        except ConnectionResetError:
            pass
    gate.wait_log("client 127.0.0.1: the TLS handshake failed: http request")


def test_a_client_that_leaves_in_the_handshake_leaves_nothing(secure, authority):
    gate = secure(OK)
    hello = ssl.MemoryBIO()
    sealed = authority.client_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="example.test")
    with pytest.raises(ssl.SSLWantReadError):
        sealed.do_handshake()
    first = hello.read()

    for length in (1, 5, len(first) // 2, len(first)):
        with socket.create_connection(gate.address) as sock:
            sock.sendall(first[:length])

    gate.wait_total("connections", 0)


def refuses(address):
    with socket.socket() as sock:
        return sock.connect_ex(address) != 0


def test_a_drain_answers_what_is_in_progress_and_says_goodbye(secure, authority, origin):
    slow = origin.holds(b"late")
    gate = secure(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{slow}" }} }}) }}')
    client = gate.raw(tls=authority.client_context())
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    slow.wait_seen(1)

    gate.signal(signal.SIGQUIT)
    wait_until(lambda: refuses(gate.address))
    slow.go.set()

    answer = client.response()
    assert (answer.status, answer.body, answer["connection"]) == (200, b"late", "close")
    assert client.sock.recv(1) == b"", "a goodbye, not a cut"
    assert gate.wait_exit() == 0


def check(tmp_path, tls, listen=""):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.listen {{ "127.0.0.1:1", tls = {{ {tls} }}, {listen} }}\n{OK}\n')
    return run("check", script)


@pytest.mark.parametrize("tls, told", [
    ("", 'a certificate is needed'),
    ('cert = "/nowhere.pem"', r'certificate "/nowhere.pem" can\'t be read: No such file or directory'),
    ("$CERT, key = '/nowhere.key'", r'key "/nowhere.key" can\'t be read'),
    ("$CERT, key = '$OTHER_KEY'", r'key ".*" does not belong to certificate ".*"'),
    ("$CERT, key = '$CERT_PATH'", r'key ".*": no private key could be read from it'),
    ("cert = '$KEY_PATH', key = '$KEY_PATH'", r'certificate ".*": no certificate is in it'),
    ("$PAIR, ocsp = '$CERT_PATH'", "it is not an OCSP response"),
    ("$PAIR, client_cert = 'require'", "client_cert needs client_ca"),
    ("$PAIR, client_cert = 'require', client_ca = '$KEY_PATH'", "no certificate is in it"),
    ("$PAIR, ciphers = 'NONSENSE'", 'ciphers: "NONSENSE" names no cipher'),
    ("$PAIR, groups = 'NONSENSE'", 'groups: "NONSENSE" has a group that OpenSSL does not know'),
    ("$PAIR, min_version = '1.1'", 'min_version must be "1.2" or "1.3"'),
    ("$PAIR, min_version = '1.3', max_version = '1.2'", "min_version is above max_version"),
    ("$PAIR, certificate = 'x'", 'unknown key "certificate"'),
    ("$PAIR, certificates = { { cert = '/nowhere.pem' } }", "/nowhere.pem"),
])
def test_what_is_wrong_with_a_certificate_is_told_by_its_name(tmp_path, authority, site, tls, told):
    other = authority.issue("other.example")
    for name, value in (("$PAIR", site.lua), ("$CERT_PATH", site.cert), ("$KEY_PATH", site.key),
                        ("$OTHER_KEY", other.key), ("$CERT", f'cert = "{site.cert}"')):
        tls = tls.replace(name, str(value))

    done = check(tmp_path, tls)

    assert done.returncode == 1
    assert re.search(r"gateway.lua:2: gate.listen: tls: .*" + told, done.stderr), done.stderr


def test_an_encrypted_key_is_told_with_its_remedy(tmp_path, site):
    locked = tmp_path / "locked.key"
    openssl("pkey", "-in", site.key, "-aes256", "-passout", "pass:secret", "-out", locked)

    done = check(tmp_path, f'cert = "{site.cert}", key = "{locked}"')

    assert done.returncode == 1 and "it is encrypted; decrypt it with openssl pkey" in done.stderr


def test_an_expired_certificate_is_warned_of(tmp_path, authority):
    old = authority.issue("old.example", days=-1)

    done = check(tmp_path, old.lua)

    assert done.returncode == 0 and re.search(r'warn .*certificate ".*" has expired', done.stderr)

"""TLS and reload: certificates come with their generation, sessions and connections outlive it."""
import hashlib
import socket
import ssl

import pytest

SCRIPT = 'gate.route { "/*", handler = function(req) return 200, tostring(req.tls.resumed) end }'


@pytest.fixture
def mutable(authority, tmp_path):
    """A certificate in files of its own, and a function that puts others in their place."""
    cert, key = tmp_path / "site.pem", tmp_path / "site.key"

    def put(made, key_of=None):
        cert.write_text(made.cert.read_text())
        key.write_text((key_of or made).key.read_text())
        return made
    put.lua, put.cert, put.key = f'cert = "{cert}", key = "{key}"', cert, key
    return put


def shown(gate, context):
    with socket.create_connection(gate.address) as sock, context.wrap_socket(sock, server_hostname="example.test") as tls:
        return hashlib.sha256(tls.getpeercert(True)).hexdigest()


def test_a_new_certificate_is_shown_after_a_reload_and_open_connections_go_on(moongate, authority, mutable):
    first, context = mutable(authority.issue("example.test")), authority.client_context()
    gate = moongate(SCRIPT, listen=f"tls = {{ {mutable.lua} }}", workers=2)
    kept = gate.raw(tls=context)
    assert kept.get("/").status == 200 and shown(gate, context) == first.fingerprint()

    second = mutable(authority.issue("example.test", kind="rsa"))
    assert shown(gate, context) == first.fingerprint(), "files are read when the script is"
    assert "error" not in gate.command("reload")

    assert {shown(gate, context) for _ in range(6)} == {second.fingerprint()}
    assert kept.get("/").status == 200


def test_a_bad_pair_refuses_the_reload_by_its_name(moongate, authority, mutable):
    first, context = mutable(authority.issue("example.test")), authority.client_context()
    gate = moongate(SCRIPT, listen=f"tls = {{ {mutable.lua} }}")
    gate.expect_error("nothing has changed")

    mutable(authority.issue("example.test"), key_of=first)
    answer = gate.command("reload")

    assert f'key "{mutable.key}" does not belong to certificate "{mutable.cert}"' in answer["error"]
    assert shown(gate, context) == first.fingerprint()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_after_a_reload(moongate, authority, site, version):
    context = authority.client_context(version=version)
    gate = moongate(SCRIPT, listen=f"tls = {{ {site.lua} }}", workers=2)
    first = gate.raw(tls=context)
    assert first.get("/").body == b"false"

    assert "error" not in gate.command("reload")

    assert gate.raw(tls=context, session=first.sock.session).get("/").body == b"true"


def test_connections_to_origins_are_kept_over_a_reload(moongate, origin, authority, site):
    server = origin.answers(tls=authority.server_context(site))
    gate = moongate(f"""gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }},
        tls = {{ ca = "{authority.cert}" }} }}) }}""")
    assert gate.get("/").status == 200

    assert "error" not in gate.command("reload")

    assert gate.get("/").status == 200
    assert len(server.connections) == 1

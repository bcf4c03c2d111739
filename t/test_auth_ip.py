"""auth.ip: who may pass by the network that they come from."""
import socket

import pytest

import moongate as moongate_module
from moongate import ROOT

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '


@pytest.fixture
def passes(moongate):
    """passes(options, address): the status that a client with this address (in a field) gets."""
    def start(options):
        gate = moongate(f"""{HERE}
            gate.route {{ "/*", handler = function() return 200 end,
                policies = {{ require "auth.ip" {{ {options}, by = function(req) return req.headers["x-from"] end }} }} }}
        """)
        return lambda address: gate.get("/", f"X-From: {address}").status
    return start


def test_the_longest_network_decides(passes):
    status = passes('allow = { "10.0.0.0/8", "10.66.1.1", "2001:db8::/32" }, deny = { "10.66.0.0/16", "2001:db8::/48" }')

    assert [status(address) for address in ("10.1.1.1", "10.66.1.1", "2001:db8:1::1", "::ffff:10.1.1.1")] == [200] * 4
    assert [status(address) for address in ("10.66.1.2", "11.0.0.1", "2001:db8::1", "::1", "nonsense")] == [403] * 5


def test_who_is_in_no_network_passes_if_nothing_is_allowed_by_name(passes):
    status = passes('deny = { "192.0.2.0/24" }, status = 404')

    assert [status(address) for address in ("192.0.2.9", "192.0.3.9", "::1")] == [404, 200, 200]


def test_it_goes_by_the_connection(moongate, tmp_path):
    script = f"""{HERE}
        gate.listen "unix:{tmp_path}/gate.sock"
        gate.route {{ "/*", handler = function() return 200 end,
            policies = {{ require "auth.ip" {{ allow = {{ "127.0.0.0/8" }}, deny = {{ "unix" }} }} }} }}
    """
    gate = moongate(script)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/gate.sock")
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = sock.recv(4096)

    assert gate.get("/").status == 200
    assert answer.startswith(b"HTTP/1.1 403 ")


def test_it_may_close_connections_as_they_come(moongate):
    gate = moongate(f"""{HERE}
        gate.use(require "auth.ip" {{ deny = {{ "127.0.0.1" }}, close = true }})
        gate.route {{ "/*", handler = function() return 200 end }}
    """)
    client = gate.raw()

    assert client.ended() in (True, b"", None)


@pytest.mark.parametrize("options, says", [
    ('allow = { "10.0.0.0/33" }', '"10.0.0.0/33" is not a network'),
    ('allow = { "10.0.0.1/8" }', '"10.0.0.1/8" has bits beyond its length'),
    ('allow = { "::1" }, deny = { "::1" }', '"::1" stands there already, with another value'),
    ('allow = "10.0.0.0/8"', "auth.ip: allow must be a list of networks"),
    ('alow = {}', 'did you mean "allow"?'),
])
def test_networks_that_can_not_be_meant_refuse_the_script(tmp_path, options, says):
    script = tmp_path / "gateway.lua"
    script.write_text(f'{HERE}local gate = require "moongate"\ngate.listen ":1"\nrequire "auth.ip" {{ {options} }}\n')

    done = moongate_module.run("check", script.name, cwd=tmp_path)

    assert done.returncode == 1 and "gateway.lua:3: " in done.stderr and says in done.stderr, done.stderr

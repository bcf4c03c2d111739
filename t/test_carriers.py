"""The table of phases once more, over each protocol that carries an exchange: phases must not learn which it is."""
import ssl

import pytest

from client import Client, Cut
from h2wire import Http2, get
from phases import PHASES, peers_of, script

SECURE = {"h1 over TLS", "h2 over TLS"}
FAILURES = (Cut, ConnectionError, ssl.SSLError)

each = pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES.keys())
over = pytest.mark.parametrize("carrier", ["h1", "h1 over TLS", "h2", "h2 over TLS"])
to = pytest.mark.parametrize("served", ["h1", "h2", "h1 over TLS", "h2 over TLS"])


@pytest.fixture
def stage(moongate, origin, h2_origin, authority, site):
    """stage(phase, deed, carrier, served): a gateway, and a function that asks it as that carrier does."""
    def start(phase, deed, carrier, served):
        secure = served in SECURE
        tls = authority.server_context(site, alpn=[served[:2].replace("h1", "http/1.1")]) if secure else None

        def make(body):
            if served.startswith("h2"):
                return h2_origin(lambda connection, asked: connection.answer(asked, 200, body), tls=tls)
            return origin.answers(200, body, tls=tls)
        peers = peers_of(phase, make(b"origin"), make(b"second"), origin.refuses())
        upstream = (f'tls = {{ ca = "{authority.cert}" }}, ' if secure else "") + \
            ('protocol = "h2", ' if served.startswith("h2") else "")
        gate = moongate(script(phase, deed, peers, upstream=upstream),
                        listen=f"tls = {{ {site.lua} }}" if carrier in SECURE else "")
        return gate, lambda: ask(gate, phase, carrier, authority)
    return start


def ask(gate, phase, carrier, authority):
    """Status and body; None for what ends before it is whole."""
    http2 = carrier.startswith("h2")
    context = authority.client_context(alpn=["h2"] if http2 else ["http/1.1"]) if carrier in SECURE else None
    body = b"some" if phase.method == "POST" else None
    try:
        connection = (Http2 if http2 else Client)(gate.address, tls=context)
    except FAILURES:
        return None
    gate.clients.append(connection)
    try:
        if not http2:
            reply = connection.request(phase.method, "/", body=body)
        else:
            reply = connection.response(connection.request(get(method=phase.method), body))
            if reply.reset is not None:
                return None
        return reply.status, reply.body
    except FAILURES:
        return None


def as_usual(reply, phase):
    return reply[0] == phase.status and (phase.body is None or reply[1] == phase.body)


@to
@over
@each
def test_a_hook_may_wait_and_the_exchange_ends_as_usual(stage, phase, carrier, served):
    gate, asks = stage(phase, f'gate.sleep(0.002); gate.log.info("{phase.name} went on")', carrier, served)

    assert as_usual(asks(), phase)
    gate.wait_log(f"{phase.name} went on")


@over
@each
def test_what_a_hook_returns_is_heeded(stage, phase, carrier):
    gate, asks = stage(phase, phase.answer, carrier, "h2")

    reply = asks()

    if phase.answered is None:
        assert reply is None
    else:
        status, body = phase.answered
        assert reply[0] == status and (body is None or reply[1] == body)


@over
@each
def test_a_hook_that_throws_ends_its_exchange(stage, phase, carrier):
    gate, asks = stage(phase, f'error("thrown in {phase.name}")', carrier, "h2")
    gate.expect_error(f"thrown in {phase.name}")

    reply = asks()

    if phase.thrown == 0:
        assert reply is None
    else:
        assert reply[0] == (phase.thrown or phase.status)
    gate.wait_log(f"thrown in {phase.name}")

"""auth.introspection and auth.forward: services that decide, asked once for many, and away."""
import base64
import concurrent.futures
import json
import time
from urllib.parse import parse_qs

import pytest

from moongate import ROOT, wait_until
from tokens import bearer

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '


@pytest.fixture
def policy(moongate, origin):
    """policy(text): a gateway whose one route has this policy."""
    def start(text, **options):
        start.origin = origin.answers(200, b"ok")
        return moongate(f"""{HERE}
            gate.route {{ "/*", policies = {{ {text} }},
                upstream = gate.upstream("app", {{ peers = {{ "{start.origin}" }} }}) }}
        """, **options)
    return start


class Issuer:
    """Answers what `tokens` says of a token, and counts."""

    def __init__(self, origin):
        self.tokens, self.away, self.delay = {}, False, 0
        self.server = origin.answers(self.answer)

    def answer(self, request):
        time.sleep(self.delay)
        if self.away:
            return 503, b"", ()
        said = self.tokens.get(parse_qs(request.body.decode())["token"][0], {"active": False})
        return 200, json.dumps(said).encode(), ["Content-Type: application/json"]

    def lua(self, more="", client='client_id = "gate way", client_secret = "s:/ecret"'):
        return f'require "auth.introspection" {{ url = "http://{self.server}/introspect", {client}, {more} }}'


@pytest.fixture
def issuer(origin):
    return Issuer(origin)


def test_the_issuer_decides_and_the_origin_is_told_who(policy, issuer):
    issuer.tokens = {"good/1": {"active": True, "sub": "carol", "scope": "read", "aud": "anyone", "exp": time.time() + 60}}
    gate = policy(issuer.lua('scope = "read"'))

    statuses = [gate.get("/").status, gate.get("/", bearer("bad")).status, gate.get("/", bearer("good/1"), "X-User: root").status]

    assert statuses == [401, 401, 200] and policy.origin.last.fields.all("x-user") == ["carol"]
    asked = issuer.server.last
    assert (asked.method, asked.target, asked["content-type"]) == ("POST", "/introspect", "application/x-www-form-urlencoded")
    assert asked.body == b"token_type_hint=access_token&token=good%2F1"
    assert base64.b64decode(asked["authorization"].partition(" ")[2]) == b"gate%20way:s%3A%2Fecret"


def test_it_may_say_who_asks_in_the_body_or_by_a_token(policy, issuer):
    by_body = policy(issuer.lua('by = "post"'))
    by_body.get("/", bearer("x"))
    assert parse_qs(issuer.server.last.body.decode())["client_secret"] == ["s:/ecret"]
    assert "authorization" not in issuer.server.last.fields

    by_token = policy(issuer.lua(client='token = "t0k"'))
    by_token.get("/", bearer("x"))

    assert issuer.server.last["authorization"] == "Bearer t0k"


def test_what_it_says_is_remembered_but_no_longer_than_the_token_lives(policy, issuer):
    issuer.tokens = {"long": {"active": True, "sub": "a"}, "brief": {"active": True, "sub": "b", "exp": time.time() + 1}}
    gate = policy(issuer.lua("remember = 60, remember_bad = 60"))

    statuses = [gate.get("/", bearer(token)).status for token in ["long", "brief", "bad"] * 5]

    assert statuses == [200, 200, 401] * 5 and issuer.server.seen == 3
    wait_until(lambda: gate.get("/", bearer("brief")).status == 401)
    assert gate.get("/", bearer("long")).status == 200 and issuer.server.seen == 4


def test_a_revoked_token_passes_no_longer_than_it_is_remembered(policy, issuer):
    issuer.tokens = {"t": {"active": True, "sub": "a"}}
    gate = policy(issuer.lua("remember = 0.3"))
    assert gate.get("/", bearer("t")).status == 200

    issuer.tokens = {}

    wait_until(lambda: gate.get("/", bearer("t")).status == 401, patience=2)


def test_many_with_one_token_ask_once(policy, issuer):
    issuer.tokens, issuer.delay = {"t": {"active": True, "sub": "a"}}, 0.2
    gate = policy(issuer.lua("remember = 0"))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda _: gate.get("/", bearer("t")).status, range(6)))

    assert statuses == [200] * 6 and issuer.server.seen < 4


def test_when_nobody_can_tell_it_is_503_but_for_what_is_remembered(policy, issuer):
    issuer.tokens = {"t": {"active": True, "sub": "a"}}
    gate = policy(issuer.lua())
    assert gate.get("/", bearer("t")).status == 200

    issuer.away = True

    assert gate.get("/", bearer("u")).status == 503 and gate.get("/", bearer("t")).status == 200
    gate.wait_log("can't tell: it answers with 503")


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"active":"true"}', b'{"active":1}', b"<html>"])
def test_an_answer_that_says_nothing_clear_lets_nobody_pass(policy, origin, answer):
    server = origin.answers(200, answer)
    gate = policy(f'require "auth.introspection" {{ url = "http://{server}/", token = "x" }}')

    assert gate.get("/", bearer("t")).status == 503 and policy.origin.seen == 0


def test_audience_issuer_times_and_fields_are_looked_at(policy, issuer):
    good = {"active": True, "sub": "a", "aud": ["api"], "iss": "https://id.test"}
    issuer.tokens = {"good": good, "aud": {**good, "aud": "other"}, "no-aud": {"active": True}, "iss": {**good, "iss": "x"},
                     "exp": {**good, "exp": 1}, "odd": {**good, "exp": "soon"}, "nbf": {**good, "nbf": time.time() + 60},
                     "break": {**good, "sub": "a\r\nx: y"}}
    gate = policy(issuer.lua('audience = "api", issuer = "https://id.test"'))

    statuses = {name: gate.get("/", bearer(name)).status for name in issuer.tokens}

    assert statuses == {name: 200 if name == "good" else 401 for name in issuer.tokens}


# ---- auth.forward

def test_auth_forward_lets_another_service_decide(policy, origin):
    def decide(request):
        if request["cookie"] == "who=dora":
            return 200, b"", ["X-User: dora", "X-Other: no", "Set-Cookie: seen=1", "Set-Cookie: again=2"]
        return 302, b"log in\n", ["Location: /login", "Set-Cookie: state=7", "X-Reason: nobody"]
    decider = origin.answers(decide)
    gate = policy(f'require "auth.forward" {{ url = "http://{decider}/check", copy = {{ "x-user", "x-groups" }}, cookies = true }}')

    sent_away = gate.request("POST", "/page?x=1", "Content-Type: text/odd", "Forwarded: for=1.2.3.4", "Range: bytes=0-1",
                             "X-Forwarded-Uri: /fake", body=b"data")
    passed = gate.get("/page", "Cookie: who=dora", "X-User: root", "X-Groups: admin")

    assert (sent_away.status, sent_away["Location"], sent_away["X-Reason"], sent_away.body) == (302, "/login", "nobody", b"log in\n")
    assert sent_away["Set-Cookie"] == "state=7"
    asked = decider.requests[0]
    assert (asked.method, asked.target, asked.body) == ("GET", "/check", b"")
    assert (asked["x-forwarded-method"], asked["x-forwarded-uri"], asked["x-forwarded-proto"]) == ("POST", "/page?x=1", "http")
    assert asked["x-forwarded-host"] == "example.test" and asked["x-original-url"] == "http://example.test/page?x=1"
    assert asked["content-type"] == "text/odd" and asked["x-forwarded-for"] == "127.0.0.1"
    assert "range" not in asked.fields and "forwarded" not in asked.fields
    assert passed.status == 200 and passed.fields.all("set-cookie") == ["seen=1", "again=2"]
    assert policy.origin.last.fields.all("x-user") == ["dora"]
    assert "x-other" not in policy.origin.last.fields and "x-groups" not in policy.origin.last.fields
    assert policy.origin.seen == 1


def test_auth_forward_may_send_some_fields_only_and_is_503_without_an_answer(policy, origin):
    decider = origin.answers(204)
    gate = policy(f'require "auth.forward" {{ url = "http://{decider}/", send = "cookie" }}')

    assert gate.get("/", "Cookie: a=b", "Authorization: Basic eA==").status == 200
    assert decider.last["cookie"] == "a=b" and "authorization" not in decider.last.fields

    away = policy(f'require "auth.forward" {{ url = "http://{origin.refuses()}/" }}')
    assert away.get("/").status == 503 and policy.origin.seen == 0

"""auth.jwt: tokens that python3-jwt signs, those that must be refused, and the issuer's keys as they come and go."""
import concurrent.futures
import hashlib
import hmac
import json
import random
import time

import pytest

import tokens
from moongate import ROOT, wait_until
from tokens import bearer, claims, forge, jwk, pem, private, sign

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '
RFC_CONFUSED = "HS256 with the public key as its secret"


@pytest.fixture
def policy(moongate, origin):
    """policy(options): a gateway whose route has auth.jwt with these options."""
    def start(options, **more):
        start.origin = origin.answers(200, b"ok")
        return moongate(f"""{HERE}
            gate.route {{ "/*", policies = {{ require "auth.jwt" {{ {options} }} }},
                upstream = gate.upstream("app", {{ peers = {{ "{start.origin}" }} }}) }}
        """, **more)
    return start


def keys(*kinds, number=0):
    """The option `keys` with the public JWKs of these kinds, each named by its kind."""
    return "keys = " + tokens.lua([jwk(private(kind, number), kind) for kind in kinds])


class Issuer:
    """Serves a JWKS, which a test may change; `away` makes it answer 500."""

    def __init__(self, origin, *shown):
        self.shown, self.away = list(shown), False
        self.server = origin.answers(self.answer)
        self.lua = f'jwks = "http://{self.server}/keys", issuer = "https://id.test"'

    def answer(self, _):
        if self.away:
            return 500, b"", ()
        return 200, json.dumps({"keys": self.shown}).encode(), ["Content-Type: application/json"]


# ---- What passes.

def test_tokens_of_every_algorithm_pass_and_say_to_the_origin_who_it_is(policy):
    gate = policy(keys("rsa", "P-256", "P-384", "P-521", "ed25519")[:-2] + ', { secret = "%s", kid = "hs" } }'
                  % tokens.SECRET.decode())
    signed = [sign(private(kind), algorithm, {"kid": kind}) for algorithm, kind in tokens.KEYS.items()]
    signed += [sign(tokens.SECRET, algorithm, {"kid": "hs"}) for algorithm in ("HS256", "HS384", "HS512")]

    answers = [gate.get("/", bearer(token), "X-User: root") for token in signed]

    assert [answer.status for answer in answers] == [200] * 13
    assert all(seen.fields.all("x-user") == ["alice"] for seen in policy.origin.requests)


def test_a_key_may_be_pem_or_a_file_and_a_token_need_not_name_it(policy, tmp_path):
    file = tmp_path / "key.pem"
    file.write_text(pem(private("rsa")))
    gate = policy(f'keys = {{ "{file}", [[{pem(private("P-256"))}]] }}')

    assert gate.get("/", bearer(sign(private("rsa"), "PS256"))).status == 200
    assert gate.get("/", bearer(sign(private("P-256"), "ES256"))).status == 200
    assert gate.get("/", bearer(sign(private("P-256"), "ES256", {"kid": "whatever"}))).status == 200
    assert gate.get("/", bearer(sign(private("P-256", 1), "ES256"))).status == 401


def test_claims_become_fields_and_what_the_client_claims_does_not(policy):
    gate = policy(keys("P-256") + ', fields = { ["x-user"] = "sub", ["x-groups"] = "groups", ["x-mail"] = "email" }')

    gate.get("/", bearer(sign(private("P-256"), groups=["a", "b"])), "X-Mail: root@example.com", "X-User: root")

    seen = policy.origin.last.fields
    assert (seen.all("x-user"), seen.all("x-groups"), seen.all("x-mail")) == (["alice"], ["a,b"], [])


def test_a_claim_that_would_break_a_field_is_refused(policy):
    gate = policy(keys("P-256"))

    assert gate.get("/", bearer(sign(private("P-256"), sub="a\r\nX-Admin: 1"))).status == 401


def test_it_may_come_in_a_cookie_or_not_at_all(policy):
    gate = policy(keys("P-256") + ', cookie = "token", optional = true')
    token = sign(private("P-256"))

    statuses = [gate.get("/", f"Cookie: a=b; token={token}").status, gate.get("/", "X-User: root").status,
                gate.get("/", f"Cookie: token={token}x").status, gate.get("/", bearer("nonsense")).status]

    assert statuses == [200, 200, 401, 401]
    assert [seen["x-user"] for seen in policy.origin.requests] == ["alice", None]


def test_scopes_and_checks_of_ones_own_refuse_with_403(policy):
    gate = policy(keys("P-256") + """, scope = "read write", check = function(claims, req)
        return claims.tenant == req.host end""")

    def status(**said):
        return gate.get("/", bearer(sign(private("P-256"), tenant=said.pop("tenant", "example.test"), **said)))
    narrow = status(scope="read")

    assert [status(scope="read write more").status, status(scp=["write", "read"]).status] == [200, 200]
    assert (narrow.status, status().status, status(scope="read write", tenant="other").status) == (403, 403, 403)
    assert 'error="insufficient_scope"' in narrow["WWW-Authenticate"] and 'scope="read write"' in narrow["WWW-Authenticate"]


def test_hooks_after_it_see_the_claims(moongate):
    gate = moongate(f"""{HERE}
        gate.route {{ "/", policies = {{ require "auth.jwt" {{ {keys("P-256")} }} }},
            handler = function(req) return 200, req.ctx.claims end }}
    """)
    token = sign(private("P-256"), deep={"a": [1]})

    assert [json.loads(gate.get("/", bearer(token)).body)["deep"] for _ in range(2)] == [{"a": [1]}] * 2


def test_what_counts_as_a_bearer_token(moongate):
    gate = moongate('gate.route { "/", handler = function(req) return 200, req:bearer() or "none" end }')
    fields = {"Bearer a.b-c_d~e+f/g==": b"a.b-c_d~e+f/g==", "BEARER   x": b"x", "bearer x \t ": b"x", "Bearer": b"none",
              "Bearer ": b"none", "Bearer =": b"none", "Bearer a b": b"none", "Bearer a=b": b"none", "Bearer\tx": b"none",
              "Bearerx": b"none", "Basic x": b"none", "Bearer \xe4": b"none"}

    assert {field: gate.get("/", f"Authorization: {field}").body for field in fields} == fields


# ---- What is refused.

def tampered(token):
    head, said, signature = token.split(".")
    return f"{head}.{tokens.text(json.dumps(claims(sub='root')).encode())}.{signature}"


def confused(material):
    """Signed by HMAC, with what everybody knows as the secret."""
    signed = forge({"alg": "HS256", "kid": "rsa"}, claims()).rpartition(".")[0]
    return signed + "." + tokens.text(hmac.new(material, signed.encode(), hashlib.sha256).digest())


def in_der(token):
    """The same signature as TLS would write it."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    signed, _, signature = token.rpartition(".")
    raw = tokens.base64.urlsafe_b64decode(signature + "==")
    return f"{signed}.{tokens.text(encode_dss_signature(int.from_bytes(raw[:32], 'big'), int.from_bytes(raw[32:], 'big')))}"


def own_key():
    key = private("P-256", 9)
    return sign(key, "ES256", {"jwk": jwk(key), "jku": "http://127.0.0.1:1/keys", "x5c": []})


now = time.time
REFUSED = {
    "no token": (lambda: "", "a token is needed"),
    "words": (lambda: "not.a.token", "it is malformed"),
    "two parts": (lambda: "e30.e30", "it is not a signed token"),
    "five parts": (lambda: "e30.e30.e30.e30.e30", "it is not a signed token"),
    "no JSON": (lambda: forge(b"{", claims(), b"x"), "it is malformed"),
    "a list for a head": (lambda: forge(b"[]", claims(), b"x"), "it is malformed"),
    "a list for claims": (lambda: forge({"alg": "ES256"}, b"[]", b"x"), "it is malformed"),
    "none": (lambda: forge({"alg": "none"}, claims(), b"x"), "its algorithm is not allowed"),
    "None": (lambda: forge({"alg": "None"}, claims(), b"x"), "its algorithm is not allowed"),
    "none without a signature": (lambda: forge({"alg": "none"}, claims()), "it is not a signed token"),
    "no algorithm": (lambda: forge({}, claims(), b"x"), "its algorithm is not allowed"),
    "an algorithm that is no text": (lambda: forge({"alg": 7}, claims(), b"x"), "its algorithm is not allowed"),
    RFC_CONFUSED: (lambda: confused(pem(private("rsa")).encode()), "no key is known"),
    "a wrong signature": (lambda: sign(private("P-256", 1), head={"kid": "P-256"}), "its signature is wrong"),
    "other claims": (lambda: tampered(sign(private("P-256"))), "its signature is wrong"),
    "another key's id": (lambda: sign(private("P-256"), head={"kid": "rsa"}), "no key is known"),
    "a kid that is no text": (lambda: forge({"alg": "ES256", "kid": {"a": 1}}, claims(), b"x"), "its kid is no string"),
    "numbers that are zero": (lambda: forge({"alg": "ES256"}, claims(), bytes(64)), "its signature is wrong"),
    "a signature in DER": (lambda: in_der(sign(private("P-256"))), "its signature is wrong"),
    "half a signature": (lambda: sign(private("P-256"))[:-43], "its signature is wrong"),
    "a key that it brings": (own_key, "its signature is wrong"),
    "an extension": (lambda: sign(private("P-256"), head={"crit": ["exp"], "exp": 1}), "it wants an extension"),
    "expired": (lambda: sign(private("P-256"), exp=now() - 31), "it has expired"),
    "no end": (lambda: sign(private("P-256"), exp=None), "it has no exp"),
    "an end that is null": (lambda: sign_raw({"exp": None}), "it has no exp"),
    "an end that is text": (lambda: sign_raw({"exp": "2099-01-01"}), "its times are no numbers"),
    "too early": (lambda: sign(private("P-256"), nbf=now() + 60), "it is not valid yet"),
    "another issuer": (lambda: sign(private("P-256"), iss="https://id.test.evil"), "it is of another issuer"),
    "no issuer": (lambda: sign(private("P-256"), iss=None), "it is of another issuer"),
    "another audience": (lambda: sign(private("P-256"), aud="https://other.test"), "it is for another audience"),
    "an audience among many": (lambda: sign(private("P-256"), aud=["a", "b"]), "it is for another audience"),
    "too long": (lambda: sign(private("P-256"), padding="x" * 7000), "it is too long"),
}


def sign_raw(said):
    """Claims that python3-jwt would refuse to write."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    signed = forge({"alg": "ES256"}, {**claims(), **said}).rpartition(".")[0]
    r, s = decode_dss_signature(private("P-256").sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{tokens.text(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def test_bad_tokens_are_refused_each_with_its_reason(policy):
    gate = policy(keys("rsa", "P-256") + ', issuer = "https://id.test"')
    assert gate.get("/", bearer(sign(private("P-256")))).status == 200

    for name, (make, says) in REFUSED.items():
        token = make()
        answer = gate.get("/", *([bearer(token)] if token else []))
        assert answer.status == 401 and says in answer.body.decode(), (name, answer, answer.body)
        assert answer["WWW-Authenticate"].startswith('Bearer realm="api"'), name
        assert ('error="invalid_token"' in answer["WWW-Authenticate"]) == bool(token), name
    assert policy.origin.seen == 1


def test_a_public_key_is_no_secret_in_whatever_form_it_was_given(policy):
    public = pem(private("rsa"))
    gate = policy(f"keys = {{ [[{public}]] }}")
    raw = tokens.base64.b64decode("".join(public.splitlines()[1:-1]))

    for material in (public.encode(), public.strip().encode(), raw, json.dumps(jwk(private("rsa"))).encode()):
        assert gate.get("/", bearer(confused(material))).status == 401


def test_an_algorithm_that_is_not_in_the_list_or_not_the_keys_own_is_refused(policy):
    gate = policy("keys = " + tokens.lua([jwk(private("rsa"), "a", alg="RS256"), jwk(private("P-256"), "b")])
                  + ', algorithms = { "RS256", "PS256" }')

    def status(kind, algorithm, kid):
        return gate.get("/", bearer(sign(private(kind), algorithm, {"kid": kid}))).status

    assert (status("rsa", "RS256", "a"), status("rsa", "PS256", "a"), status("P-256", "ES256", "b")) == (200, 401, 401)


def test_audience_type_and_required_claims(policy):
    gate = policy(keys("P-256") + ', audience = { "api", "web" }, types = "at+jwt", required = "exp, tenant"')

    def status(head=None, **said):
        return gate.get("/", bearer(sign(private("P-256"), "ES256", {"typ": "at+jwt", **(head or {})}, **said))).status

    assert status(aud="web", tenant="t") == status(aud=["x", "api"], tenant="t") == 200
    assert status({"typ": "application/AT+JWT"}, aud="web", tenant="t") == 200
    assert [status(aud="web"), status(tenant="t"), status({"typ": "JWT"}, aud="web", tenant="t"),
            status(aud={"web": 1}, tenant="t")] == [401] * 4


def test_what_a_worker_remembers_expires_with_the_token(policy):
    gate = policy(keys("P-256") + ", leeway = 0, cache = 2")
    brief, other, third = (sign(private("P-256"), sub=name, exp=time.time() + 2) for name in "abc")

    assert [gate.get("/", bearer(token)).status for token in (brief, other, third, brief, brief)] == [200] * 5
    wait_until(lambda: gate.get("/", bearer(brief)).status == 401)
    assert "it has expired" in gate.get("/", bearer(brief)).body.decode()


def test_mutated_tokens_do_no_harm(policy):
    gate = policy(keys("P-256", "rsa"))
    chance, client = random.Random(13), gate.raw()
    good = sign(private("P-256"), "ES256", {"kid": "P-256"}, deep={"a": [1, None]})
    signature = good.rpartition(".")[2]
    assert client.get("/", bearer(good)).status == 200

    for _ in range(400):
        parts = [bytearray(tokens.base64.urlsafe_b64decode(part + "===")) for part in good.split(".")[:2]]
        part = chance.choice(parts)
        at = chance.randrange(len(part))
        part[at:at + chance.randint(0, 3)] = chance.choice([b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"1e9", b"\\u", b"\xff"])
        token = f"{tokens.text(bytes(parts[0]))}.{tokens.text(bytes(parts[1]))}.{signature}"
        assert token == good or client.get("/", bearer(token)).status == 401, token


def test_those_that_were_used_last_stay(moongate):
    gate = moongate(f"""{HERE}
        local cache = require "store.lru" (2)
        gate.route {{ "/", handler = function(req)
            local now = gate.time()
            cache:set("a", 1); cache:set("b", 2, now + 100); cache:get("a"); cache:set("c", 3); cache:set("c", 4)
            local after = {{ cache:get "a" or 0, cache:get "b" or 0, cache:get "c" or 0, cache.count }}
            cache:set("old", 1, now - 1)
            after[5], after[6] = cache:get "old" or 0, cache.count
            cache:delete "a"
            cache:clear()
            after[7], after[8] = cache:get "c" or 0, cache.count
            return 200, after
        end }}
    """)

    assert json.loads(gate.get("/").body) == [1, 0, 4, 2, 0, 1, 0, 0]


# ---- The issuer's keys.

def test_keys_are_fetched_once_and_again_when_a_token_names_an_unknown_one(policy, origin):
    issuer = Issuer(origin, jwk(private("P-256"), "old"))
    gate = policy(issuer.lua + ", pause = 0.3")
    old, new = sign(private("P-256"), head={"kid": "old"}), sign(private("P-256", 1), head={"kid": "new"})
    assert [gate.get("/", bearer(old)).status for _ in range(3)] == [200] * 3 and issuer.server.seen == 1

    issuer.shown = [jwk(private("P-256", 1), "new")]
    wait_until(lambda: gate.get("/", bearer(new)).status == 200)

    assert gate.get("/", bearer(old)).status == 401         # also what was remembered of it is over
    assert 2 <= issuer.server.seen <= 4


def test_unknown_keys_let_nobody_ask_the_issuer_without_end(policy, origin):
    issuer = Issuer(origin, jwk(private("P-256"), "known"))
    gate = policy(issuer.lua)
    good = bearer(sign(private("P-256"), head={"kid": "known"}))
    assert gate.get("/", good).status == 200

    for number in range(50):
        assert gate.get("/", bearer(sign(private("P-256", 1), head={"kid": f"k{number}"}))).status == 401

    assert issuer.server.seen == 1 and gate.get("/", good).status == 200


def test_many_who_come_first_ask_once(policy, origin):
    issuer = Issuer(origin, jwk(private("P-256"), "known"))
    issuer.server.play = slowly(issuer.server.play)
    gate = policy(issuer.lua)
    good = bearer(sign(private("P-256"), head={"kid": "known"}))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: gate.get("/", good).status, range(8)))

    assert statuses == [200] * 8 and issuer.server.seen == 1


def slowly(play):
    def wait_first(connection):
        time.sleep(0.1)
        play(connection)
    return wait_first


def test_keys_stay_in_use_when_the_issuer_is_away_also_over_a_reload(policy, origin):
    issuer = Issuer(origin, jwk(private("P-256"), "known"))
    gate = policy(issuer.lua + ", refresh = 0.2, pause = 0.05")
    good = bearer(sign(private("P-256"), head={"kid": "known"}))
    assert gate.get("/", good).status == 200

    issuer.away = True
    wait_until(lambda: gate.get("/", good).status == 200 and "can't be had: it answers with 500" in gate.log())
    assert "error" not in gate.command("reload")

    assert gate.get("/", good).status == 200
    gate.wait_log("those from before stay in use")


def test_without_keys_nobody_can_tell_so_it_is_503_until_they_come(policy, origin):
    issuer = Issuer(origin, jwk(private("P-256"), "known"))
    issuer.away = True
    gate = policy(issuer.lua + ", pause = 0.2")
    good = bearer(sign(private("P-256"), head={"kid": "known"}))

    assert [gate.get("/", good).status for _ in range(5)] == [503] * 5 and issuer.server.seen <= 3
    issuer.away = False

    wait_until(lambda: gate.get("/", good).status == 200)


@pytest.mark.parametrize("shown", [b"", b"[]", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[7,null,{"kty":"oct","k":"' +
                                   b"A" * 60 + b'"}]}', b'{"keys":["/etc/ssl/private/key.pem"]}', b"x" * 300000],
                         ids=range(7))
def test_what_is_no_set_of_keys_is_told_and_taken_for_none(policy, origin, shown):
    server = origin.answers(200, shown)
    gate = policy(f'jwks = "http://{server}/", issuer = "https://id.test"')

    assert gate.get("/", bearer(sign(private("P-256")))).status == 503
    gate.wait_log("can't be had")


def test_workers_share_what_one_has_fetched(policy, origin):
    issuer = Issuer(origin, jwk(private("P-256"), "known"))
    gate = policy(issuer.lua, workers=2)
    good = bearer(sign(private("P-256"), head={"kid": "known"}))

    assert [gate.get("/", good).status for _ in range(20)] == [200] * 20
    assert issuer.server.seen <= 2              # two, if both were asked at the same moment


# ---- Options.

@pytest.mark.parametrize("options, says", [
    ("", "auth.jwt: it takes either jwks or keys"),
    ('jwks = "http://x/"', "auth.jwt: jwks needs issuer"),
    ("keys = {}", "auth.jwt: keys must be a list of keys"),
    ('keys = { "nothing.pem" }', "key 1: it can't be read: nothing.pem"),
    ('keys = { { secret = "short" } }', "key 1: a secret must have 32 bytes or more"),
    ('keys = { { secret = "%s" } }, algorithms = "none"' % ("x" * 32), "there is no none"),
    ('issuers = "x"', 'unknown key "issuers"; did you mean "issuer"?'),
])
def test_options_that_can_not_be_meant_refuse_the_script(tmp_path, options, says):
    import moongate as moongate_module
    script = tmp_path / "gateway.lua"
    script.write_text(f'{HERE}local gate = require "moongate"\ngate.listen ":1"\nrequire "auth.jwt" {{ {options} }}\n')

    done = moongate_module.run("check", script.name, cwd=tmp_path)

    assert done.returncode == 1 and "gateway.lua:3: " in done.stderr and says in done.stderr, done.stderr

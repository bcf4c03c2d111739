"""The policies of scripts/headers/ and auth.csrf, as browsers and origins meet them."""
import base64
import hashlib
import hmac
import re
import uuid

import pytest

from moongate import run

APP = "https://app.example.com"


@pytest.fixture
def policy(moongate, origin):
    """policy(text, fields=..., listen=...): a gateway whose one route has this policy before a recording origin."""
    def start(text, fields=(), use=False, listen="", **options):
        server = start.origin = origin.answers(200, b"ok", list(fields))
        own = f"gate.use({text})" if use else ""
        return moongate(f"""{own}
            gate.route {{ "/*", policies = {{ {"" if use else text} }},
                upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}
        """, listen=listen, **options)
    return start


def granted(answer):
    return {name.lower(): value for name, value in answer.fields if name.lower().startswith("access-control-")}


# ---- cors

PREFLIGHT = ["Origin: " + APP, "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: content-type, x-a"]


def test_a_page_of_a_named_origin_may_read_answers_and_nobody_else_may(policy):
    gate = policy('require "headers.cors" { origins = { "https://app.example.com" }, expose = { "x-total" } }',
                  ["Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "Vary: Accept"])

    answer, refused, none = gate.get("/", "Origin: " + APP), gate.get("/", "Origin: https://evil.example"), gate.get("/")

    assert granted(answer) == {"access-control-allow-origin": APP, "access-control-expose-headers": "x-total"}
    assert answer["vary"] == "Accept, Origin"
    assert (refused.status, granted(refused), refused["vary"]) == (200, {}, "Accept, Origin")
    assert (none.status, granted(none), none["vary"]) == (200, {}, "Accept, Origin")


def test_a_preflight_is_answered_here_and_says_what_may_be_sent(policy):
    gate = policy('require "headers.cors" { origins = { "https://app.example.com" }, methods = { "GET", "PUT" }, '
                  'credentials = true, max_age = 60, private_network = true }')

    answer = gate.request("OPTIONS", "/", *PREFLIGHT, "Access-Control-Request-Private-Network: true")
    refused = gate.request("OPTIONS", "/", "Origin: https://evil.example", *PREFLIGHT[1:])

    assert answer.status == 204
    assert granted(answer) == {
        "access-control-allow-origin": APP, "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, PUT", "access-control-allow-headers": "content-type, x-a",
        "access-control-max-age": "60", "access-control-allow-private-network": "true"}
    assert answer["vary"] == refused["vary"] == "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    assert (refused.status, granted(refused)) == (403, {})
    assert policy.origin.seen == 0


def test_an_options_request_that_is_no_preflight_goes_to_the_origin(policy):
    gate = policy('require "headers.cors" { origins = { "*" } }')

    answer = gate.request("OPTIONS", "/", "Origin: " + APP)

    assert (answer.status, policy.origin.seen) == (200, 1)
    assert granted(answer) == {"access-control-allow-origin": "*"} and "vary" not in answer.fields


@pytest.mark.parametrize("origins, sent, passes", [
    ('{ "https://*.example.com" }', "https://a.example.com", True),
    ('{ "https://*.example.com" }', "https://a.b.example.com", True),
    ('{ "https://*.example.com" }', "HTTPS://A.Example.COM", True),
    ('{ "https://*.example.com" }', "https://example.com", False),
    ('{ "https://*.example.com" }', "https://.example.com", False),
    ('{ "https://*.example.com" }', "http://a.example.com", False),
    ('{ "https://*.example.com" }', "https://evil.com/.example.com", False),
    ('{ "https://*.example.com" }', "https://evil.com?.example.com", False),
    ('{ "https://*.example.com" }', "https://aexample.com", False),
    ('{ "https://example.com" }', "https://example.com.evil.com", False),
    ('{ "https://example.com" }', "https://example.com:8443", False),
    ('{ "https://example.com" }', "null", False),
    ('{ "null" }', "null", True),
    ('function(origin, req) return origin == "https://a.b" and req.path == "/" end', "https://a.b", True),
    ('function(origin, req) return origin == "https://a.b" and req.path == "/x" end', "https://a.b", False),
])
def test_an_origin_passes_as_the_list_says_and_not_by_what_it_looks_like(policy, origins, sent, passes):
    gate = policy(f'require "headers.cors" {{ origins = {origins} }}')

    assert ("access-control-allow-origin" in granted(gate.get("/", "Origin: " + sent))) == passes


@pytest.mark.parametrize("options, told", [
    ('{ origins = { "*" }, credentials = true }', "with credentials the origins must be named"),
    ('{ origins = { "app.example.com" } }', '"app.example.com" is no origin; write one like "https://app.example.com"'),
    ('{}', "origins is needed"),
])
def test_what_would_open_sessions_to_every_page_is_refused(tmp_path, options, told):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.listen "127.0.0.1:0"\ngate.use(require "headers.cors" {options})\n')

    done = run("check", script)

    assert done.returncode == 1 and "gateway.lua:3: headers.cors: " in done.stderr and told in done.stderr, done.stderr


# ---- csrf

def post(gate, *fields, target="/"):
    return gate.request("POST", target, *fields, body=b"x").status


@pytest.mark.parametrize("fields, status", [
    ([], 200),                                                               # no browser
    (["Sec-Fetch-Site: same-origin"], 200),
    (["Sec-Fetch-Site: none"], 200),
    (["Sec-Fetch-Site: cross-site"], 403),
    (["Sec-Fetch-Site: same-site"], 403),
    (["Sec-Fetch-Site: cross-site", "Origin: https://admin.example.com"], 200),
    (["Origin: https://evil.example"], 403),
    (["Origin: null"], 403),
    (["Origin: http://site.example:8080", "Host: site.example:8080"], 200),
    (["Origin: http://site.example", "Host: site.example:8080"], 403),
    (["Origin: https://site.example:8080", "Host: site.example:8080"], 403),
])
def test_what_a_page_of_another_site_sends_is_refused_and_all_else_passes(policy, fields, status):
    gate = policy('require "auth.csrf" { trusted = { "https://admin.example.com" }, except = { "/hooks/" } }')

    assert post(gate, *fields) == status
    assert policy.origin.seen == (status == 200)
    assert gate.get("/", *fields).status == 200
    assert post(gate, *fields, target="/hooks/a") == 200


def test_a_token_counts_for_its_session_only_and_must_come_by_both_ways(policy):
    secret = "0123456789abcdef0123456789abcdef"
    gate = policy(f'require "auth.csrf" {{ token = {{ secret = "{secret}", session = function(req) return req.cookies.session end }} }}')
    cookie = gate.get("/", "Cookie: session=alice")["set-cookie"]
    token = re.match(r"csrf=([^;]+); Path=/; SameSite=Lax$", cookie)[1]
    random, signature = token.split(".")
    expected = hmac.new(secret.encode(), f"{random}.alice".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "==") == expected

    assert post(gate, f"Cookie: session=alice; csrf={token}", "X-CSRF-Token: " + token) == 200
    assert "set-cookie" not in gate.get("/", f"Cookie: session=alice; csrf={token}").fields
    assert post(gate, f"Cookie: session=bob; csrf={token}", "X-CSRF-Token: " + token) == 403
    assert post(gate, f"Cookie: session=alice; csrf={token}") == 403
    assert post(gate, "Cookie: session=alice", "X-CSRF-Token: " + token) == 403
    forged = random + "." + signature[::-1]
    assert post(gate, f"Cookie: session=alice; csrf={forged}", "X-CSRF-Token: " + forged) == 403
    assert post(gate, "Sec-Fetch-Site: cross-site", f"Cookie: session=alice; csrf={token}", "X-CSRF-Token: " + token) == 403


# ---- set, security, request_id

def test_fields_are_renamed_set_added_and_given_if_absent_in_that_order(policy):
    gate = policy("""require "headers.set" {
        request = { ["x-set"] = "new", cookie = false, ["x-fn"] = function(req) return req.path end },
        rename = { request = { ["x-old"] = "x-new" }, response = { etag = "x-tag" } },
        add = { request = { ["x-list"] = { "b", "c" } }, response = { via = "here" } },
        default = { request = { ["x-there"] = "default", ["x-absent"] = "default" },
                    response = { ["cache-control"] = function(req, res) return "max-age=" .. res.status end } },
    }""", ["ETag: 1", "Via: origin"])

    answer = gate.get("/p", "X-Set: old", "Cookie: a=b", "X-Old: 1", "X-Old: 2", "X-List: a", "X-There: own")

    seen = policy.origin.last
    assert (seen["x-set"], seen["x-fn"], seen["x-there"], seen["x-absent"]) == ("new", "/p", "own", "default")
    assert seen.fields.all("x-new") == ["1", "2"] and "x-old" not in seen.fields and "cookie" not in seen.fields
    assert seen.fields.all("x-list") == ["a", "b", "c"]
    assert answer["x-tag"] == "1" and "etag" not in answer.fields
    assert "here" in answer.fields.all("via") and answer["cache-control"] == "max-age=200"


def test_a_nonce_of_the_policy_is_new_each_time_and_the_origin_knows_it(policy):
    gate = policy("""require "headers.security" { policy = "script-src $nonce 'self'", permissions = "camera=()",
        opener = "same-origin", resource = "same-site", embedder = "require-corp", frame = false, overrule = true }""",
                  ["Content-Security-Policy: default-src *", "Referrer-Policy: unsafe-url"])

    answers = [gate.get("/") for _ in range(2)]

    nonces = [re.fullmatch(r"script-src 'nonce-([\w-]{22})' 'self'", a["content-security-policy"])[1] for a in answers]
    assert len(set(nonces)) == 2 and policy.origin.last["x-csp-nonce"] == nonces[1]
    assert [answers[0][name] for name in ("permissions-policy", "cross-origin-opener-policy", "cross-origin-resource-policy",
                                          "cross-origin-embedder-policy", "referrer-policy", "x-frame-options")] == [
        "camera=()", "same-origin", "same-site", "require-corp", "strict-origin-when-cross-origin", None]


def test_a_request_id_is_a_uuid_if_asked_for_and_only_trusted_clients_may_bring_one(policy):
    gate = policy('require "headers.request_id" { format = "uuid7", keep = { "10.0.0.0/8" } }', use=True)

    first, second = [gate.get("/", "X-Request-Id: mine")["x-request-id"] for _ in range(2)]

    assert [uuid.UUID(i).version for i in (first, second)] == [7, 7] and uuid.UUID(first).variant == uuid.RFC_4122
    assert first[:8] <= second[:8] and policy.origin.last["x-request-id"] == second != "mine"
    trusting = policy('require "headers.request_id" { format = "uuid4", keep = { "127.0.0.0/8" }, echo = false }', use=True)
    assert "x-request-id" not in trusting.get("/", "X-Request-Id: mine").fields
    assert policy.origin.last["x-request-id"] == "mine"
    trusting.get("/")
    assert uuid.UUID(policy.origin.last["x-request-id"]).version == 4

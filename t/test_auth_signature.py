"""auth.signature: the examples of RFC 9421, a signer from npm, and everything that must be refused."""
import base64
import gzip
import hashlib
import hmac
import random
import time

import pytest

import moongate as moongate_module
import node
import tokens
from moongate import ROOT, wait_until

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '
SECRET = "a secret that both sides have known for long"

# RFC 9421 appendix B: the keys, the request, and its signatures.
RSA = """-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw
3Ry53mm+oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHqgDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+b
J9cvSKADYdUAAN5WUtzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN
48V2pnDOkFV6+U9nV5oyc6XI2wIDAQAB
-----END PUBLIC KEY-----"""
ED25519 = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----"""
SHARED = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
REQUEST = ["Host: example.com", "Date: Tue, 20 Apr 2021 02:07:55 GMT", "Content-Type: application/json",
           "Content-Digest: sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"]
BODY = b'{"hello": "world"}'
EXAMPLES = {
    "B.2.2": ('("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss"'
              ';tag="header-example"',
              "LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT"
              "8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBS"
              "pqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTu"
              "gEjHSw=="),
    "B.2.3": ('("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length")'
              ';created=1618884473;keyid="test-key-rsa-pss"',
              "bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fU"
              "xN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA"
              "1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKE"
              "gM4cUA=="),
    "B.2.5": ('("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"',
              "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="),
    "B.2.6": ('("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473'
              ';keyid="test-key-ed25519"',
              "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="),
}


@pytest.fixture
def policy(moongate, origin):
    """policy(options): a gateway whose route has auth.signature; without `keys`, that of "me" is SECRET."""
    def start(options="", **more):
        if "keys =" not in options:
            options = f'keys = {{ me = {{ secret = "{SECRET}" }} }}, ' + options
        start.origin = origin.answers(200, b"ok")
        return moongate(f"""{HERE}
            gate.route {{ "/*", policies = {{ require "auth.signature" {{ {options} }} }},
                upstream = gate.upstream("app", {{ peers = {{ "{start.origin}" }} }}) }}
        """, **more)
    return start


def signed(values, input=None, label="sig", secret=SECRET, **params):
    """The fields that sign these (component, value) pairs; params with None are left out."""
    params = {"created": int(time.time()), "keyid": '"me"', **params}
    tail = "".join(f";{name}={value}" for name, value in params.items() if value is not None)
    input = input or "(" + " ".join(name for name, _ in values) + ")" + tail
    base = "".join(f"{name}: {value}\n" for name, value in values) + f'"@signature-params": {input}'
    mac = base64.b64encode(hmac.new(secret.encode(), base.encode(), hashlib.sha256).digest()).decode()
    return [f"Signature-Input: {label}={input}", f"Signature: {label}=:{mac}:"]


def plain(method="GET", path="/", query="?", host="example.test"):
    return [('"@method"', method), ('"@authority"', host), ('"@path"', path), ('"@query"', query)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_rfc_are_good_and_one_byte_elsewhere_is_not(policy, name):
    gate = policy(f"""keys = {{ ["test-key-rsa-pss"] = [[{RSA}]], ["test-key-ed25519"] = [[{ED25519}]],
        ["test-shared-secret"] = {{ secret = gate.base64.decode "{SHARED}" }} }},
        components = "@authority", max_age = 1e9, digest = "optional", replay = true""")
    input, signature = EXAMPLES[name]
    fields = [f"Signature-Input: sig={input}", f"Signature: sig=:{signature}:"]
    other = [field.replace("example.com", "example.org") for field in REQUEST]

    answers = [gate.request("POST", "/foo?param=Value&Pet=dog", *REQUEST, *fields, body=BODY),
               gate.request("POST", "/foo?param=Value&Pet=dog", *other, *fields, body=BODY)]

    assert [answer.status for answer in answers] == [200, 401], answers[0].body


@node.needs("http-message-signatures")
def test_what_a_signer_of_npms_signs_passes_once_and_unchanged_only(policy, tmp_path):
    names = {}
    for kind in ("rsa", "P-256", "P-384", "ed25519"):
        (tmp_path / f"{kind}.pem").write_text(tokens.private_pem(tokens.private(kind)))
        names[kind] = tokens.pem(tokens.private(kind))
    keys = ", ".join(f'["{kind}"] = [[{pem}]]' for kind, pem in names.items())

    told = node.play("signature.js", lambda _: policy(f'keys = {{ {keys}, shared = {{ secret = "{SECRET}" }} }}'),
                     KEYS=str(tmp_path), SECRET=SECRET)

    algorithms = [name for name in told if " " not in name]
    assert len(algorithms) == 6
    assert told == {name + how: status for name in algorithms for how, status in (("", 200), (" again", 401), (" changed", 401))}


def test_the_origin_is_told_whose_it_is(policy):
    gate = policy()

    answer = gate.get("/a%20b?x=1", "X-User: root", *signed(plain("GET", "/a%20b", "?x=1")))

    assert answer.status == 200 and policy.origin.last.fields.all("x-user") == ["me"]


def test_a_signed_request_passes_once_in_all_workers(policy):
    gate = policy(workers=2)
    fields = signed(plain())
    nonce = [signed(plain(), nonce=f'"{number}"') for number in range(2)]

    statuses = [gate.get("/", *fields).status for _ in range(6)]

    assert statuses == [200] + [401] * 5
    assert [gate.get("/", *each).status for each in nonce] == [200, 200]


def test_times_are_looked_at(policy):
    gate = policy("max_age = 60, leeway = 5")
    now = int(time.time())

    def status(**params):
        return gate.get("/", *signed(plain(), **params)).status

    assert [status(created=now - 40), status(created=now + 3), status(created=now - 1, expires=now + 9)] == [200] * 3
    assert [status(created=now - 80), status(created=now + 30), status(created=None), status(created='"now"'),
            status(expires=now - 20), status(expires='"x"')] == [401] * 6


def test_an_expired_one_is_expired_also_when_it_was_not_seen(policy):
    gate = policy("max_age = 1, leeway = 0")
    fields = signed(plain(), created=int(time.time()) - 1)

    wait_until(lambda: b"it is too old" in gate.get("/", *fields).body)


BAD = {
    "nothing": lambda: [],
    "no signature": lambda: signed(plain())[:1],
    "no input": lambda: signed(plain())[1:],
    "another label": lambda: [signed(plain())[0], signed(plain(), label="sog")[1]],
    "a wrong secret": lambda: signed(plain(), secret="x" * 40),
    "an unknown key": lambda: signed(plain(), keyid='"you"'),
    "no key": lambda: signed(plain(), keyid=None),
    "a key that is no string": lambda: signed(plain(), keyid="me"),
    "an algorithm of others": lambda: signed(plain(), alg='"ed25519"'),
    "an unknown algorithm": lambda: signed(plain(), alg='"none"'),
    "no method": lambda: signed(plain()[1:]),
    "no query": lambda: signed(plain()[:3]),
    "another path": lambda: signed(plain(path="/other")),
    "another host": lambda: signed(plain(host="evil.test")),
    "something twice": lambda: signed(plain() + plain()[:1]),
    "what is not there": lambda: signed(plain() + [('"x-none"', "")]),
    "an unknown component": lambda: signed(plain() + [('"@status"', "200")]),
    "a component in upper case": lambda: signed(plain() + [('"Host"', "example.test")]),
    "a parameter that is not known": lambda: signed(plain() + [('"host";bs', ":ZXhhbXBsZS50ZXN0:")]),
    "a response's": lambda: signed(plain() + [('"@method";req', "GET")]),
    "no list": lambda: ["Signature-Input: sig=1;keyid=\"me\"", "Signature: sig=:AAAA:"],
    "no bytes": lambda: [signed(plain())[0], "Signature: sig=\"abc\""],
    "no base64": lambda: [signed(plain())[0], "Signature: sig=:!!:"],
    "garbage": lambda: ["Signature-Input: ((((", "Signature: )"],
    "an unended list": lambda: ["Signature-Input: sig=(\"@method\"", "Signature: sig=:AAAA:"],
    "a name twice": lambda: [signed(plain())[0] + ", sig=()", signed(plain())[1]],
    "a parameter twice": lambda: signed(plain(), **{"created": f'{int(time.time())};created=1'}),
    "many": lambda: ["Signature-Input: " + ", ".join(f"s{n}=()" for n in range(200)), "Signature: s=:AA==:"],
    "an unended string": lambda: ["Signature-Input: sig=(\"@method\");keyid=\"me", "Signature: sig=:AAAA:"],
    "a comma at the end": lambda: [signed(plain())[0] + ",", signed(plain())[1]],
}


def test_everything_else_is_refused(policy):
    gate = policy()
    assert gate.get("/", *signed(plain(), nonce='"first"')).status == 200

    for name, make in BAD.items():
        answer = gate.get("/", *make())
        assert answer.status == 401, (name, answer)
        assert answer["WWW-Authenticate"] == 'Signature realm="api"'
        assert answer["Accept-Signature"] == 'sig=("@method" "@authority" "@path" "@query");created;keyid'
    assert policy.origin.seen == 1


def test_mutated_fields_do_no_harm(policy):
    gate = policy("replay = true")
    chance = random.Random(11)
    good = signed(plain(), nonce='"n"', tag='"t"')
    client = gate.raw()
    assert client.get("/", *good).status == 200

    for _ in range(400):
        fields = list(good)
        which = chance.randrange(2)
        name, _, value = fields[which].partition(": ")
        at = chance.randrange(len(value))
        value = value[:at] + chance.choice(['"', "(", ")", ";", "=", ":", ",", "\\", "?1", " ", "9", "*", "a", "-", "."]) \
            + value[at + chance.randint(0, 4):]
        if value != good[which].partition(": ")[2]:
            fields[which] = f"{name}: {value}"
            assert client.get("/", *fields).status == 401, fields


def test_components_may_stand_for_others_and_fields_are_joined(policy):
    gate = policy('components = { "@method", "@authority", "@path", "@query", "x-list" }')
    pairs = [('"@method"', "GET"), ('"@target-uri"', "http://example.test/p?q=1"), ('"x-list"', "a, b  c, ")]

    answer = gate.get("/p?q=1", "X-List:  a ", "X-List: b  c", "X-List:", *signed(pairs))

    assert answer.status == 200, answer.body
    pairs = [('"@method"', "GET"), ('"@request-target"', "/p?q=1"), ('"@authority"', "example.test"), ('"x-list"', "a")]
    assert gate.get("/p?q=1", "Host: EXAMPLE.test:80", "X-List: a", *signed(pairs)).status == 200


def with_digest(body, said=None, name="sha-256"):
    said = said or f"{name}=:{base64.b64encode(hashlib.new(name.replace('-', ''), body).digest()).decode()}:"
    return [f"Content-Digest: {said}", *signed(plain("POST") + [('"content-digest"', said)], nonce=f'"{time.time()}"')]


def test_a_body_must_be_signed_by_its_digest(policy):
    gate = policy()

    def status(body, fields):
        return gate.request("POST", "/", *fields, body=body).status

    assert [status(b"abc", with_digest(b"abc")), status(b"abc", with_digest(b"abc", name="sha-512")),
            status(b"", signed(plain("POST"))), status(b"", with_digest(b""))] == [200] * 4
    assert [seen.body for seen in policy.origin.requests] == [b"abc", b"abc", b"", b""]
    assert [status(b"abd", with_digest(b"abc")), status(b"abc", with_digest(b"abc")[:1] + signed(plain("POST"), nonce='"a"')),
            status(b"abc", signed(plain("POST"), nonce='"b"')), status(b"abc", with_digest(b"abc", "md5=:AAAA:")),
            status(b"abc", with_digest(b"abc", "sha-256=1")), status(b"abc", with_digest(b"abc", "junk("))] == [401] * 6


def test_the_digest_is_of_the_body_as_it_came(policy):
    gate = policy()
    body = gzip.compress(b"text " * 100)

    answer = gate.request("POST", "/", "Content-Encoding: gzip", *with_digest(body), body=body)

    assert answer.status == 200 and policy.origin.last.body == body


def test_a_body_that_is_too_long_to_compare_is_413(policy):
    gate = policy(set='max_text_size = "1K"')

    assert gate.request("POST", "/", *with_digest(b"x" * 2000), body=b"x" * 2000).status == 413


def test_label_tag_and_nonce_say_which_one_counts(policy):
    gate = policy('tag = "app", nonce = true, label = "mine"')

    def status(**more):
        label = more.pop("label", "mine")
        return gate.get("/", *signed(plain(), label=label, **{"tag": '"app"', "nonce": '"n"', **more})).status

    assert status() == 200
    assert [status(tag='"other"'), status(tag=None), status(nonce=None), status(label="other")] == [401] * 4


@pytest.mark.parametrize("options, says", [
    ("", "auth.signature: keys is needed"), ("keys = {}", "auth.signature: keys must be a table from keyids to keys"),
    ('keys = { a = "nothing.pem" }', "a: it can't be read: nothing.pem"),
    ('keys = { a = { secret = "short" } }', "a: a secret must have 32 bytes or more"),
])
def test_options_that_can_not_be_meant_refuse_the_script(tmp_path, options, says):
    script = tmp_path / "gateway.lua"
    script.write_text(f'{HERE}local gate = require "moongate"\ngate.listen ":1"\nrequire "auth.signature" {{ {options} }}\n')

    done = moongate_module.run("check", script.name, cwd=tmp_path)

    assert done.returncode == 1 and "gateway.lua:3: " in done.stderr and says in done.stderr, done.stderr

"""gate.crypto.key: the published vectors, the signatures of others, and what is no key; gate.networks, gate.coalesce."""
import json
import random

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import tokens

# RFC 7515 appendix A.1 to A.4, RFC 8037 appendix A.4: algorithm, key, what is signed, its signature.
JOE = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
VECTORS = [
    ("HS256", {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
     "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." + JOE, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
    ("RS256", {"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2"
               "mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexM"
               "dbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco"
               "9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
     "eyJhbGciOiJSUzI1NiJ9." + JOE,
     "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZ"
     "cAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-e"
     "OkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"),
    ("ES256", {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
               "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
     "eyJhbGciOiJFUzI1NiJ9." + JOE,
     "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"),
    ("ES512", {"kty": "EC", "crv": "P-521",
               "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
               "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"},
     "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA",
     "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3"
     "xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"),
    ("EdDSA", {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
     "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
     "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"),
]


@pytest.fixture
def gate(moongate):
    """Runs the Lua that is posted to it; what that returns comes back as JSON, in a list."""
    running = moongate("""
        gate.set { cpu_budget = 5 }         -- reading keys takes long under the sanitizers
        gate.route { "/", handler = function(req)
            local fn = assert(loadstring("local gate, crypto, decode = ...; " .. req:text()))
            local function list(...)
                local all = { ... }
                for i = 1, select("#", ...) do if all[i] == nil then all[i] = gate.json.null end end
                return all
            end
            return 200, gate.json.encode(list(fn(gate, gate.crypto, gate.base64.decode)))
        end }
    """)

    def run(lua):
        answer = running.post("/", body=lua)
        assert answer.status == 200, running.log()
        return json.loads(answer.body)
    running.run = run
    return running


def verify(key, algorithm, signed, signature):
    """Lua that asks whether the signature (in base64url) is good."""
    return (f"local key, reason = crypto.key({key}); if not key then return key, reason end; "
            f"return key:verify('{algorithm}', decode '{tokens.text(signed)}', decode '{signature}')")


@pytest.mark.parametrize("algorithm, key, signed, signature", VECTORS, ids=[vector[0] for vector in VECTORS])
def test_the_published_signatures_are_good_and_others_are_not(gate, algorithm, key, signed, signature):
    lua_key = tokens.lua(key)
    other = ("A" if signature[9] != "A" else "B").join([signature[:9], signature[10:]])

    assert gate.run(verify(lua_key, algorithm, signed.encode(), signature)) == [True]
    assert gate.run(verify(lua_key, algorithm, signed.encode() + b".", signature))[0] is False
    assert gate.run(verify(lua_key, algorithm, signed.encode(), other))[0] is False
    assert gate.run(verify(lua_key, algorithm, signed.encode(), ""))[0] is False


@pytest.mark.parametrize("algorithm", tokens.KEYS)
def test_what_it_signs_others_verify(gate, algorithm):
    key = tokens.private(tokens.KEYS[algorithm])
    token = gate.run(f"local key = assert(crypto.key [[{tokens.private_pem(key)}]]); local e = gate.base64.encode_url; "
                     f"local text = e '{{\"alg\":\"{algorithm}\"}}' .. '.' .. e '{{\"sub\":\"bob\"}}'; "
                     f"return text .. '.' .. e(assert(key:sign('{algorithm}', text)))")[0]

    assert tokens.jwt.decode(token, key.public_key(), [algorithm]) == {"sub": "bob"}


def test_ed448_goes_too(gate):
    key = tokens.private("ed448")
    signature = tokens.text(key.sign(b"text"))

    assert gate.run(verify(tokens.lua(tokens.jwk(key)), "EdDSA", b"text", signature)) == [True]
    assert gate.run(verify(f"[[{tokens.pem(key)}]]", "Ed448", b"text", signature)) == [True]
    assert gate.run(verify(f"[[{tokens.pem(key)}]]", "Ed25519", b"text", signature))[0] is False


def test_a_key_goes_with_its_own_algorithms_only(gate):
    keys = {kind: f"crypto.key [[{tokens.pem(tokens.private(kind))}]]" for kind in ("rsa", "P-256", "P-384", "ed25519")}
    keys["secret"] = "crypto.key { secret = ('x'):rep(48) }"
    names = "HS256 HS384 HS512 RS256 PS512 ES256 ES384 ES512 EdDSA none RSA secret".split()
    fitting = {kind: gate.run(f"local k, out = {key}, {{}}; for _, n in ipairs {tokens.lua(names)} do "
                              "if k:fits(n) then out[#out + 1] = n end end; return out")[0] for kind, key in keys.items()}

    assert fitting == {"rsa": ["RS256", "PS512"], "P-256": ["ES256"], "P-384": ["ES384"], "ed25519": ["EdDSA"],
                       "secret": ["HS256", "HS384"]}


def test_the_key_of_a_certificate_and_of_a_file_is_taken(gate, site, tmp_path):
    file = tmp_path / "public.pem"
    file.write_text(tokens.pem(tokens.private("rsa")))

    got = gate.run(f"local a, b = crypto.key '{site.cert}', crypto.key '{file}'; "
                   "return a.kind, a.bits, a.private, b.kind, b.bits")

    assert got == ["EC", 256, False, "RSA", 2048]


def small_rsa():
    return tokens.pem(rsa.generate_private_key(65537, 1024))


def foreign_curve():
    return ec.generate_private_key(ec.SECP256K1()).public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("source, says", [
    (lambda: f"[[{small_rsa()}]]", "not one of RSA with 2048 to 8192 bits"),
    (lambda: f"[[{foreign_curve()}]]", "not one of"),
    (lambda: "'-----BEGIN PUBLIC KEY-----'", "no key can be read from it"),
    (lambda: "'/no/such/file.pem'", "it can't be read: /no/such/file.pem"),
    (lambda: "{ secret = 'short' }", "a secret must have 32 bytes or more"),
    (lambda: f"{{ secret = [[{tokens.pem(tokens.private('rsa'))}]] }}", "PEM is no secret"),
    (lambda: tokens.lua({"kty": "EC", "crv": "P-256", "x": tokens.text(bytes(32)), "y": tokens.text(bytes(32))}), "no key"),
    (lambda: tokens.lua({**tokens.jwk(tokens.private("P-256")), "crv": "P-384"}), "no key can be read"),
    (lambda: tokens.lua({**tokens.jwk(tokens.private("P-256")), "use": "enc"}), "it is not for signatures"),
    (lambda: tokens.lua({**tokens.jwk(tokens.private("rsa")), "e": tokens.text(b"\1")}), "not one of"),
    (lambda: tokens.lua({**tokens.jwk(tokens.private("rsa")), "n": tokens.text(b"\xff" * 2000)}), "not one of"),
    (lambda: tokens.lua({"kty": "dodo"}), "there is no kty dodo"),
    (lambda: "{}", "there is no kty nil"),
])
def test_what_is_no_good_key_is_refused_with_the_reason(gate, source, says):
    key, reason = gate.run(f"return crypto.key({source()})")

    assert key is None and says in reason


def test_a_point_that_is_not_on_the_curve_is_no_key(gate):
    key = tokens.jwk(tokens.private("P-256"))
    y = bytearray(tokens.base64.urlsafe_b64decode(key["y"] + "="))
    y[31] ^= 1

    assert gate.run(f"return (crypto.key({tokens.lua({**key, 'y': tokens.text(bytes(y))})}))") == [None]


def test_pss_wants_a_salt_as_long_as_the_digest(gate):
    key = tokens.private("rsa")
    long_salt = key.sign(b"text", padding.PSS(padding.MGF1(hashes.SHA256()), 200), hashes.SHA256())

    assert gate.run(verify(f"[[{tokens.pem(key)}]]", "PS256", b"text", tokens.text(long_salt)))[0] is False


def test_keys_that_are_nobodys_any_more_are_freed_and_tls_goes_on_beside_bad_ones(gate):
    key = tokens.pem(tokens.private("P-256"))

    made = gate.run(f"for i = 1, 40 do assert(crypto.key [[{key}]]); crypto.key '-----BEGIN CERTIFICATE-----' end; "
                    "collectgarbage(); collectgarbage(); return true")

    assert made == [True]           # the leak sanitizer tells of those that are not


def test_mutated_keys_do_no_harm(gate):
    """Values of JWKs changed at random: each is a key or is none."""
    chance, good = random.Random(7), [tokens.jwk(tokens.private(kind), "k") for kind in ("rsa", "P-256", "P-521", "ed25519")]
    strange = ["", "A", "AA", "____", "A" * 3000, 7, -1, 1e300, True, None, [], {}, "P-256", "RSA", "EC", "OKP", "sig", "\0"]
    tries = []
    for _ in range(400):
        key = dict(chance.choice(good))
        for _ in range(chance.randint(1, 3)):
            name = chance.choice(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "k"])
            value = key.get(name)
            if isinstance(value, str) and value and chance.random() < 0.5:
                at = chance.randrange(len(value))
                value = value[:at] + chance.choice("Az09_-=+. ") + value[at + chance.randint(0, 2):]
            else:
                value = chance.choice(strange)
            key[name] = value
        tries.append(key)

    made = gate.run("local made = 0; for _, j in ipairs(gate.json.decode [==[" + json.dumps(tries) + "]==]) do "
                    "local k, reason = crypto.key(j); assert(k or type(reason) == 'string'); "
                    "if k then made = made + 1; k:verify('ES256', 'text', ('s'):rep(64)); k:verify('RS256', 'text', 's') end "
                    "end; return made")[0]

    assert 0 < made < 400


# ---- gate.networks

NETWORKS = """{ ["10.0.0.0/8"] = "ten", ["10.1.0.0/16"] = "ten one", ["10.1.2.3"] = "host", ["0.0.0.0/0"] = "any 4",
    ["2001:db8::/32"] = "six", ["2001:db8:8000::/33"] = "upper half", ["::1"] = "itself", unix = "unix",
    ["192.168.0.0/31"] = "pair" }"""


@pytest.mark.parametrize("address, value", [
    ("10.9.9.9", "ten"), ("10.1.9.9", "ten one"), ("10.1.2.3", "host"), ("11.0.0.1", "any 4"), ("::ffff:10.1.0.9", "ten one"),
    ("2001:db8:1::1", "six"), ("2001:db8:ffff::1", "upper half"), ("::1", "itself"), ("::2", None), ("unix", "unix"),
    ("192.168.0.1", "pair"), ("192.168.0.2", "any 4"), ("nonsense", None), ("10.0.0.0/8", None), ("", None),
])
def test_the_longest_network_that_has_an_address_is_found(gate, address, value):
    assert gate.run(f"return (gate.networks({NETWORKS}):find '{address}')") == [value]


@pytest.mark.parametrize("network, says", [
    ("'10.0.0.0/33'", '"10.0.0.0/33" is not a network'), ("'10.0.0.1/8'", '"10.0.0.1/8" has bits beyond its length'),
    ("'2001:db8::1/64'", "has bits beyond its length"), ("7", "7 is not a network"), ("'example.com'", "is not a network"),
])
def test_what_is_no_network_is_refused(gate, network, says):
    networks, reason = gate.run(f"return gate.networks {{ {network} }}")

    assert networks is None and says in reason


def test_many_networks_agree_with_pythons(gate):
    import ipaddress
    chance = random.Random(3)
    networks = {}
    for _ in range(300):
        size, whole = chance.choice([(32, ipaddress.IPv4Network), (128, ipaddress.IPv6Network)])
        bits = chance.randint(1, size)
        number = chance.getrandbits(7) << (size - 7) if chance.random() < 0.7 else chance.getrandbits(size)
        networks[whole((number >> (size - bits) << (size - bits), bits))] = True
    names = [str(network) for network in networks]
    addresses = [str(network[chance.randrange(min(network.num_addresses, 2 ** 60))]) for network in networks]

    def expected(address):
        inside = [n for n in networks if ipaddress.ip_address(address) in n]
        return str(max(inside, key=lambda n: n.prefixlen))
    got = gate.run(f"local list = {{}}; for _, n in ipairs {tokens.lua(names)} do list[n] = n end; "
                   f"local all, out = assert(gate.networks(list)), {{}}; "
                   f"for i, a in ipairs {tokens.lua(addresses)} do out[i] = all:find(a) end; return out")[0]

    assert got == [expected(address) for address in addresses]


# ---- gate.coalesce

def test_what_many_ask_for_at_once_is_done_once(moongate, origin):
    slow = origin.holds(b"answer")
    gate = moongate(f"""
        local ask = gate.coalesce(function(key, url) return gate.fetch(url):text() .. " for " .. key end)
        gate.route {{ "/*", handler = function(req) return 200, ask(req.path, "http://{slow}/") end }}
    """)
    clients = [gate.raw() for _ in range(6)]
    for number, client in enumerate(clients):
        client.send(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % (number % 2))
    gate.wait_total("exchanges", 6)
    slow.wait_seen(2)

    slow.go.set()

    assert [client.response().body for client in clients] == [b"answer for /0", b"answer for /1"] * 3
    assert slow.seen == 2
    assert gate.get("/0").body == b"answer for /0" and slow.seen == 3


def test_who_asked_first_may_leave(moongate, origin):
    slow = origin.holds(b"answer")
    gate = moongate(f"""
        local ask = gate.coalesce(function(key) return gate.fetch("http://{slow}/"):text() end)
        gate.route {{ "/*", handler = function(req) return 200, ask "it" end }}
    """)
    first, second = gate.raw(), gate.raw()
    first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    slow.wait_seen(1)
    second.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    gate.wait_total("exchanges", 2)

    first.close()
    gate.wait_total("exchanges", 1)
    slow.go.set()

    assert second.response().body == b"answer" and slow.seen == 1


def test_what_it_raises_all_get_and_the_next_one_begins_anew(moongate):
    gate = moongate("""
        local calls = 0
        local ask = gate.coalesce(function(key) calls = calls + 1; gate.sleep(0.05); error("refused " .. calls) end)
        gate.route { "/", handler = function()
            local function try() return select(2, pcall(ask, "key")) end
            local both = gate.all(try, try)
            return 200, { both[1]:match "refused %d", both[2]:match "refused %d", try():match "refused %d" }
        end }
    """)

    assert json.loads(gate.get("/").body) == ["refused 1", "refused 1", "refused 2"]

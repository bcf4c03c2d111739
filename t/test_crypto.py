"""gate.crypto: what it makes is what openssl(1) and the published test vectors say."""
import json
import subprocess

import pytest

DIGESTS = ["sha1", "sha256", "sha384", "sha512"]
TEXTS = [b"", b"abc", bytes(range(256)) * 5]
# AES-GCM with a key, a nonce and a text of zeros: McGrew and Viega's test cases 1, 2, 8 and 14.
VECTORS = [
    (16, 0, "58e2fccefa7e3061367f1d57a4e7455a"),
    (16, 16, "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf"),
    (24, 16, "98e7247c07f0fe411c267e4384b0f6002ff58d80033927ab8ef4d4587514f0fb"),
    (32, 16, "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
]


@pytest.fixture
def answers(moongate):
    """answers(lua): what the expression gives, asked by a handler; a string of bytes as hexadecimal digits."""
    def ask(lua, **options):
        gate = moongate(f"""
            local crypto, hex = gate.crypto, gate.crypto.hex
            local function unhex(s) return (s:gsub("..", function(d) return string.char(tonumber(d, 16)) end)) end
            gate.route {{ "/", handler = function(req) return 200, {{ {lua} }} end }}
        """, **options)
        return json.loads(gate.post("/", body=b"").body)
    return ask


def quoted(data):
    return f'unhex "{data.hex()}"'


def openssl(data, *options):
    done = subprocess.run(["openssl", "dgst", "-r", *options], input=data, capture_output=True, check=True)
    return done.stdout.split()[0].decode()


def test_digests_are_what_openssl_says(answers):
    asked = [(digest, text) for digest in DIGESTS for text in TEXTS]

    got = answers(", ".join(f"hex(crypto.{digest}({quoted(text)}))" for digest, text in asked))

    assert got == [openssl(text, f"-{digest}") for digest, text in asked]


def test_hmacs_are_what_openssl_says(answers):
    asked = [(digest, key, text) for digest in DIGESTS for key in (b"k", b"key" * 80) for text in TEXTS]

    got = answers(", ".join(f'hex(crypto.hmac("{d}", {quoted(k)}, {quoted(t)}))' for d, k, t in asked))

    assert got == [openssl(t, f"-{d}", "-mac", "HMAC", "-macopt", "hexkey:" + k.hex()) for d, k, t in asked]


@pytest.mark.parametrize("key, length, sealed", VECTORS)
def test_decrypt_reads_the_published_vectors(answers, key, length, sealed):
    assert answers(f'hex(crypto.decrypt(("\\0"):rep({key}), unhex "{"00" * 12}{sealed}"))') == ["00" * length]


def test_what_was_encrypted_is_decrypted_with_the_same_key_and_context_only(answers):
    got = answers("""(function()
        local key, other = ("k"):rep(32), ("o"):rep(32)
        local sealed = crypto.encrypt(key, "secret", "for alice")
        local changed = sealed:sub(1, -2) .. string.char((sealed:byte(-1) + 1) % 256)
        local function try(...) return crypto.decrypt(...) or "no" end
        return try(key, sealed, "for alice"), try(key, sealed), try(other, sealed, "for alice"), try(key, changed, "for alice"),
            try(key, "short"), #sealed, crypto.decrypt(key, crypto.encrypt(key, "")), sealed ~= crypto.encrypt(key, "secret", "for alice")
    end)()""")

    assert got == ["secret", "no", "no", "no", "no", 12 + 6 + 16, "", True]


def test_equal_compares_and_random_differs(answers):
    got = answers("""crypto.equal("abc", "abc"), crypto.equal("abc", "abd"), crypto.equal("abc", "ab"), crypto.equal("", ""),
        #crypto.random(33), crypto.random(16) == crypto.random(16)""")

    assert got == [True, False, False, True, 33, False]


@pytest.mark.parametrize("call, message", [
    ("crypto.sha256(7)", "gate.crypto.sha256: the text must be a string, got a number"),
    ('crypto.hmac("md5", "k", "t")', 'the digest is "sha1", "sha256", "sha384" or "sha512", got md5'),
    ('crypto.encrypt("short", "t")', "the key must have 16, 24 or 32 bytes, got 5"),
    ("crypto.random(0)", "takes a whole number from 1 to 1048576, got 0"),
])
def test_misuse_names_the_value_and_the_users_line(answers, call, message):
    (text,) = answers(f"select(2, pcall(function() return {call}, 1 end))")

    assert message in text
    assert "gateway.lua:5: " in text

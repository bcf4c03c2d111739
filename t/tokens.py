"""tokens.py - keys and tokens for the tests, made by python3-cryptography and python3-jwt."""
import base64
import functools
import json
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

CURVES = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
# Of each algorithm: the key that goes with it.
KEYS = {"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa", "ES256": "P-256",
        "ES384": "P-384", "ES512": "P-521", "EdDSA": "ed25519"}
SECRET = b"a secret of more than sixty-four bytes, since HS512 wants as many as its digest has"


def text(data):
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def private(kind, number=0):
    """A private key of this kind, the same for the whole run; more of them by number."""
    return _private(kind, number)


@functools.lru_cache(None)
def _private(kind, _):
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    return ec.generate_private_key(CURVES[kind]())


def pem(key):
    """Of a private key the public one."""
    return key.public_key().public_bytes(serialization.Encoding.PEM,
                                         serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption()).decode()


def jwk(key, kid=None, **more):
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = public.public_numbers()
        out = {"kty": "RSA", "n": text(numbers.n.to_bytes(256, "big")), "e": text(numbers.e.to_bytes(3, "big"))}
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        numbers, size = public.public_numbers(), (key.curve.key_size + 7) // 8
        name = next(name for name, curve in CURVES.items() if isinstance(key.curve, curve))
        out = {"kty": "EC", "crv": name, "x": text(numbers.x.to_bytes(size, "big")), "y": text(numbers.y.to_bytes(size, "big"))}
    else:
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        out = {"kty": "OKP", "crv": "Ed25519" if len(raw) == 32 else "Ed448", "x": text(raw)}
    return {**out, **({"kid": kid} if kid else {}), **more}


def claims(**more):
    """What a good token says; a claim that is None is left out."""
    said = {"sub": "alice", "iss": "https://id.test", "exp": int(time.time()) + 300, **more}
    return {name: value for name, value in said.items() if value is not None}


def sign(key, algorithm="ES256", head=None, **more):
    return jwt.encode(claims(**more), key, algorithm, head)


def forge(head, said, signature=b""):
    """A token whose parts are what the caller says."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, said)]
    return ".".join([*map(text, parts), text(signature)])


def bearer(token):
    return f"Authorization: Bearer {token}"


def lua(value):
    """A JSON value as Lua writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f'["{name}"] = {lua(one)}' for name, one in value.items()) + " }"
    if isinstance(value, list):
        return "{ " + ", ".join(map(lua, value)) + " }"
    return json.dumps(value)

"""certificates.py - authorities and certificates for the tests, made by openssl's command."""
import ssl
import subprocess
from pathlib import Path

KEYS = {"ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["-newkey", "rsa:2048"],
        "ed25519": ["-newkey", "ed25519"]}


def openssl(*arguments, stdin=None):
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class Certificate:
    """Files: `cert` (with what follows it in the chain) and `key`; in Lua: `cert = ..., key = ...` by `lua`."""

    def __init__(self, cert, key):
        self.cert, self.key = cert, key

    @property
    def lua(self):
        return f'cert = "{self.cert}", key = "{self.key}"'

    def field(self, what):
        """One line of `openssl x509`: "fingerprint", "serial"..."""
        return openssl("x509", "-in", self.cert, "-noout", f"-{what}").decode().strip().partition("=")[2]

    def fingerprint(self):
        shown = openssl("x509", "-in", self.cert, "-noout", "-fingerprint", "-sha256").decode()
        return shown.strip().partition("=")[2].replace(":", "").lower()


class Authority:
    def __init__(self, directory, name="Test Authority"):
        self.directory, self.count = Path(directory), 0
        self.directory.mkdir(parents=True, exist_ok=True)
        self.cert, self.key = self.directory / "ca.pem", self.directory / "ca.key"
        openssl("req", "-x509", *KEYS["ec"], "-nodes", "-days", "10", "-subj", f"/CN={name}", "-keyout", self.key,
                "-out", self.cert, "-addext", "basicConstraints=critical,CA:TRUE",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def issue(self, *names, kind="ec", days=10, subject=None, serial=None):
        """A certificate for these alternative names: "a.example", "IP:127.0.0.1", "email:..."; negative days: expired."""
        self.count += 1
        stem = self.directory / f"{self.count}-{kind}"
        cert, key, asked, extensions = (stem.with_suffix(end) for end in (".pem", ".key", ".csr", ".ext"))
        alternative = ",".join(name if ":" in name else f"DNS:{name}" for name in names)
        extensions.write_text(f"subjectAltName={alternative}\n" if names else "basicConstraints=CA:FALSE\n")
        first = names[0].partition(":")[2] or names[0] if names else "nobody"
        openssl("req", "-new", *KEYS[kind], "-nodes", "-subj", subject or f"/CN={first}", "-keyout", key, "-out", asked)
        times = ["-days", days] if days >= 0 else []
        command = ["x509", "-req", "-in", asked, "-CA", self.cert, "-CAkey", self.key, "-set_serial",
                   serial or 1000 + self.count, "-extfile", extensions, "-out", cert, *times]
        if days < 0:
            self._issue_expired(asked, cert, extensions)
        else:
            openssl(*command)
        return Certificate(cert, key)

    def _issue_expired(self, asked, cert, extensions):
        """`openssl x509` knows no past: `openssl ca` does."""
        (self.directory / "index.txt").write_text("")
        config = self.directory / "ca.conf"
        config.write_text(f"""[ca]\ndefault_ca = it\n[it]\ndatabase = {self.directory}/index.txt
new_certs_dir = {self.directory}\nrand_serial = yes\ndefault_md = sha256\npolicy = any\nunique_subject = no
[any]\ncommonName = supplied\n""")
        openssl("ca", "-batch", "-config", config, "-in", asked, "-cert", self.cert, "-keyfile", self.key, "-out", cert,
                "-startdate", "20200101000000Z", "-enddate", "20210101000000Z", "-extfile", extensions, "-notext")

    def server_context(self, certificate, alpn=(), client_authority=None):
        """For an origin of the tests."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if client_authority:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_authority.cert)
        return context

    def client_context(self, alpn=(), certificate=None, version=None, ciphers=None):
        """For a client that believes this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.cert)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if certificate:
            context.load_cert_chain(certificate.cert, certificate.key)
        if version:
            context.minimum_version = context.maximum_version = version
        if ciphers:
            context.set_ciphers(ciphers)
        return context

"""auth.mtls: who may pass by the certificate that a handshake has shown."""
import subprocess

import pytest

import moongate as moongate_module
from certificates import Authority
from moongate import ROOT

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '


@pytest.fixture
def secure(moongate, origin, authority, site):
    """secure(options): a gateway that asks for certificates, with auth.mtls; status(certificate) is what one gets."""
    def start(options, ca=None, **more):
        start.origin = origin.answers(200, b"ok")
        gate = moongate(f"""{HERE}
            gate.route {{ "/*", policies = {{ require "auth.mtls" {{ {options} }} }},
                upstream = gate.upstream("app", {{ peers = {{ "{start.origin}" }} }}) }}
        """, listen=f'tls = {{ {site.lua}, client_cert = "request", client_ca = "{ca or authority.cert}" }}', **more)

        def status(certificate, *fields):
            return gate.raw(tls=authority.client_context(certificate=certificate)).get("/", *fields)
        gate.show = status
        return gate
    return start


def test_every_good_certificate_passes_if_nobody_is_named(secure, authority, tmp_path):
    stranger = Authority(tmp_path / "stranger", "Stranger").issue("mallory.example")
    gate = secure("")
    ada = authority.issue("ada.example.test", subject="/CN=Ada/O=Engines")

    answers = [gate.show(ada, "X-User: root"), gate.show(None), gate.show(stranger)]

    assert [answer.status for answer in answers] == [200, 403, 403]
    assert b"a client certificate is needed" in answers[1].body and b"refused: unable to verify" in answers[2].body
    assert secure.origin.seen == 1 and secure.origin.last.fields.all("x-user") == ["O=Engines,CN=Ada"]


def test_names_subjects_and_fingerprints_say_who_may(secure, authority):
    by_name = authority.issue("URI:spiffe://prod/billing", "DNS:b.jobs.internal", subject="/CN=billing")
    by_subject = authority.issue("x.example", subject="/CN=Ada/O=Engines")
    by_print = authority.issue("y.example", subject="/CN=pinned")
    other = authority.issue("jobs.internal.evil.example", "URI:http://spiffe://prod/x", subject="/CN=Ada/O=Engines Ltd")
    longer = authority.issue("z.example", subject="/CN=Ada/O=Engines/OU=Others")
    colons = ":".join(by_print.fingerprint()[i:i + 2] for i in range(0, 64, 2)).upper()
    gate = secure(f"""names = {{ "URI:spiffe://prod/*", "DNS:*.jobs.internal" }}, subjects = "O=Engines,CN=*",
        fingerprints = {{ "{colons}" }}, fields = {{ ["x-name"] = "name", ["x-print"] = "fingerprint" }}""")

    statuses = [gate.show(each, "X-Name: root").status for each in (by_name, by_subject, by_print, other, longer, by_name)]

    assert statuses == [200, 200, 200, 403, 403, 200]
    assert [seen["x-name"] for seen in secure.origin.requests] == [
        secure.origin.requests[0]["x-name"], "DNS:x.example", "DNS:y.example", secure.origin.requests[0]["x-name"]]
    assert secure.origin.requests[0]["x-name"] in ("URI:spiffe://prod/billing", "DNS:b.jobs.internal")
    assert secure.origin.requests[2]["x-print"] == by_print.fingerprint()


def test_the_authority_may_be_one_of_several(secure, authority, tmp_path):
    second = Authority(tmp_path / "second", "Second Authority")
    both = tmp_path / "both.pem"
    both.write_text(authority.cert.read_text() + second.cert.read_text())
    gate = secure('issuers = "CN=Second Authority"', ca=both)

    assert [gate.show(each.issue("same.example")).status for each in (authority, second)] == [403, 200]


def test_curl_shows_its_certificate(secure, authority):
    gate = secure('names = "DNS:*.jobs.test"')

    def curl(certificate):
        return subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "--cacert", authority.cert,
                               "--cert", certificate.cert, "--key", certificate.key, f"https://127.0.0.1:{gate.port}/"],
                              capture_output=True, text=True, check=True).stdout

    assert (curl(authority.issue("a.jobs.test")), curl(authority.issue("a.other.test"))) == ("200 2", "403 2")


def test_without_tls_nobody_passes(moongate):
    gate = moongate(f"""{HERE} gate.route {{ "/*", policies = {{ require "auth.mtls" {{}} }}, handler = function() return 200 end }}""")

    assert gate.get("/").status == 403


@pytest.mark.parametrize("options, says", [
    ('names = "ada.example"', "ada.example does not begin with DNS:, email:, URI: or IP:"),
    ('fingerprints = { "ab:cd" }', "auth.mtls: fingerprints must be a list of fingerprints of 64 hexadecimal digits"),
    ('fields = { x = "cn" }', "auth.mtls: fields must be a table from fields to subject, issuer"),
    ("subjects = {}", "auth.mtls: subjects must be a list of subjects"),
])
def test_options_that_can_not_be_meant_refuse_the_script(tmp_path, options, says):
    script = tmp_path / "gateway.lua"
    script.write_text(f'{HERE}local gate = require "moongate"\ngate.listen ":1"\nrequire "auth.mtls" {{ {options} }}\n')

    done = moongate_module.run("check", script.name, cwd=tmp_path)

    assert done.returncode == 1 and "gateway.lua:3: " in done.stderr and says in done.stderr, done.stderr

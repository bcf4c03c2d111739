"""What a scanner that others trust finds: testssl.sh, on protocols, ciphers, forward secrecy and known attacks."""
import json
import subprocess


def test_testssl_finds_nothing_above_low(moongate, site, tmp_path):
    gate = moongate('gate.route { "/*", handler = function(req) return 200, "ok" end }', listen=f"tls = {{ {site.lua} }}")
    found = tmp_path / "found.json"

    subprocess.run(["testssl", "--quiet", "--color", "0", "--warnings", "off", "-p", "-s", "-P", "-f", "-U", "--jsonfile",
                    found, f"127.0.0.1:{gate.port}"], capture_output=True, timeout=110)

    findings = json.loads(found.read_text())
    graded = {finding["id"]: finding["severity"] for finding in findings}
    assert graded["TLS1_2"] == graded["TLS1_3"] == graded["heartbleed"] == graded["cipher_order"] == "OK", "it has looked"
    assert not [finding for finding in findings if finding["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL")]

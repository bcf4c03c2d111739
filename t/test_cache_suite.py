"""scripts/cache.lua before the public cache-tests suite (cache-tests.fyi), as npm has it."""
from node import needs, play

# What comes out otherwise than the suite would have it, and why. Tests of the kind "check" only ask how a cache behaves.
AGE = "RFC 9111 5.1: of several the first one counts, and one that is no number is ignored"
OWN_502 = "it gets our own 502, which the suite takes for a stored response, as it has no number of the suite's server"
COOKIES = "responses with Set-Cookie are not stored, unless that is asked for"
PARTS = "parts are not stored"
LANGUAGES = "what a field means is the origin's to know; lists are compared but for blanks"
OTHERWISE = {
    "age-parse-nonnumeric": AGE, "age-parse-negative": AGE, "age-parse-float": AGE, "age-parse-prefix-twoline": AGE,
    "age-parse-dup-0": AGE, "age-parse-dup-0-twoline": AGE, "age-parse-dup-old": AGE, "age-parse-parameter": AGE,
    "age-parse-numeric-parameter": AGE,
    "stale-close-must-revalidate": OWN_502, "stale-close-proxy-revalidate": OWN_502, "stale-close-no-cache": OWN_502,
    "stale-close-s-maxage=2": OWN_502,
    "headers-store-Set-Cookie": COOKIES, "304-etag-update-response-Set-Cookie": COOKIES, "other-set-cookie": COOKIES,
    "headers-store-Transfer-Encoding": "a coding that nobody knows is refused with 502",
    "partial-store-partial-reuse-partial": PARTS, "partial-store-partial-reuse-partial-byterange": PARTS,
    "partial-store-partial-reuse-partial-absent": PARTS, "partial-store-partial-reuse-partial-suffix": PARTS,
    "partial-store-partial-complete": PARTS,
    "vary-normalise-lang-order": LANGUAGES, "vary-normalise-lang-case": LANGUAGES, "vary-normalise-lang-select": LANGUAGES,
    "method-POST": "only responses to GET are stored",
    "conditional-lm-fresh-no-lm": "RFC 9111 4.3.2: without Last-Modified its Date counts, which is newer",
}


@needs("http-cache-tests")
def test_the_public_suite_finds_what_it_asks_for(moongate, tmp_path):
    def start(port):
        return moongate(f"""
            gate.route {{ "/*", policies = {{ require "cache" {{ stale_if_error = 3600 }} }},
                         upstream = gate.upstream("suite", {{ peers = {{ "127.0.0.1:{port}" }} }}) }}""", workers=2)

    results = play("cache_suite.mjs", start, DIR=str(tmp_path))

    asked = {name: outcome for name, (kind, outcome) in results.items() if kind != "check"}
    assert len(asked) > 200
    assert {name: asked[name] for name in asked if asked[name] != "pass" and name not in OTHERWISE} == {}
    assert {name for name in OTHERWISE if asked[name] == "pass"} == set()

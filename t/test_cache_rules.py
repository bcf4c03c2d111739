"""The rules of RFC 9111 for a shared cache, one after another, by the names that the public cache-tests suite gives them.

A rule is a response, and whether the same request gets it again without a word to the origin. Nothing waits: a
response is made old by Age and Date.
"""
import time
from collections import namedtuple
from email.utils import formatdate

import pytest

Rule = namedtuple("Rule", "name fields reused first second status")


def rule(name, reused, *fields, first=(), second=(), status=200):
    return Rule(name, fields, reused, first, second, status)


def date(seconds=0, form="imf"):
    at = time.time() + seconds
    return formatdate(at, usegmt=True) if form == "imf" else time.strftime(form, time.gmtime(at))


NOW = f"Date: {date()}"
MODIFIED = f"Last-Modified: {date(-100_000)}"
FRESH = "Cache-Control: max-age=3600"
RFC850, ASCTIME = "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"
BEARER = ("Authorization: Bearer token",)

GROUPS = {
    "freshness": [
        rule("freshness-none", False),
        rule("freshness-max-age", True, FRESH),
        rule("freshness-max-age-0", False, "Cache-Control: max-age=0"),
        rule("freshness-max-age-max", True, "Cache-Control: max-age=2147483647"),
        rule("freshness-max-age-max-plus", True, "Cache-Control: max-age=99999999999999"),
        rule("freshness-max-age-age", False, FRESH, "Age: 7200"),
        rule("freshness-max-age-date", False, FRESH, f"Date: {date(-7200)}"),
        rule("freshness-max-age-expires", True, FRESH, NOW, f"Expires: {date(-60)}"),
        rule("freshness-max-age-0-expires", False, "Cache-Control: max-age=0", NOW, f"Expires: {date(3600)}"),
        rule("freshness-max-age-expires-invalid", True, FRESH, "Expires: 0"),
        rule("freshness-s-maxage-shared", True, "Cache-Control: s-maxage=3600"),
        rule("freshness-max-age-s-maxage-shared-longer", True, "Cache-Control: max-age=0, s-maxage=3600"),
        rule("freshness-max-age-s-maxage-shared-longer-reversed", True, "Cache-Control: s-maxage=3600, max-age=0"),
        rule("freshness-max-age-s-maxage-shared-longer-multiple", True, "Cache-Control: max-age=0", "Cache-Control: s-maxage=3600"),
        rule("freshness-max-age-s-maxage-shared-shorter", False, "Cache-Control: max-age=3600, s-maxage=0"),
        rule("freshness-max-age-s-maxage-shared-shorter-expires", False, "Cache-Control: s-maxage=0", f"Expires: {date(3600)}"),
        rule("freshness-expires-future", True, NOW, f"Expires: {date(3600)}"),
        rule("freshness-expires-past", False, NOW, f"Expires: {date(-3600)}"),
        rule("freshness-expires-present", False, NOW, f"Expires: {date()}"),
        rule("freshness-expires-old-date", False, f"Date: {date(-7200)}", f"Expires: {date(-3600)}"),
        rule("freshness-expires-age-fast-date", False, NOW, f"Expires: {date(3600)}", "Age: 7200"),
    ],
    "parsing": [
        rule("freshness-max-age-ignore-quoted", False, 'Cache-Control: extension="max-age=3600"'),
        rule("freshness-max-age-ignore-quoted-rev", True, 'Cache-Control: extension="max-age=3600", max-age=3600'),
        rule("freshness-max-age-quoted", True, 'Cache-Control: max-age="3600"'),
        rule("freshness-max-age-single-quoted", False, "Cache-Control: max-age='3600'"),
        rule("freshness-max-age-case-insenstive", True, "Cache-Control: MaX-aGe=3600"),
        rule("freshness-max-age-negative", False, "Cache-Control: max-age=-3600"),
        rule("freshness-max-age-decimal-five", False, "Cache-Control: max-age=3600.5"),
        rule("freshness-max-age-100a", False, "Cache-Control: max-age=3600a"),
        rule("freshness-max-age-a100", False, "Cache-Control: max-age=a3600"),
        rule("freshness-max-age-extension", True, "Cache-Control: foobar, max-age=3600"),
        rule("freshness-max-age-two-stale-fresh-sameline", False, "Cache-Control: max-age=0, max-age=3600"),
        rule("freshness-max-age-two-fresh-stale-sepline", False, FRESH, "Cache-Control: max-age=0"),
        rule("freshness-expires-rfc850", True, NOW, f"Expires: {date(3600, RFC850)}"),
        rule("freshness-expires-ansi-c", True, NOW, f"Expires: {date(3600, ASCTIME)}"),
        rule("freshness-expires-invalid", False, NOW, "Expires: tomorrow"),
        rule("freshness-expires-invalid-multiple-lines", False, NOW, f"Expires: {date(3600)}", f"Expires: {date(7200)}"),
        rule("freshness-expires-wrong-case-weekday", True, NOW, f"Expires: {date(3600).lower()[:3] + date(3600)[3:]}"),
        rule("age-parse-suffix", False, FRESH, "Age: 7200, 0"),
        rule("age-parse-prefix", True, FRESH, "Age: 0, 7200"),
        rule("age-parse-suffix-twoline", False, FRESH, "Age: 7200", "Age: 0"),
        rule("age-parse-nonnumeric", True, FRESH, "Age: abc"),
        rule("age-parse-large", False, FRESH, "Age: 99999999999999999"),
    ],
    "response directives": [
        rule("cc-resp-no-store", False, "Cache-Control: no-store"),
        rule("cc-resp-no-store-case-insensitive", False, "Cache-Control: No-StOrE", FRESH),
        rule("cc-resp-no-store-fresh", False, FRESH, "Cache-Control: no-store"),
        rule("cc-resp-no-store-old-new", False, "Cache-Control: no-store", f"Expires: {date(3600)}"),
        rule("cc-resp-no-store-behind-rubbish", False, 'Cache-Control: max-age=3600, =, "=", ;no-transform=, x="a, =no-store'),
        rule("cc-resp-private-behind-a-quote", False, 'Cache-Control: max-age=3600, x="a\\", private'),
        rule("cc-resp-private-shared", False, "Cache-Control: private, max-age=3600"),
        rule("cc-resp-private-qualified", False, 'Cache-Control: private="x-a", max-age=3600'),
        rule("cc-resp-no-cache", False, "Cache-Control: no-cache", f"Expires: {date(3600)}", MODIFIED),
        rule("cc-resp-no-cache-case-insensitive", False, "Cache-Control: No-CaChE, max-age=3600", MODIFIED),
        rule("cc-resp-must-revalidate-fresh", True, "Cache-Control: max-age=3600, must-revalidate"),
        rule("cc-resp-must-revalidate-stale", False, "Cache-Control: max-age=0, must-revalidate", 'ETag: "a"'),
        rule("cc-resp-immutable-fresh", True, "Cache-Control: max-age=3600, immutable"),
        rule("pragma-response-no-cache", True, FRESH, "Pragma: no-cache"),
        rule("vary-syntax-star", False, FRESH, "Vary: *"),
        rule("vary-syntax-empty-star-lines", False, FRESH, "Vary:", "Vary: *"),
        rule("vary-syntax-foo-star", False, FRESH, "Vary: Foo, *"),
        rule("other-set-cookie", False, FRESH, "Set-Cookie: a=b"),
        rule("other-cookie", True, FRESH, second=("Cookie: a=b",)),
    ],
    "authorization": [
        rule("other-authorization", False, FRESH, first=BEARER, second=BEARER),
        rule("other-authorization-public", True, "Cache-Control: max-age=3600, public", first=BEARER),
        rule("other-authorization-must-revalidate", True, "Cache-Control: max-age=3600, must-revalidate", first=BEARER),
        rule("other-authorization-smaxage", True, "Cache-Control: s-maxage=3600", first=BEARER),
    ],
    "request directives": [
        rule("ccreq-ma0", False, FRESH, second=("Cache-Control: max-age=0",)),
        rule("ccreq-ma1", False, FRESH, "Age: 1800", second=("Cache-Control: max-age=600",)),
        rule("ccreq-magreaterage", True, FRESH, "Age: 100", second=("Cache-Control: max-age=600",)),
        rule("ccreq-max-stale", True, "Cache-Control: max-age=1", "Age: 100", "ETag: \"a\"", second=("Cache-Control: max-stale=1000",)),
        rule("ccreq-max-stale-age", False, "Cache-Control: max-age=1", "Age: 100", "ETag: \"a\"", second=("Cache-Control: max-stale=10",)),
        rule("ccreq-max-stale-any", True, "Cache-Control: max-age=1", "Age: 100", "ETag: \"a\"", second=("Cache-Control: max-stale",)),
        rule("ccreq-max-stale-must-revalidate", False, "Cache-Control: max-age=1, must-revalidate", "Age: 100", 'ETag: "a"',
             second=("Cache-Control: max-stale=1000",)),
        rule("ccreq-min-fresh", False, "Cache-Control: max-age=1000", second=("Cache-Control: min-fresh=2000",)),
        rule("ccreq-min-fresh-age", False, "Cache-Control: max-age=1000", "Age: 500", second=("Cache-Control: min-fresh=600",)),
        rule("ccreq-min-fresh-enough", True, "Cache-Control: max-age=1000", second=("Cache-Control: min-fresh=500",)),
        rule("ccreq-no-cache", False, FRESH, second=("Cache-Control: no-cache",)),
        rule("ccreq-no-cache-etag", False, FRESH, 'ETag: "a"', second=("Cache-Control: no-cache",)),
        rule("ccreq-no-store", False, FRESH, first=("Cache-Control: no-store",)),
        rule("pragma-request-no-cache", False, FRESH, second=("Pragma: no-cache",)),
        rule("pragma-request-extension", True, FRESH, second=("Pragma: foo",)),
    ],
    "heuristics and statuses": [
        *[rule(f"heuristic-{status}-cached", True, NOW, MODIFIED, status=status)
          for status in (200, 203, 204, 404, 405, 410, 414, 501)],
        *[rule(f"heuristic-{status}-not_cached", False, NOW, MODIFIED, status=status)
          for status in (201, 202, 403, 502, 503, 504)],
        rule("heuristic-599-cached", True, NOW, MODIFIED, "Cache-Control: public", status=599),
        *[rule(f"status-{status}-fresh", True, FRESH, status=status)
          for status in (200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599)],
        *[rule(f"status-{status}-stale", False, "Cache-Control: max-age=1", "Age: 100", status=status)
          for status in (200, 204, 301, 404, 500)],
        rule("status-599-must-understand", False, "Cache-Control: max-age=3600, must-understand", status=599),
        rule("status-200-must-understand", True, "Cache-Control: max-age=3600, no-store, must-understand"),
        rule("status-206-fresh", False, FRESH, "Content-Range: bytes 0-3/9", status=206),
    ],
    "vary": [
        rule("vary-match", True, FRESH, "Vary: Foo", first=("Foo: 1",), second=("Foo: 1",)),
        rule("vary-no-match", False, FRESH, "Vary: Foo", first=("Foo: 1",), second=("Foo: 2",)),
        rule("vary-omit", False, FRESH, "Vary: Foo", first=("Foo: 1",)),
        rule("vary-omit-stored", False, FRESH, "Vary: Foo", second=("Foo: 1",)),
        rule("vary-neither", True, FRESH, "Vary: Foo"),
        rule("vary-empty-is-not-absent", False, FRESH, "Vary: Foo", second=("Foo:",)),
        rule("vary-2-match", True, FRESH, "Vary: Foo, Bar", first=("Foo: 1", "Bar: a"), second=("Bar: a", "Foo: 1")),
        rule("vary-2-no-match", False, FRESH, "Vary: Foo, Bar", first=("Foo: 1", "Bar: a"), second=("Foo: 1", "Bar: b")),
        rule("vary-2-match-omit", False, FRESH, "Vary: Foo, Bar", first=("Foo: 1", "Bar: a"), second=("Foo: 1",)),
        rule("vary-3-lines", False, FRESH, "Vary: Foo", "Vary: Bar", first=("Bar: 1",), second=("Bar: 2",)),
        rule("vary-normalise-combine", True, FRESH, "Vary: Foo", first=("Foo: 1, 2",), second=("Foo: 1", "Foo: 2")),
        rule("vary-normalise-space", True, FRESH, "Vary: Foo", first=("Foo: 1,2",), second=("Foo: 1 ,\t2",)),
        rule("vary-case-of-names", True, FRESH, "Vary: fOO", first=("Foo: 1",), second=("FOO: 1",)),
        rule("vary-case-of-values", False, FRESH, "Vary: Foo", first=("Foo: a",), second=("Foo: A",)),
    ],
}


def answer(rules, request):
    it = rules[request.target[1:]]
    return it.status, b"" if it.status == 204 else b"body", it.fields


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_said_decides_what_is_used_again(moongate, origin, group):
    rules = {it.name: it for it in GROUPS[group]}
    server = origin.answers(lambda request: answer(rules, request))
    gate = moongate(f"""
        gate.route {{ "/*", policies = {{ require "cache" {{}} }},
                     upstream = gate.upstream("app", {{ peers = {{ "{server}" }}, retry = {{ attempts = 1 }} }}) }}""")
    client, reused = gate.raw(), {}

    for it in GROUPS[group]:
        assert client.get("/" + it.name, *it.first).status == it.status, it
        before = server.seen
        reply = client.get("/" + it.name, *it.second)
        reused[it.name] = server.seen == before
        assert reply.status == it.status and (reply["age"] is not None or not reused[it.name]), it

    assert reused == {name: it.reused for name, it in rules.items()}


CONDITIONS = [
    # name, stored fields, the client's, status, what the origin is asked with when it is stale
    ("conditional-etag-strong-respond", ['ETag: "a"'], ['If-None-Match: "a"'], 304),
    ("conditional-etag-weak-respond", ['ETag: W/"a"'], ['If-None-Match: W/"a"'], 304),
    ("conditional-etag-strong-respond-multiple-first", ['ETag: "a"'], ['If-None-Match: "a", "b"'], 304),
    ("conditional-etag-strong-respond-multiple-last", ['ETag: "a"'], ['If-None-Match: "b", "a"'], 304),
    ("conditional-etag-strong-respond-other", ['ETag: "a"'], ['If-None-Match: "b"'], 200),
    ("conditional-etag-precedence", ['ETag: "a"', MODIFIED], ['If-None-Match: "b"', f"If-Modified-Since: {date()}"], 200),
    ("conditional-lm-fresh", [MODIFIED], [f"If-Modified-Since: {date()}"], 304),
    ("conditional-lm-fresh-earlier", [MODIFIED], [f"If-Modified-Since: {date(-200_000)}"], 200),
    ("conditional-lm-fresh-rfc850", [MODIFIED], [f"If-Modified-Since: {date(0, RFC850)}"], 304),
    ("conditional-lm-fresh-no-lm", [NOW], [f"If-Modified-Since: {date(-3000)}"], 200),
]


@pytest.mark.parametrize("name, stored, asked, status", CONDITIONS, ids=[name for name, *_ in CONDITIONS])
def test_a_condition_is_met_by_what_is_stored(moongate, origin, name, stored, asked, status):
    server = origin.answers(200, b"body", [FRESH, *stored])
    gate = moongate(f"""
        gate.route {{ "/*", policies = {{ require "cache" {{}} }}, upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")
    gate.get("/")

    assert gate.get("/", *asked).status == status and server.seen == 1

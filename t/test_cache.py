"""scripts/cache.lua: what is stored, who gets it, and what becomes of it."""
import json
import subprocess
import threading
import time
from email.utils import formatdate

import pytest

from moongate import run, wait_until


def date(seconds=0):
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.fixture
def cached(moongate):
    """cached(origin, options): a gateway with a cache in front of this origin."""
    def start(server, options="", before="", policies="", upstream="", **more):
        return moongate(f"""{before}
            local cache = require "cache" {{ {options} }}
            local app = gate.upstream("app", {{ peers = {{ "{server}" }}, {upstream} }})
            gate.route {{ "/stats", handler = function() return 200, gate.cache("cache", SIZE or "64M"):stats() end }}
            gate.route {{ "/*", policies = {{ {policies} cache }}, upstream = app }}
        """, **more)
    return start


def status_of(reply):
    return reply["cache-status"]


def test_the_second_client_gets_what_the_first_has_caused(cached, origin):
    server = origin.answers(200, b"x" * 1000, ["Cache-Control: max-age=60", "X-Own: 1", 'ETag: "a"'])
    gate = cached(server)

    first, second = gate.get("/a?b=1"), gate.get("/a?b=1")

    assert server.seen == 1
    assert (first.body, second.body) == (b"x" * 1000, b"x" * 1000)
    assert status_of(first) == "moongate; fwd=uri-miss; stored"
    assert status_of(second).startswith("moongate; hit; ttl=")
    assert (second["x-own"], second["etag"], second["age"], second["content-length"]) == ("1", '"a"', "0", "1000")
    assert first["age"] is None


@pytest.mark.parametrize("one, other", [
    (("GET", "/a"), ("GET", "/b")), (("GET", "/a"), ("GET", "/a?")), (("GET", "/a?x=1"), ("GET", "/a?x=2")),
    (("GET", "/a", "Host: one.test"), ("GET", "/a", "Host: other.test")),
    (("GET", "/a", "Host: one.test"), ("GET", "/a", "Host: one.test:81")),
], ids=["path", "empty query", "query", "host", "port"])
def test_other_urls_are_other_entries(cached, origin, one, other):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60"])
    gate = cached(server)

    for asked in (one, other, one, other):
        assert gate.request(*asked).status == 200

    assert server.seen == 2


def test_a_body_cut_by_the_origin_is_not_stored(cached, origin):
    def script(connection):
        if connection.request():
            connection.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\nhalf of")
    server = origin.plays(script)
    gate = cached(server)

    for _ in range(2):
        client = gate.raw()
        client.send(b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n")
        client.cut_response()

    assert server.seen == 2


@pytest.mark.parametrize("length", [0, 1, 40_000, 300_000, 900_000])
def test_bodies_of_any_length_come_back_as_they_were(cached, origin, length):
    body = bytes(i * 7 % 251 for i in range(length))
    server = origin.answers(200, body, ["Cache-Control: max-age=60"])
    gate = cached(server)

    replies = [gate.get("/") for _ in range(3)]

    assert server.seen == 1
    assert all(reply.body == body for reply in replies)
    assert replies[2].framing == "length"


def test_a_chunked_body_is_stored_and_then_says_its_length(cached, origin):
    def script(connection):
        while connection.request():
            connection.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
                            b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
    server = origin.plays(script)
    gate = cached(server)

    first, second = gate.get("/"), gate.get("/")

    assert (first.body, second.body, second["content-length"], server.seen) == (b"abcdefg", b"abcdefg", "7", 1)


def test_a_body_above_the_bound_streams_by_and_is_not_stored(cached, origin):
    server = origin.answers(200, b"y" * 70_000, ["Cache-Control: max-age=60"])
    gate = cached(server, 'max_body = "64K"')

    replies = [gate.get("/") for _ in range(2)]

    assert [len(reply.body) for reply in replies] == [70_000, 70_000]
    assert server.seen == 2


def test_a_response_streams_to_its_client_while_it_is_being_stored(cached, origin):
    server = origin.plays(lambda connection: (
        connection.request(), connection.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 8\r\n\r\nhalf"),
        go.wait(10), connection.send(b"half"), connection.request()))
    go = threading.Event()
    gate = cached(server)
    client = gate.raw()

    client.send(b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n")
    head = client.final_head()
    begun = client.exactly(4)
    go.set()

    assert (head.status, begun, client.exactly(4)) == (200, b"half", b"half")
    assert gate.get("/").body == b"halfhalf" and server.seen == 1


def test_head_is_answered_from_a_stored_get(cached, origin):
    server = origin.answers(200, b"z" * 50_000, ["Cache-Control: max-age=60"])
    gate = cached(server)

    gate.get("/")
    reply = gate.request("HEAD", "/")

    assert (server.seen, reply.status, reply["content-length"], reply.body) == (1, 200, "50000", b"")


def test_policies_before_the_cache_decide_about_hits_as_well(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60"])
    gate = cached(server, policies="""
        function(req, next)
            if req.headers["x-secret"] ~= "yes" then return 403 end
            return next(req)
        end, { access = function(req) if req.headers["x-bad"] then return 401 end end },""")

    assert gate.get("/", "X-Secret: yes").status == 200
    assert [gate.get("/").status, gate.get("/", "X-Secret: yes", "X-Bad: 1").status] == [403, 401]
    assert gate.get("/", "X-Secret: yes").status == 200 and server.seen == 1


def test_response_hooks_see_hits_as_they_see_the_origins_responses_and_are_not_stored(cached, origin):
    server = origin.answers(200, b"plain text", ["Cache-Control: max-age=60"])
    gate = cached(server, before="local n = 0", policies="""
        { response = function(req, res) n = n + 1; res.headers["x-count"] = n; res:replace("plain", "edited") end },""")

    replies = [gate.get("/") for _ in range(3)]

    assert [(reply["x-count"], reply.body) for reply in replies] == [(str(n), b"edited text") for n in (1, 2, 3)]
    assert server.seen == 1


def test_what_a_policy_within_makes_of_the_body_is_not_stored(moongate, origin):
    server = origin.answers(200, b"plain text", ["Cache-Control: max-age=60"])
    gate = moongate(f"""
        local edit = {{ handle = function(req, next)
            return next(req, function(_, res) res:replace("plain", "edited") end)
        end }}
        gate.route {{ "/*", policies = {{ require "cache" {{}}, edit }},
                     upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")

    replies = [gate.get("/") for _ in range(2)]

    assert [reply.body for reply in replies] == [b"edited text"] * 2 and server.seen == 2


# ---- Who gets what. ----

def test_variants_are_told_apart_by_the_fields_that_vary_names(cached, origin):
    server = origin.answers(lambda request: (200, (request["accept-language"] or "none").encode(),
                                             ["Cache-Control: max-age=60", "Vary: Accept-Language, X-Other"]))
    gate = cached(server)

    def ask(*fields):
        return gate.get("/", *fields).body

    for _ in range(2):
        assert ask("Accept-Language: de") == b"de"
        assert ask("Accept-Language: en") == b"en"
        assert ask() == b"none"
        assert ask("Accept-Language: de", "X-Other: 1") == b"de"

    assert server.seen == 4
    assert status_of(gate.get("/", "Accept-Language: fr")) == "moongate; fwd=vary-miss; stored"


def test_no_more_than_sixty_four_variants_of_a_url_are_kept(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60", "Vary: User-Agent"])
    gate = cached(server, before='SIZE = "64M"')
    client = gate.raw()

    for n in range(100):
        assert client.get("/", f"User-Agent: {n}").status == 200

    assert json.loads(gate.get("/stats").body)["entries"] == 64


@pytest.mark.parametrize("asked, status, body, span", [
    ("bytes=2-4", 206, b"234", "bytes 2-4/10"), ("bytes=7-", 206, b"789", "bytes 7-9/10"),
    ("bytes=-3", 206, b"789", "bytes 7-9/10"), ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=10-", 416, b"", "bytes */10"), ("bytes=-0", 416, b"", "bytes */10"),
    ("bytes=1-2,4-5", 200, b"0123456789", None), ("lines=1-2", 200, b"0123456789", None),
    ("bytes=4-2", 200, b"0123456789", None),
])
def test_a_part_is_cut_out_of_a_stored_response(cached, origin, asked, status, body, span):
    server = origin.answers(200, b"0123456789", ["Cache-Control: max-age=60", 'ETag: "v1"'])
    gate = cached(server)
    gate.get("/")

    reply = gate.get("/", f"Range: {asked}")

    assert (reply.status, reply.body, reply["content-range"]) == (status, body, span)
    assert gate.get("/", "Range: bytes=1-1", 'If-Range: "v1"').body == b"1"
    assert gate.get("/", "Range: bytes=1-1", 'If-Range: "v2"').body == b"0123456789"
    assert server.seen == 1


def test_a_part_of_a_long_stored_body(cached, origin):
    body = bytes(i * 11 % 253 for i in range(500_000))
    server = origin.answers(200, body, ["Cache-Control: max-age=60"])
    gate = cached(server)
    gate.get("/")

    reply = gate.get("/", "Range: bytes=100000-399999")

    assert (reply.status, reply.body == body[100_000:400_000], server.seen) == (206, True, 1)


def test_a_part_from_the_origin_is_passed_on_and_not_stored(cached, origin):
    def answer(request):
        if request["range"]:
            return 206, b"12", ["Cache-Control: max-age=60", "Content-Range: bytes 1-2/5"]
        return 200, b"01234", ["Cache-Control: max-age=60"]
    server = origin.answers(answer)
    gate = cached(server)

    replies = [gate.get("/", "Range: bytes=1-2"), gate.get("/"), gate.get("/", "Range: bytes=1-2")]

    assert [(r.status, r.body) for r in replies] == [(206, b"12"), (200, b"01234"), (206, b"12")]
    assert server.seen == 2


@pytest.mark.parametrize("asked, status", [
    ('If-None-Match: "v1"', 304), ('If-None-Match: W/"v1"', 304), ('If-None-Match: "v0", "v1"', 304),
    ("If-None-Match: *", 304), ('If-None-Match: "v2"', 200), (f"If-Modified-Since: {date()}", 304),
    (f"If-Modified-Since: {date(-9000)}", 200), ("If-Modified-Since: yesterday", 200),
], ids=["same", "weak", "one of two", "any", "other", "later", "earlier", "no date"])
def test_a_client_that_has_it_already_gets_304(cached, origin, asked, status):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60", 'ETag: "v1"', f"Last-Modified: {date(-5000)}",
                                         "Content-Type: text/html"])
    gate = cached(server)
    gate.get("/")

    reply = gate.get("/", asked)

    assert (reply.status, reply["etag"], reply["cache-control"], server.seen) == (status, '"v1"', "max-age=60", 1)
    if status == 304:
        assert reply["content-type"] is None and reply["content-length"] is None


# ---- What is stale. ----

def revalidating(origin, first, second):
    """An origin whose response is stale when it comes; it confirms, with these fields."""
    def answer(request):
        if request["if-none-match"] == '"v1"':
            return 304, b"", second
        return 200, b"body", ['ETag: "v1"', *first]
    return origin.answers(answer)


def test_a_stale_response_is_confirmed_by_its_origin_and_takes_the_new_fields(cached, origin):
    server = revalidating(origin, ["Cache-Control: max-age=1", "Age: 5", "X-Old: 1", "X-Both: 1"],
                          ["Cache-Control: max-age=60", "X-Both: 2", 'ETag: "v1"'])
    gate = cached(server)

    first, second, third = gate.get("/"), gate.get("/"), gate.get("/")

    assert [reply.body for reply in (first, second, third)] == [b"body"] * 3
    assert status_of(second) == "moongate; fwd=stale; fwd-status=304"
    for reply in (second, third):
        assert (reply.status, reply["x-old"], reply["x-both"], reply["cache-control"]) == (200, "1", "2", "max-age=60")
    assert server.seen == 2 and status_of(third).startswith("moongate; hit")


def test_a_client_with_its_own_copy_gets_304_also_when_the_cache_had_to_ask(cached, origin):
    server = revalidating(origin, ["Cache-Control: max-age=1", "Age: 5"], ["Cache-Control: max-age=60"])
    gate = cached(server)
    gate.get("/")

    reply = gate.get("/", 'If-None-Match: "v1"')
    part = gate.get("/", "Range: bytes=1-2")

    assert (reply.status, part.status, part.body, server.seen) == (304, 206, b"od", 2)


def test_a_new_response_takes_the_place_of_a_stale_one(cached, origin):
    bodies = iter([b"one", b"two", b"three"])
    server = origin.answers(lambda request: (200, next(bodies), ["Cache-Control: max-age=10", 'ETag: "x"', "Age: 20"]
                                             if server.seen == 1 else ["Cache-Control: max-age=10"]))
    gate = cached(server)

    assert [gate.get("/").body for _ in range(3)] == [b"one", b"two", b"two"]
    assert server.requests[1]["if-none-match"] == '"x"'


def test_a_stale_response_stands_in_for_an_origin_that_fails(cached, origin):
    state = {"status": 200}
    server = origin.answers(lambda request: (state["status"], b"body", [
        "Cache-Control: max-age=1, stale-if-error=60", "Age: 5", 'ETag: "a"'] if state["status"] == 200 else []))
    gate = cached(server)
    gate.get("/")

    state["status"] = 503
    reply = gate.get("/")

    assert (reply.status, reply.body, status_of(reply)) == (200, b"body", "moongate; hit; fwd=stale; fwd-status=503")
    assert gate.get("/other").status == 503


def test_a_stale_response_stands_in_for_an_origin_that_is_away(cached, origin):
    server = origin.answers(200, b"body", ["Cache-Control: max-age=1", "Age: 5"])
    gate = cached(server, "stale_if_error = 60")
    gate.get("/")

    server.close()
    reply = gate.get("/")

    assert (reply.status, reply.body) == (200, b"body")


@pytest.mark.parametrize("also", ["must-revalidate", "proxy-revalidate", "s-maxage=1"])
def test_what_must_be_confirmed_never_stands_in(cached, origin, also):
    server = origin.answers(200, b"body", [f"Cache-Control: max-age=1, stale-if-error=60, {also}", "Age: 5", 'ETag: "a"'])
    gate = cached(server, "stale_if_error = 60")
    gate.get("/")

    server.close()

    assert gate.get("/").status == 502


def test_while_a_stale_one_is_given_out_a_new_one_is_asked_for(cached, origin):
    bodies = iter([b"one", b"two", b"three"])
    server = origin.answers(lambda request: (200, next(bodies), [
        "Cache-Control: max-age=10, stale-while-revalidate=60", *(["Age: 20"] if server.seen == 1 else [])]))
    gate = cached(server)

    first, second = gate.get("/p?q=1", "X-Mine: yes"), gate.get("/p?q=1", "X-Mine: yes")
    server.wait_seen(2)

    assert (first.body, second.body) == (b"one", b"one")
    assert wait_until(lambda: gate.get("/p?q=1").body == b"two")
    assert (server.seen, server.last.target, server.last["host"], server.last["x-mine"]) == (2, "/p?q=1", "example.test", "yes")


def test_what_is_confirmed_behind_the_clients_back_counts_anew(cached, origin):
    server = revalidating(origin, ["Cache-Control: max-age=1, stale-while-revalidate=60", "Age: 5"],
                          ["Cache-Control: max-age=60"])
    gate = cached(server)

    assert [gate.get("/").body for _ in range(2)] == [b"body"] * 2
    assert wait_until(lambda: gate.get("/")["cache-control"] == "max-age=60")
    assert server.seen == 2


# ---- One for all. ----

def ask_together(gate, count, target="/"):
    replies = []

    def ask():
        replies.append(gate.get(target))
    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, replies


@pytest.mark.parametrize("workers", [1, 2])
def test_many_who_ask_for_the_same_cause_one_request(cached, origin, workers):
    server = origin.plays(lambda connection: serve_slowly(connection, go, ["Cache-Control: max-age=60"]))
    go = threading.Event()
    gate = cached(server, workers=workers)

    threads, replies = ask_together(gate, 20)
    server.wait_seen(1)
    gate.wait_total("exchanges", 20)
    go.set()
    for thread in threads:
        thread.join()

    assert [reply.body for reply in replies] == [b"answer"] * 20 and server.seen == 1


def serve_slowly(connection, go, fields):
    while connection.request():
        go.wait(10)
        connection.answer(200, b"answer", fields)


def test_what_is_not_stored_does_not_make_others_wait_in_a_row(cached, origin):
    together = threading.Barrier(6, timeout=10)

    def script(connection):
        while request := connection.request():
            if request.target == "/" and server.seen > 1:
                together.wait()
            connection.answer(200, b"private", ["Cache-Control: private"])
    server = origin.plays(script)
    gate = cached(server, "wait = 60")
    gate.get("/")

    threads, replies = ask_together(gate, 6)
    for thread in threads:
        thread.join()

    assert [reply.status for reply in replies] == [200] * 6 and server.seen == 7


def test_who_waits_goes_on_alone_when_that_takes_too_long(cached, origin):
    server = origin.plays(lambda connection: serve_slowly(connection, go, ["Cache-Control: max-age=60"]))
    go = threading.Event()
    gate = cached(server, "wait = 0.2")

    threads, replies = ask_together(gate, 3)
    server.wait_seen(3)
    go.set()
    for thread in threads:
        thread.join()

    assert [reply.status for reply in replies] == [200] * 3


def test_when_the_one_who_asks_leaves_another_takes_its_place(cached, origin):
    server = origin.plays(lambda connection: serve_slowly(connection, go, ["Cache-Control: max-age=60"]))
    go = threading.Event()
    gate = cached(server)
    leader = gate.raw()
    leader.send(b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n")
    server.wait_seen(1)

    threads, replies = ask_together(gate, 5)
    gate.wait_total("exchanges", 6)
    leader.close()
    server.wait_seen(2)
    go.set()
    for thread in threads:
        thread.join()

    assert [reply.status for reply in replies] == [200] * 5 and server.seen == 2


# ---- What goes before its time. ----

PURGE = 'purge = { "127.0.0.1" }'


def test_purge_takes_out_a_url_with_all_its_variants(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60", "Vary: X-V"])
    gate = cached(server, PURGE)
    for value in "12":
        gate.get("/a", f"X-V: {value}")
    gate.get("/b")

    reply = gate.request("PURGE", "/a")

    assert (reply.status, json.loads(reply.body)) == (200, {"purged": 2})
    gate.get("/b")
    assert server.seen == 3
    gate.get("/a", "X-V: 1")
    assert server.seen == 4


def test_purge_with_a_star_takes_out_all_that_begins_so(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60"])
    gate = cached(server, PURGE)
    for target in ("/img/1", "/img/2", "/css/1"):
        gate.get(target)

    assert json.loads(gate.request("PURGE", "/img/*").body) == {"purged": 2}
    assert json.loads(gate.request("PURGE", "/*").body) == {"purged": 1}


@pytest.mark.parametrize("field, asked", [("Cache-Tag: user-1, list", "list"), ("Surrogate-Key: user-1 list", "user-1")])
def test_purge_by_tag_takes_out_what_bears_it(cached, origin, field, asked):
    server = origin.answers(lambda request: (200, b"ok", ["Cache-Control: max-age=60"] + (
        [field] if request.target == "/tagged" else ["Cache-Tag: user-11, listing"])))
    gate = cached(server, PURGE)
    gate.get("/tagged")
    gate.get("/other")

    assert json.loads(gate.request("PURGE", "/", f"Cache-Tag: {asked}").body) == {"purged": 1}
    gate.get("/other")
    assert server.seen == 2


def test_purge_is_for_those_who_may_and_others_reach_the_origin_without_the_option(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60"])

    assert cached(server, 'purge = { "10.0.0.0/8" }').request("PURGE", "/").status == 403
    assert cached(server).request("PURGE", "/").status == 200 and server.last.method == "PURGE"


def test_what_was_on_its_way_when_its_url_was_purged_is_not_stored(cached, origin):
    server = origin.plays(lambda connection: serve_slowly(connection, go, ["Cache-Control: max-age=60"]))
    go = threading.Event()
    go.set()
    gate = cached(server, PURGE)

    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6\r\n\r\nold")
        purged.wait(10)
        connection.send(b"old")
        connection.request()
    purged = threading.Event()
    slow = origin.plays(script)
    gate = cached(slow, PURGE)
    client = gate.raw()
    client.send(b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n")
    head = client.final_head()
    assert gate.request("PURGE", "/").status == 200
    purged.set()

    assert client.body(head).body == b"oldold"
    assert json.loads(gate.get("/stats").body)["stored"] == 0


@pytest.mark.parametrize("field, purged", [
    (None, []), ("Location: /new", ["/new"]), ("Content-Location: new", ["/dir/new"]),
    ("Location: http://example.test/new", ["/new"]), ("Location: http://other.test/new", []),
    ("Location: //example.test/new", ["/new"]),
])
def test_a_request_that_changes_something_purges_its_url_and_those_it_names(cached, origin, field, purged):
    server = origin.answers(lambda request: (
        (201, b"", [field] if field else []) if request.method == "POST" else (200, b"ok", ["Cache-Control: max-age=60"])))
    gate = cached(server)
    targets = ["/dir/a", "/new", "/dir/new"]
    for target in targets:
        gate.get(target)

    gate.post("/dir/a", body=b"x")
    before = server.seen
    for target in targets:
        gate.get(target)

    assert [request.target for request in server.requests[before:]] == ["/dir/a", *purged]


# ---- Options. ----

def test_responses_with_cookies_are_stored_only_without_them_and_if_that_is_said(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60", "Set-Cookie: a=b"])
    careful, stripping = cached(server), cached(server, 'set_cookie = "strip"')

    assert [careful.get("/")["set-cookie"] for _ in range(2)] == ["a=b", "a=b"]
    assert [stripping.get("/")["set-cookie"] for _ in range(2)] == ["a=b", None]


def test_a_key_of_ones_own_and_a_way_around(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60"])
    gate = cached(server, 'key = function(req) return req.path end, bypass = function(req) return req.query == "fresh" end')

    for target in ("/a?1", "/a?2", "/b", "/a?fresh"):
        gate.get(target)

    assert [request.target for request in server.requests] == ["/a?1", "/b", "/a?fresh"]


def test_a_get_with_a_body_is_nothing_for_the_cache(cached, origin):
    server = origin.answers(lambda request: (200, request.body, ["Cache-Control: max-age=60"]))
    gate = cached(server)

    assert [gate.request("GET", "/", body=b).body for b in (b"one", b"two", b"one")] == [b"one", b"two", b"one"]
    assert gate.get("/").body == b"" and server.seen == 4


def test_a_clients_word_counts_unless_that_is_turned_off(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60"])
    open_gate, closed = cached(server), cached(server, "client_control = false")

    for gate in (open_gate, closed):
        gate.get("/")
        gate.get("/", "Cache-Control: no-cache")

    assert server.seen == 3
    assert open_gate.get("/none", "Cache-Control: only-if-cached").status == 504
    assert open_gate.get("/", "Cache-Control: only-if-cached").status == 200


def test_a_reload_keeps_what_is_stored(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60"])
    gate = cached(server)
    gate.get("/")

    gate.command("reload")

    assert gate.get("/").status == 200 and server.seen == 1


def test_what_became_of_requests_is_counted(cached, origin):
    server = revalidating(origin, ["Cache-Control: max-age=1", "Age: 5"], ["Cache-Control: max-age=60"])
    gate = cached(server, before='gate.route { "/metrics", handler = require "metrics.prometheus" {} }')

    for method in ("GET", "GET", "GET", "POST"):
        gate.request(method, "/")

    page = gate.get("/metrics").body.decode()
    for result, count in (("miss", 1), ("revalidated", 1), ("hit", 1), ("pass", 1)):
        assert f'cache_requests_total{{result="{result}"}} {count}' in page, page


def test_a_request_to_change_the_protocol_is_nothing_for_the_cache(cached, origin):
    server = origin.answers(200, b"ok", ["Cache-Control: max-age=60"])
    gate = cached(server)
    gate.get("/")

    gate.get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==")

    assert server.seen == 2 and server.last["upgrade"] == "websocket"


def test_hits_over_http2(cached, origin):
    server = origin.answers(200, b"q" * 100_000, ["Cache-Control: max-age=60"])
    gate = cached(server)

    def curl(*options):
        return subprocess.run(["curl", "-s", "--http2-prior-knowledge", *options, f"http://127.0.0.1:{gate.port}/"],
                              capture_output=True, timeout=20, check=True).stdout
    bodies = [curl() for _ in range(3)]

    assert bodies == [b"q" * 100_000] * 3 and server.seen == 1
    assert b"content-length: 100000\r\n" in curl("-I")


def test_a_policy_that_asks_twice_gets_each_answer_whole(cached, origin):
    server = origin.answers(200, b"w" * 20_000, ["Cache-Control: max-age=60", "X-Own: yes"])
    gate = cached(server, policies="""function(req, next)
        next(req)
        local res = next(req)
        res.headers["x-twice"] = res.headers["x-own"]
        return res
    end,""")

    replies = [gate.get("/") for _ in range(2)]

    assert [(reply.body, reply["x-twice"]) for reply in replies] == [(b"w" * 20_000, "yes")] * 2


@pytest.mark.parametrize("fields, reused", [
    (["CDN-Cache-Control: max-age=60", "Cache-Control: no-store"], True),
    (["CDN-Cache-Control: no-store", "Cache-Control: max-age=60"], False),
    (["CDN-Cache-Control: max-age=0", f"Expires: {date(60)}"], False),
    (["Cache-Control: max-age=60"], True),
], ids=["fresh", "no-store", "expires does not count", "only Cache-Control"])
def test_a_field_for_this_cache_alone_counts_in_place_of_cache_control(cached, origin, fields, reused):
    server = origin.answers(200, b"ok", fields)
    gate = cached(server, 'control_fields = { "cdn-cache-control" }')

    replies = [gate.get("/") for _ in range(2)]

    assert server.seen == (1 if reused else 2)
    assert replies[1]["cdn-cache-control"] == (fields[0].partition(": ")[2] if fields[0].startswith("CDN") else None)


def test_a_policy_that_asks_again_while_the_first_answer_is_on_its_way_does_not_wait_for_itself(cached, origin):
    def script(connection):
        while connection.request():
            if server.seen == 1:
                connection.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100000\r\n\r\nbegun")
                connection.more()
                return
            connection.answer(200, b"second", ["Cache-Control: max-age=60"])
    server = origin.plays(script)
    gate = cached(server, "wait = 30", policies="function(req, next) next(req) return next(req) end,")
    began = time.monotonic()

    reply = gate.get("/")

    assert (reply.body, server.seen) == (b"second", 2) and time.monotonic() - began < 10


@pytest.mark.parametrize("options, says", [
    ("sise = 1", 'cache: unknown key "sise"; did you mean "size"?'), ('size = "1K"', "size must be"),
    ('purge = { "nowhere" }', "nowhere"), ('set_cookie = "keep"', '"refuse"'), ("heuristic = 2", "heuristic must be"),
])
def test_mistakes_in_the_options_are_told_at_their_line(tmp_path, options, says):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.listen "127.0.0.1:0"\nlocal c = require "cache" {{ {options} }}\n')

    told = run("check", script)

    assert told.returncode == 1 and "gateway.lua:3: " in told.stderr and says in told.stderr


# ---- gate.cache by itself. ----

def test_a_script_may_store_and_find_by_itself(moongate):
    gate = moongate("""
        local store = gate.cache("own", "1M")
        gate.route { "/put", handler = function(req)
            local ok, why = store:put({ key = "k", status = 201, born = gate.now() - 5, fresh = 60, tags = { "a", "b" },
                fields = { { "x-one", "1" }, { "x-two", "2" }, { "x-two", "3" } } }, "stored body", store:purges())
            return 200, { ok, why or gate.json.null, store:stats().entries }
        end }
        gate.route { "/get", policies = { function(req)
            local found, why = store:find(req, "k")
            if not found then return 404, why end
            local list, by_name = store:fields(found)
            local res = store:answer(req, found, nil, 7, 4)
            res.headers["x-fields"] = #list .. by_name["x-two"]
            return res
        end }, handler = function() return 500 end }
        gate.route { "/claims", handler = function(req)
            local first, again = store:claim("c", 10), select(2, store:claim("c", 10))
            local claimed = store:claimed "c"
            store:release("c", nil, 10)
            return 200, { first, again, claimed, store:claimed "c", (select(2, store:claim("c", 10))) }
        end }
        gate.route { "/purge", handler = function() return 200, { store:purge_tag "b", store:purge_tag "b" } end }
        gate.route { "/late", handler = function()
            local since = store:purges()
            store:purge "k"
            return 200, { select(2, store:put({ key = "k", status = 200, born = 0, fresh = 1, fields = {} }, "", since)) }
        end }""")

    assert json.loads(gate.get("/put").body) == [True, None, 1]
    reply = gate.get("/get")
    assert (reply.status, reply.body, reply["x-fields"], reply["age"]) == (201, b"body", "32, 3", "5")
    assert json.loads(gate.get("/claims").body) == [True, "busy", True, False, "pass"]
    assert json.loads(gate.get("/purge").body) == [1, 0]
    assert (gate.get("/get").status, gate.get("/get").body) == (404, b"miss")
    assert json.loads(gate.get("/late").body) == ["purged"]


def test_one_name_has_one_size(tmp_path):
    script = tmp_path / "gateway.lua"
    script.write_text('local gate = require "moongate"\ngate.listen "127.0.0.1:0"\ngate.cache("a", "1M")\ngate.cache("a", "2M")\n')

    told = run("check", script)

    assert told.returncode == 1 and 'gateway.lua:4: gate.cache: "a" stands already with another size' in told.stderr


def test_what_a_trusted_proxy_was_asked_for_is_part_of_the_key_and_what_others_say_is_not(cached, origin):
    server = origin.answers(lambda request: (
        200, f"{request['x-forwarded-proto']} {request['x-forwarded-host']}".encode(), ["Cache-Control: max-age=60"]))
    trusting, careful = cached(server, listen='trusted = { "127.0.0.1" }'), cached(server)
    said = [("X-Forwarded-Proto: https",), ("X-Forwarded-Host: public.test",), ("X-Forwarded-Host: other.test",), ()]

    for fields in said * 2:
        wanted = dict(field.split(": ") for field in fields)
        proto, host = wanted.get("X-Forwarded-Proto", "http"), wanted.get("X-Forwarded-Host", "example.test")
        assert trusting.get("/", *fields).body == f"{proto} {host}".encode()
    assert server.seen == 4

    assert [careful.get("/", *fields).body for fields in said] == [b"http example.test"] * 4
    assert server.seen == 5


def test_interim_responses_pass_and_the_final_one_is_stored(cached, origin):
    def script(connection):
        while connection.request():
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
            connection.answer(200, b"ok", ["Cache-Control: max-age=60"])
    server = origin.plays(script)
    gate = cached(server)

    first, second = gate.get("/"), gate.get("/")

    assert [hint["link"] for hint in first.interims] == ["</a.css>"]
    assert (second.interims, second.body, server.seen) == ([], b"ok", 1)


@pytest.mark.parametrize("said, age, status", [("stale-if-error=60", 30, 200), ("stale-if-error=60", 90, 503)])
def test_a_stale_response_stands_in_no_longer_than_it_says(cached, origin, said, age, status):
    server = origin.answers(lambda request: (
        (200, b"ok", [f"Cache-Control: max-age=1, {said}", f"Age: {age}"]) if server.seen == 1 else (503, b"", [])))
    gate = cached(server)
    gate.get("/")

    assert gate.get("/").status == status


def test_only_one_request_goes_out_behind_the_backs_of_many(cached, origin):
    go = threading.Event()

    def script(connection):
        while request := connection.request():
            if request["x-first"] is None:
                go.wait(10)
            connection.answer(200, b"old" if request["x-first"] else b"new", [
                "Cache-Control: max-age=10, stale-while-revalidate=60", *(["Age: 20"] if request["x-first"] else [])])
    server = origin.plays(script)
    gate = cached(server, workers=2)
    gate.get("/", "X-First: 1")

    bodies = [gate.get("/").body for _ in range(10)]
    server.wait_seen(2)
    go.set()

    assert bodies == [b"old"] * 10
    assert wait_until(lambda: gate.get("/").body == b"new") and server.seen == 2

"""Bodies in the hands of Lua: read whole or in pieces, replaced on their way, and mended when they change."""
import hashlib
import json
import threading
import time

import pytest

import moongate as running
import origin as origins

from client import chunked, request

BIG = bytes(range(256)) * 40960            # 10 MiB


@pytest.fixture
def hooked(moongate, origin):
    """hooked(policy, server): one route with this policy, in front of an origin that echoes."""
    def start(policy, server=None, route="", **options):
        start.origin = server or origin.echoes()
        return moongate(f"""
            gate.route {{ "/*", policies = {{ {policy} }}, {route}
                upstream = gate.upstream("app", {{ peers = {{ "{start.origin}" }} }}) }}
        """, **options)
    return start


def plays(origin, *pieces, fields=("Content-Type: text/plain",), pause=0.0):
    """An origin whose answer comes in these chunks, each written alone."""
    def play(connection):
        while connection.request():
            connection.send(("HTTP/1.1 200 OK\r\n" + "".join(f + "\r\n" for f in fields) +
                             "Transfer-Encoding: chunked\r\n\r\n").encode())
            for piece in pieces:
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                time.sleep(pause)           # so that each is a piece of its own at the proxy
            connection.send(b"0\r\n\r\n")
    return origin.plays(play)


# ---- Reading.

@pytest.mark.parametrize("send", [
    request("POST", body=b'{"n": 7}'),
    request("POST", "/", "Transfer-Encoding: chunked") + chunked(b'{"n"', b": 7", b"}"),
], ids=["length", "chunked"])
def test_a_request_read_with_text_or_json_is_still_forwarded(hooked, send):
    gate = hooked("{ access = function(req) req.headers['x-text'] = req:text(); req.headers['x-n'] = req:json().n end }")
    client = gate.raw()
    client.send(send)

    assert client.response().body == b'{"n": 7}'
    assert (hooked.origin.last["x-text"], hooked.origin.last["x-n"]) == ('{"n": 7}', "7")


def test_json_that_is_none_is_nil_and_the_reason(hooked):
    gate = hooked("{ access = function(req) local v, why = req:json(); return 400, tostring(v) .. ':' .. type(why) end }")

    assert gate.post("/", body=b"{nope").body == b"nil:string"


def test_an_empty_body_is_an_empty_text(hooked):
    gate = hooked("{ access = function(req) return 200, '[' .. tostring(req:text()) .. ']' end }")

    assert gate.get("/").body == b"[]"
    assert gate.post("/", body=b"").body == b"[]"


@pytest.mark.parametrize("framed", [True, False])
def test_text_is_bounded_by_max_text_size(hooked, framed):
    gate = hooked("{ access = function(req) local t, why = req:text(); return 200, { t and #t or 0, why or '' } end }",
                  route='max_text_size = "1K",')

    def ask(body):
        client = gate.raw()
        client.send(request("POST", body=body) if framed
                    else request("POST", "/", "Transfer-Encoding: chunked") + chunked(body))
        return json.loads(client.response().body)

    assert ask(b"x" * 1024) == [1024, ""]
    assert ask(b"x" * 1025) == [0, "the body is longer than max_text_size (1K)"]


def test_chunks_of_a_request_are_taken_piece_by_piece(moongate):
    gate = moongate("""gate.route { "/", handler = function(req)
        local sum, pieces = 0, 0
        for chunk in req:chunks() do sum, pieces = sum + #chunk, pieces + 1 end
        return 200, { sum, pieces }
    end }""")

    total, pieces = json.loads(gate.post("/", body=BIG).body)

    assert total == len(BIG) and pieces > 10


@pytest.mark.parametrize("deed, body", [
    ("return 200, res:text():upper()", b"ONETWO"),
    ("res:text(); res:text(); return res", b"onetwo"),
    ("local n = 0; for c in res:chunks() do n = n + #c end; return 200, n", b"6"),
    ("res.headers['x-text'] = res:text(); return res", b"onetwo"),
], ids=["text", "text-twice", "chunks", "text-then-whole"])
def test_a_response_is_read_in_a_handle(hooked, origin, deed, body):
    gate = hooked(f"function(req, next) local res = next(req); {deed} end", plays(origin, b"one", b"two", pause=0.01))

    assert gate.get("/").body == body


def test_a_responses_text_is_bounded_and_the_body_still_relayed(hooked, origin):
    gate = hooked("function(req, next) local res = next(req); local t, why = res:text(); res.headers['x-why'] = why; return res end",
                  origin.answers(200, b"x" * 5000), route='max_text_size = "1K",')

    reply = gate.get("/")

    assert reply["X-Why"] == "the body is longer than max_text_size (1K)"
    assert reply.body == b"x" * 5000


# ---- Body hooks.

HOOKS = {
    "keep": ("return nil", b"onetwo"),
    "replace": ("return chunk and chunk:upper()", b"ONETWO"),
    "drop": ('return ""', b""),
    "add at the end": ('if not chunk then return "!" end', b"onetwo!"),
    "hold all back": ('req.ctx.all = (req.ctx.all or "") .. (chunk or ""); return chunk and "" or req.ctx.all:reverse()', b"owteno"),
    "wait": ("gate.sleep(0.002); return chunk and chunk .. '.' or nil", None),
}


@pytest.mark.parametrize("deed", HOOKS, ids=[name.replace(" ", "-") for name in HOOKS])
def test_request_body_hooks_change_what_the_origin_gets(hooked, deed):
    text, expected = HOOKS[deed]
    gate = hooked(f"{{ request_body = function(req, chunk) {text} end }}")

    for body in (request("POST", body=b"onetwo"), request("POST", "/", "Transfer-Encoding: chunked") + chunked(b"one", b"two")):
        client = gate.raw()
        client.send(body)
        got = client.response().body
        assert got == expected or (expected is None and got.replace(b".", b"") == b"onetwo" != got)


@pytest.mark.parametrize("deed", HOOKS, ids=[name.replace(" ", "-") for name in HOOKS])
@pytest.mark.parametrize("framed", [True, False], ids=["length", "chunked"])
def test_response_body_hooks_change_what_the_client_gets(hooked, origin, deed, framed):
    text, expected = HOOKS[deed]
    server = origin.answers(200, b"onetwo") if framed else plays(origin, b"one", b"two", pause=0.002)
    gate = hooked(f"{{ response_body = function(req, res, chunk) {text} end }}", server)
    client = gate.raw()

    for _ in range(2):                      # the connection stays in step
        got = client.get("/").body
        assert got == expected or (expected is None and got.replace(b".", b"") == b"onetwo" != got)


def test_several_body_hooks_see_each_others_work_in_their_order(hooked, origin):
    gate = hooked("""{ request_body = function(_, c) return c and c .. "1" end, response_body = function(_, _, c) return c and c .. "a" end },
                     { request_body = function(_, c) return c and c .. "2" end, response_body = function(_, _, c) return c and c .. "b" end }""")

    assert gate.post("/", body=b"x").body == b"x12ba"


def test_a_response_body_hook_that_throws_leaks_no_byte_of_its_piece(hooked, origin):
    gate = hooked("""{ response_body = function(_, _, c) if c and c:find("secret") then error("found one") end end }""",
                  plays(origin, b"open,", b"secret" * 100, b"rest", pause=0.05))
    gate.expect_error("found one")
    client = gate.raw()
    client.send(request())

    client.cut_response()

    assert b"secret" not in client.taken + client.buffer


def test_ten_megabytes_pass_through_a_response_body_hook_that_waits_now_and_then(hooked, origin):
    gate = hooked("""{ response_body = function(req, _, c)
        req.ctx.n = (req.ctx.n or 0) + 1
        if req.ctx.n % 20 == 0 then gate.sleep(0.001) end
        return c
    end }""", origin.answers(200, BIG))

    reply = gate.get("/")

    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(BIG).digest()


def test_ten_megabytes_pass_through_a_request_body_hook(hooked):
    gate = hooked("{ request_body = function(_, c) return c end }")

    assert hashlib.sha256(gate.post("/", body=BIG).body).digest() == hashlib.sha256(BIG).digest()


# ---- res:replace and res:map.

TEXT = b"aab needle ab needneedle le"
EDITED = TEXT.replace(b"needle", b"<pin>")


@pytest.mark.parametrize("split", range(1, len(TEXT)))
def test_replace_sees_across_every_border_of_two_chunks(edited_gate, split):
    gate, pieces = edited_gate
    pieces[:] = [TEXT[:split], TEXT[split:]]

    assert gate.get("/").body == EDITED


def test_replace_sees_across_chunks_of_one_byte(edited_gate):
    gate, pieces = edited_gate
    pieces[:] = [bytes([byte]) for byte in TEXT]

    assert gate.get("/").body == EDITED


@pytest.fixture(scope="module")
def edited_gate(tmp_path_factory):
    """One gateway for all splits: the origin sends whatever stands in the list at the time."""
    made, pieces = origins.Origins(tmp_path_factory.mktemp("origin")), []

    def play(connection):
        while connection.request():
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in pieces:
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                time.sleep(0.002)           # so that each is a piece of its own at the proxy
            connection.send(b"0\r\n\r\n")
    server = made.plays(play)
    gate = running.Moongate(tmp_path_factory.mktemp("gate"), f"""
        gate.route {{ "/*", policies = {{ {{ response = function(_, res) res:replace("needle", "<pin>") end }} }},
            upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}
    """)
    yield gate, pieces
    made.close()
    gate.finish()
    made.check()


@pytest.mark.parametrize("text, calls, expected", [
    (b"aaaa", 'res:replace("aa", "b")', b"bb"),
    (b"aaaa", 'res:replace("a", "aa")', b"aaaaaaaa"),
    (b"aaaa", 'res:replace("a", "b", 2)', b"bbaa"),
    (b"a.b%c", 'res:replace(".", "%1"):replace("%c", "")', b"a%1b"),
    (b"one", 'res:replace("one", "two"):replace("two", "three")', b"three"),
    (b"one", "res:map(function(c) return c and c:upper() or '!' end)", b"ONE!"),
    (b"one", "res:map(function(c) gate.sleep(0.001) end)", b"one"),
    (b"\0\xff\0", r'res:replace("\0", "0")', b"0\xff0"),
], ids=["pairs", "grows", "counted", "plain", "chained", "map", "map-keeps", "bytes"])
def test_edits(hooked, origin, text, calls, expected):
    gate = hooked(f"{{ response = function(_, res) {calls} end }}", origin.answers(200, text))

    assert gate.get("/").body == expected


def test_an_edit_mends_length_and_etag_and_takes_off_what_is_no_longer_true(hooked, origin):
    gate = hooked('{ response = function(_, res) res:replace("a", "bb") end }',
                  origin.answers(200, b"a", ['ETag: "1"', "Content-MD5: x", "Digest: y", "Accept-Ranges: bytes"]))

    reply = gate.get("/")

    assert (reply.body, reply["ETag"]) == (b"bb", 'W/"1"')
    assert not {"content-length", "content-md5", "digest", "accept-ranges"} & {name.lower() for name, _ in reply.fields}


@pytest.mark.parametrize("method, status", [("HEAD", 200), ("GET", 204), ("GET", 304)])
@pytest.mark.parametrize("policy", [
    'response = function(_, res) res:replace("a", "b") end', "response_body = function(_, _, c) return 'more' end",
], ids=["replace", "hook"])
def test_what_has_no_body_gets_none(hooked, origin, method, status, policy):
    gate = hooked(f"{{ {policy} }}", origin.answers(status, b"", ['ETag: "1"']))
    client = gate.raw()

    for _ in range(2):
        reply = client.request(method)
        assert (reply.status, reply.body) == (status, b"")


def test_chunks_arrive_at_the_client_as_they_come_through_a_hook(hooked, origin):
    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        origin.go.wait(10)
        connection.send(b"3\r\ntwo\r\n0\r\n\r\n")
    origin.go = threading.Event()
    gate = hooked("{ response_body = function(_, _, c) return c and c:upper() end }", origin.plays(play))
    client = gate.raw()
    client.send(request())
    client.final_head()
    chunks = client.chunks()

    assert next(chunks) == b"ONE"
    origin.go.set()
    assert b"".join(chunks) == b"TWO"

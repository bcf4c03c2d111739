"""Content codings: body.compress on what goes out, and bodies that are decoded for those who read or edit them."""
import gzip
import random
import subprocess
import threading
import zlib

import brotli
import pytest

from client import chunked, request
from moongate import ROOT, wait_until
from test_bodies_in_lua import plays

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '
PAGE = b"<p>All work and no play makes a dull page.</p>\n" * 400


def zstd(data, *options):
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, capture_output=True, check=True).stdout


def gunzip_all(data):
    """Member after member; nothing may be left over, and the last must be whole."""
    out = b""
    while data:
        member = zlib.decompressobj(31)
        out += member.decompress(data)
        assert member.eof, "the stream is not whole"
        data = member.unused_data
    return out


DECODE = {"gzip": gunzip_all, "br": brotli.decompress, "zstd": lambda data: zstd(data, "-d")}
ENCODE = {
    "gzip": lambda data: gzip.compress(data, mtime=0),        # the same bytes in each second
    "br": lambda data: brotli.compress(data, quality=5), "zstd": zstd, "deflate": zlib.compress,
    "raw deflate": lambda data: (lambda c: c.compress(data) + c.flush())(zlib.compressobj(wbits=-15)),
}


def name_of(coding):
    return "Content-Encoding: " + coding.replace("raw ", "")


@pytest.fixture
def gateway(moongate, origin):
    """gateway(policies, server): one route with these policies in front of the origin."""
    def start(policies, server, route="", **options):
        return moongate(f"""{HERE}
            gate.route {{ "/*", policies = {{ {policies} }}, {route}
                upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}
        """, **options)
    return start


@pytest.fixture
def compressing(gateway, origin):
    """compressing(options, fields): body.compress in front of an origin that sends PAGE."""
    def start(options="", fields=("Content-Type: text/html",), status=200, body=PAGE, server=None, before="", **rest):
        server = server or origin.answers(status, body, list(fields))
        return gateway(f'require "body.compress" {{ {options} }}, {before}', server, **rest)
    return start


# ---- What goes out.

@pytest.mark.parametrize("coding", DECODE)
def test_a_page_is_compressed_in_the_coding_that_the_client_takes(compressing, coding):
    gate = compressing()

    reply = gate.get("/", f"Accept-Encoding: {coding}")

    assert reply["Content-Encoding"] == coding
    assert DECODE[coding](reply.body) == PAGE
    assert len(reply.body) < len(PAGE) / 20
    assert reply["Vary"] == "Accept-Encoding"
    assert reply["Content-Length"] is None


def test_curl_reads_what_is_compressed(compressing):
    gate = compressing()

    for coding in DECODE:
        command = ["curl", "-s", "--compressed", "-H", f"Accept-Encoding: {coding}", f"http://127.0.0.1:{gate.port}/"]
        assert subprocess.run(command, capture_output=True, check=True, timeout=10).stdout == PAGE


@pytest.mark.parametrize("accepts, expected", [
    (None, None), ("", None), ("identity", None), ("deflate", None), ("sdch, compress", None),
    ("gzip, deflate, br, zstd", "zstd"), ("gzip, deflate, br", "br"), ("x-gzip", "gzip"), ("GZip", "gzip"),
    ("*", "zstd"), ("*;q=0", None), ("gzip;q=0", None), ("*, zstd;q=0", "br"), ("gzip;q=1, br;q=0.5", "gzip"),
    ("br;q=0.9,zstd;q=0.1, gzip; q=0.95", "gzip"), ("identity, gzip;q=0.5", None), ("gzip;q=nonsense", None),
    ("gzip;q=0.000", None), (" , gzip ,", "gzip"), ("identity;q=0, gzip;q=0.1", "gzip"),
])
def test_the_clients_q_values_decide(compressing, accepts, expected):
    gate = compressing()

    reply = gate.get("/", *([f"Accept-Encoding: {accepts}"] if accepts is not None else []))

    assert reply["Content-Encoding"] == expected
    assert reply["Vary"] == "Accept-Encoding"
    assert reply.body == PAGE if expected is None else DECODE[expected](reply.body) == PAGE


@pytest.mark.parametrize("why, fields, status", [
    ("no-transform", ["Content-Type: text/html", "Cache-Control: max-age=3, No-Transform"], 200),
    ("coded already", ["Content-Type: text/html", "Content-Encoding: br"], 200),
    ("a part", ["Content-Type: text/html", "Content-Range: bytes 0-9/100"], 206),
    ("a type that is not text", ["Content-Type: image/png"], 200),
    ("events", ["Content-Type: text/event-stream"], 200),
    ("no type", [], 200),
])
def test_what_must_not_be_compressed_passes_as_it_is(compressing, why, fields, status):
    gate = compressing(fields=fields + ['ETag: "1"'], status=status)

    reply = gate.get("/", "Accept-Encoding: gzip")

    assert (reply.status, reply.body, reply["ETag"]) == (status, PAGE, '"1"')
    assert reply["Content-Encoding"] == ("br" if why == "coded already" else None)
    assert reply["Vary"] is None


def test_a_client_that_says_no_transform_gets_the_body_as_it_is(compressing):
    reply = compressing().get("/", "Accept-Encoding: gzip", "Cache-Control: no-transform")

    assert (reply.body, reply["Vary"]) == (PAGE, "Accept-Encoding")


def test_a_short_body_passes_as_it_is_unless_the_client_refuses_that(compressing):
    gate = compressing('min_size = "1K"', body=b"short")

    assert gate.get("/", "Accept-Encoding: gzip").body == b"short"
    assert gunzip_all(gate.get("/", "Accept-Encoding: gzip, identity;q=0").body) == b"short"
    assert gunzip_all(gate.get("/", "Accept-Encoding: gzip, *;q=0").body) == b"short"


def test_options_choose_types_codings_and_levels(compressing):
    gate = compressing('types = { "image/*", "text/event-stream" }, codings = { "gzip", "br" }, level = { gzip = 1 }',
                       fields=["Content-Type: image/bmp; x=y"])

    reply = gate.get("/", "Accept-Encoding: zstd, br, gzip")

    assert reply["Content-Encoding"] == "gzip"
    assert gunzip_all(reply.body) == PAGE


@pytest.mark.parametrize("options, message", [
    ("level = 20", "the level of zstd must be a whole number from 1 to 19, got 20"),
    ('codings = { "lzma" }', 'codings are "zstd", "br" and "gzip", got "lzma"'),
    ("level = { snappy = 1 }", 'level has an unknown coding "snappy"'),
    ("levels = 1", 'unknown key "levels"; did you mean "level"?'),
])
def test_a_mistake_in_the_options_names_it_and_its_line(compressing, options, message):
    with pytest.raises(AssertionError) as refused:
        compressing(options)
    assert message in str(refused.value)
    assert "gateway.lua:3: body.compress: " in str(refused.value)


def test_a_strong_etag_becomes_weak_and_what_is_no_longer_true_goes(compressing):
    gate = compressing(fields=["Content-Type: text/html", 'ETag: "v1"', "Accept-Ranges: bytes", "Digest: x", "Vary: Cookie"])

    reply = gate.get("/", "Accept-Encoding: gzip")

    assert (reply["ETag"], reply["Vary"]) == ('W/"v1"', "Cookie, Accept-Encoding")
    assert reply["Accept-Ranges"] is None and reply["Digest"] is None


def test_a_304_confirms_the_weak_tag_that_the_client_was_given(compressing, origin):
    gate = compressing(server=origin.answers(304, b"", ['ETag: "v1"']))

    given_weak = gate.get("/", "Accept-Encoding: gzip", 'If-None-Match: "v0", W/"v1"')
    given_strong = gate.get("/", "Accept-Encoding: gzip", 'If-None-Match: "v1"')

    assert (given_weak.status, given_weak["ETag"], given_weak["Vary"]) == (304, 'W/"v1"', "Accept-Encoding")
    assert (given_strong.status, given_strong["ETag"]) == (304, '"v1"')


def test_vary_star_and_a_vary_that_says_so_already_stay(compressing):
    for vary in ("*", "Origin, accept-encoding"):
        gate = compressing(fields=["Content-Type: text/html", f"Vary: {vary}"])
        assert gate.get("/", "Accept-Encoding: gzip")["Vary"] == vary


def test_head_says_what_get_would_and_the_connection_stays_in_step(compressing):
    client = compressing().raw()

    head = client.request("HEAD", "/", "Accept-Encoding: br")
    reply = client.request("GET", "/", "Accept-Encoding: br")

    assert (head["Content-Encoding"], head["Content-Length"], head.body) == ("br", None, b"")
    assert brotli.decompress(reply.body) == PAGE


def test_a_client_of_http_1_0_gets_it_too(compressing):
    reply = compressing().request("GET", "/", "Accept-Encoding: gzip", version="1.0")

    assert gunzip_all(reply.body) == PAGE


def test_a_handlers_own_answer_is_compressed_and_an_empty_one_stays_a_whole_stream(moongate):
    gate = moongate(f"""{HERE}
        local compress = require "body.compress" {{ min_size = 0 }}
        gate.route {{ "/large", policies = {{ compress }}, handler = function() return 200, ("line\\n"):rep(1e6) end }}
        gate.route {{ "/made", policies = {{ compress }}, handler = function()
            local n = 0
            return 200, function() n = n + 1; return n <= 100 and ("%d,"):format(n) or nil end, {{ ["content-type"] = "text/plain" }}
        end }}
        gate.route {{ "/empty", policies = {{ compress }}, handler = function() return 200, "" end }}
    """)

    for coding, decode in DECODE.items():
        accept = f"Accept-Encoding: {coding}"
        assert decode(gate.get("/large", accept).body) == b"line\n" * 1000000
        assert decode(gate.get("/made", accept).body) == b"".join(b"%d," % n for n in range(1, 101))
        assert decode(gate.get("/empty", accept).body) == b""


@pytest.mark.parametrize("coding", DECODE)
def test_bodies_of_many_sizes_and_chunkings_come_back_byte_by_byte(compressing, origin, coding):
    rng = random.Random(coding)
    words = [rng.randbytes(rng.randrange(1, 9)) for _ in range(500)]

    def body_of(size):
        half = rng.randbytes(size // 2)
        text = b"".join(rng.choices(words, k=size // 4 + 1))
        return (text + half)[:size]
    bodies = [body_of(size) for size in (0, 1, 2, 31, 1000, 65535, 65536, 65537, 262143, 700001)]
    number = [0]

    def play(connection):
        while connection.request():
            body, at = bodies[number[0]], 0
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
            while at < len(body):
                piece = body[at:at + rng.choice((1, 7, 999, 16384, 65536, 300000))] if len(body) < 70000 or rng.random() < .9 \
                    else body[at:at + 1]
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                at += len(piece)
            connection.send(b"0\r\n\r\n")
    client = compressing("min_size = 0", server=origin.plays(play)).raw()

    for number[0] in range(len(bodies)):
        reply = client.request("GET", "/", f"Accept-Encoding: {coding}")
        assert DECODE[coding](reply.body) == bodies[number[0]]


class Undo:
    """Decodes as far as the bytes reach, whatever is still to come."""
    def __init__(self, coding):
        self.coding, self.seen = coding, b""
        self.one = {"gzip": lambda: zlib.decompressobj(31), "br": brotli.Decompressor}.get(coding, lambda: None)()

    def feed(self, data):
        self.seen += data
        if self.coding == "gzip":
            return self.one.decompress(data)
        if self.coding == "br":
            return self.one.process(data)
        done = subprocess.run(["zstd", "-d", "-c", "-q"], input=self.seen, capture_output=True)
        whole, self.given = done.stdout, getattr(self, "given", 0)
        new, self.given = whole[self.given:], len(whole)
        return new


@pytest.mark.parametrize("coding", DECODE)
def test_a_piece_reaches_the_client_while_the_origin_pauses(compressing, origin, coding):
    go = threading.Event()

    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"data: 1\n\n", b"data: 2\n\n"):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            go.wait(10)
            go.clear()
        connection.send(b"0\r\n\r\n")
    gate = compressing('types = { "text/event-stream" }', server=origin.plays(play))
    client, undo = gate.raw(), Undo(coding)
    client.send(request("GET", "/", f"Accept-Encoding: {coding}"))
    client.final_head()
    chunks = client.chunks()

    def read_until(text):
        got = b""
        while text not in got:
            got += undo.feed(next(chunks))
        return got

    assert read_until(b"data: 1\n\n") == b"data: 1\n\n"
    go.set()
    assert read_until(b"data: 2\n\n") == b"data: 2\n\n"
    go.set()
    assert b"".join(undo.feed(c) for c in chunks) == b""


@pytest.mark.parametrize("coding", DECODE)
def test_a_response_that_breaks_off_at_the_origin_never_looks_whole(compressing, origin, coding):
    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n" + PAGE)
    gate = compressing(server=origin.plays(play))
    client = gate.raw()
    client.send(request("GET", "/", f"Accept-Encoding: {coding}"))

    client.cut_response()


def test_a_client_that_leaves_in_the_middle_leaves_no_coder_behind(compressing, origin):
    go = threading.Event()

    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000000\r\n\r\n" + PAGE)
        go.wait(10)
    gate = compressing(server=origin.plays(play))
    client = gate.raw()
    client.send(request("GET", "/", "Accept-Encoding: gzip"))
    client.final_head()
    gate.wait_total("coders", 1)

    client.close()

    gate.wait_total("coders", 0)
    go.set()


@pytest.mark.parametrize("coding", DECODE)
def test_an_encoder_that_was_left_in_the_middle_begins_anew_with_the_next_body(compressing, origin, coding):
    go = threading.Event()

    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(PAGE))
        connection.send(PAGE[:5000] if not go.is_set() else PAGE)
        go.wait(10)
    gate = compressing(server=origin.plays(play))
    client = gate.raw()
    client.send(request("GET", "/", f"Accept-Encoding: {coding}"))
    client.final_head()
    gate.wait_total("coders", 1)
    client.close()
    gate.wait_total("coders", 0)
    go.set()

    reply = gate.get("/", f"Accept-Encoding: {coding}")

    assert DECODE[coding](reply.body) == PAGE


def test_a_slow_reader_holds_the_origin_back(compressing, origin):
    sent = [0]

    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 50000000\r\n\r\n")
        noise = random.Random(1).randbytes(100000)
        for _ in range(500):
            connection.send(noise)
            sent[0] += 1
    gate = compressing("level = 1", server=origin.plays(play))
    client = gate.raw()
    client.send(request("GET", "/", "Accept-Encoding: gzip"))
    client.final_head()
    before = -1

    def stalls():
        nonlocal before
        stalled, before = sent[0] == before, sent[0]
        return stalled
    wait_until(stalls, every=0.3)

    assert sent[0] < 450
    client.close()


# ---- What comes in coded.

UPPER = "{ response = function(_, res) res:replace('dull', 'bright') end }"
BRIGHT = PAGE.replace(b"dull", b"bright")


@pytest.mark.parametrize("coding", ENCODE)
def test_an_edit_sees_a_coded_body_decoded(gateway, origin, coding):
    gate = gateway(UPPER, origin.answers(200, ENCODE[coding](PAGE), [name_of(coding), 'ETag: "1"']))

    reply = gate.get("/", "Accept-Encoding: gzip")

    assert (reply.body, reply["Content-Encoding"], reply["ETag"]) == (BRIGHT, None, 'W/"1"')


@pytest.mark.parametrize("coding", ENCODE)
def test_a_coded_body_in_pieces_of_any_size_is_decoded(gateway, origin, coding):
    body = ENCODE[coding](PAGE)
    pieces = [body[i:i + 1] for i in range(30)] + [body[30:]]
    gate = gateway(UPPER, plays(origin, *pieces, fields=(name_of(coding),), pause=0.001))

    assert gate.get("/").body == BRIGHT


@pytest.mark.parametrize("order", ["compress first", "edit first"])
def test_what_was_decoded_for_an_edit_is_encoded_again(gateway, origin, order):
    policies = ['require "body.compress" {}', UPPER]
    server = origin.answers(200, gzip.compress(PAGE), ["Content-Type: text/html", "Content-Encoding: gzip"])
    gate = gateway(", ".join(policies if order == "compress first" else policies[::-1]), server)

    reply = gate.get("/", "Accept-Encoding: br")

    # The response hooks of the first run last; the other way round compress meets a body that is coded still.
    body = brotli.decompress(reply.body) if reply["Content-Encoding"] == "br" else reply.body
    assert (body, reply["Content-Encoding"]) == (BRIGHT, "br" if order == "compress first" else None)


def test_an_edit_asked_for_behind_compress_runs_before_the_coding(gateway, origin):
    gate = gateway(UPPER + ', require "body.compress" {}', origin.answers(200, PAGE, ["Content-Type: text/html"]))

    assert gunzip_all(gate.get("/", "Accept-Encoding: gzip").body) == BRIGHT


def test_decode_lets_response_body_hooks_see_plain_bytes(gateway, origin):
    gate = gateway("""{ response = function(_, res) res:decode() end,
                        response_body = function(_, _, chunk) return chunk and chunk:upper() end }""",
                   origin.answers(200, gzip.compress(PAGE), ["Content-Encoding: gzip"]))

    assert gate.get("/").body == PAGE.upper()


def test_gzip_members_and_zstd_frames_in_a_row_are_one_body(gateway, origin):
    for coding in ("gzip", "zstd"):
        body = ENCODE[coding](b"dull,") + ENCODE[coding](b"dull")
        assert gateway(UPPER, origin.answers(200, body, [name_of(coding)])).get("/").body == b"bright,bright"


def test_an_empty_body_with_a_coding_is_empty(gateway, origin):
    assert gateway(UPPER, origin.answers(200, b"", ["Content-Encoding: gzip"])).get("/").body == b""


@pytest.mark.parametrize("coding", ENCODE)
@pytest.mark.parametrize("fault, message", [
    ("cut", "ends before its .* coding does"), ("broken", "is not .*, as its Content-Encoding says"),
    ("surplus", "is not .*, as its Content-Encoding says"),
])
def test_a_coded_body_with_a_fault_is_cut_and_the_log_says_why(gateway, origin, coding, fault, message):
    body = ENCODE[coding](PAGE)
    spoilt = {"cut": body[:-1], "broken": b"\xff\x3f" + body[2:], "surplus": body + b"surplus"}[fault]
    gate = gateway(UPPER, origin.answers(200, spoilt, [name_of(coding)]))
    gate.expect_error(message)
    client = gate.raw()
    client.send(request())

    client.cut_response()

    gate.wait_log(message)


def test_a_coding_that_nobody_knows_is_an_error_that_says_what_to_do(gateway, origin):
    gate = gateway(UPPER, origin.answers(200, b"x", ["Content-Encoding: compress"]))
    gate.expect_error("comes as compress, which can't be decoded; remove the request's header accept-encoding")

    assert gate.get("/").status == 500


def test_a_part_of_a_coded_body_is_not_edited(gateway, origin):
    gate = gateway(UPPER, origin.answers(206, b"x", ["Content-Encoding: gzip", "Content-Range: bytes 3-3/9"]))
    gate.expect_error("a part \\(206\\) of a coded body can't be decoded")

    assert gate.get("/").status == 500


def test_a_hook_that_throws_behind_an_edit_gets_its_page_through(gateway, origin):
    gate = gateway("{ response_body = function() end }, { response = function(_, res) res:decode(); error('oops') end }",
                   origin.answers(200, gzip.compress(PAGE), ["Content-Encoding: gzip"]))
    gate.expect_error("oops")

    reply = gate.get("/")

    assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")


def test_an_answer_in_place_of_a_coded_response_is_not_decoded(gateway, origin):
    gate = gateway("{ response = function(_, res) res:replace('a', 'b'); return 200, 'plain' end }",
                   origin.answers(200, gzip.compress(PAGE), ["Content-Encoding: gzip"]))

    assert gate.get("/").body == b"plain"


# ---- text and json.

@pytest.mark.parametrize("coding", ENCODE)
def test_text_and_json_of_a_request_are_decoded_and_it_goes_on_as_it_came(gateway, origin, coding):
    server = origin.echoes()
    gate = gateway("{ access = function(req) req.headers['x-n'] = req:json().n; req.headers['x-text'] = req:text() end }",
                   server)
    body = ENCODE[coding](b'{"n": 7}')

    reply = gate.post("/", name_of(coding), body=body)

    assert reply.body == body
    assert (server.last["x-n"], server.last["x-text"], server.last["content-encoding"]) == ("7", '{"n": 7}', coding.replace("raw ", ""))


@pytest.mark.parametrize("coding", ENCODE)
def test_text_of_a_response_is_decoded_and_it_goes_on_as_it_came(gateway, origin, coding):
    gate = gateway("function(req, next) local res = next(req); res.headers['x-n'] = #res:text(); return res end",
                   origin.answers(200, ENCODE[coding](PAGE), [name_of(coding)]))

    reply = gate.get("/")

    assert (reply["X-N"], reply.body) == (str(len(PAGE)), ENCODE[coding](PAGE))


@pytest.mark.parametrize("field, body, status, reason", [
    ("gzip", b"no gzip", 400, "the body is not gzip, as its Content-Encoding says"),
    ("br", brotli.compress(PAGE)[:-3], 400, "the body ends before its br coding does"),
    ("gzip", gzip.compress(b"x" * 1025, mtime=0), 413, "the body is longer than max_text_size (1K)"),
    ("zstd", None, 413, "the body is longer than max_text_size (1K)"),
    ("compress", b"x", 415, "the body comes as compress, which can't be decoded"),
    ("gzip, br", b"x", 415, "the body comes as gzip, br, which can't be decoded"),
    (None, b"x" * 1025, 413, "the body is longer than max_text_size (1K)"),
])
def test_a_request_that_text_cannot_read_is_nil_a_reason_and_a_status(gateway, origin, field, body, status, reason):
    gate = gateway("""{ access = function(req)
        local text, why, status = req:text()
        if not text then return status, why end
    end }""", origin.answers(200, b"ok"), route='max_text_size = "1K",')

    reply = gate.post("/", *([f"Content-Encoding: {field}"] if field else []), body=zstd(b"x" * 1025) if body is None else body)

    assert (reply.status, reply.body.decode()) == (status, reason)


@pytest.mark.parametrize("body", [
    bytes.fromhex("28b52ffd 04580000006f6e65 00000000 28b52ffd"),   # a second frame that ends behind its magic number
    bytes.fromhex("28b52ffd 04581900006f6e65f6a10824 26b52ffd df000074776f8b44f4000000"),       # the format of zstd 0.6
    bytes.fromhex("28b52ffd 40880100 090800") + b"x" * 257,                         # 257 bytes in a window of 128 MiB
], ids=["cut", "an older format", "a large window"])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_what_is_no_zstd_is_refused_wherever_it_was_cut(gateway, origin, body, piece):
    gate = gateway("""{ access = function(req)
        local text, why, status = req:text()
        if not text then return status, "refused" end
    end }""", origin.answers(200, b"ok"))
    client = gate.raw()

    client.send(request("POST", "/", "Content-Encoding: zstd", "Transfer-Encoding: chunked") +
                chunked(*[body[at:at + piece] for at in range(0, len(body), piece)]))

    assert client.response().body == b"refused"


def test_a_response_that_text_cannot_read_is_the_origins_fault(gateway, origin):
    gate = gateway("""function(req, next)
        local res = next(req)
        local text, why, status = res:text()
        return status, why
    end""", origin.answers(200, b"no", ["Content-Encoding: zstd"]))

    reply = gate.get("/")

    assert (reply.status, reply.body) == (502, b"the body is not zstd, as its Content-Encoding says")


# ---- Bombs.

@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_a_bomb_in_a_request_costs_max_text_size_at_most(gateway, origin, coding):
    bomb = ENCODE[coding](b"\0" * 50_000_000)
    gate = gateway("{ access = function(req) local t, why, status = req:text(); if not t then return status, why end end }",
                   origin.answers(200, b"ok"), set='memory_limit = "16M"')

    reply = gate.post("/", name_of(coding), body=bomb)

    assert (reply.status, reply.body) == (413, b"the body is longer than max_text_size (1M)")


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_a_bomb_in_a_response_is_cut_at_max_decoded_ratio(gateway, origin, coding):
    bomb = ENCODE[coding](b"\0" * 50_000_000)
    gate = gateway("{ response = function(_, res) res:replace('a', 'b') end }",
                   origin.answers(200, bomb, [name_of(coding)]), set='memory_limit = "32M"')
    gate.expect_error("max_decoded_ratio")
    client = gate.raw()
    client.send(request())

    client.cut_response()

    assert len(client.taken) < len(bomb) * 300 + 2_000_000


def test_max_decoded_size_bounds_what_an_edit_may_give(gateway, origin):
    gate = gateway(UPPER, origin.answers(200, gzip.compress(random.Random(2).randbytes(300_000)), ["Content-Encoding: gzip"]),
                   set='max_decoded_size = "100K"')
    gate.expect_error("max_decoded_size")
    client = gate.raw()
    client.send(request())

    client.cut_response()


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_much_that_decodes_to_more_passes_in_bounded_memory(gateway, origin, coding):
    plain = b"".join(b"%d dull lines\n" % n for n in range(1_000_000))
    gate = gateway(UPPER, origin.answers(200, ENCODE[coding](plain), [name_of(coding)]), set='memory_limit = "32M"')

    assert gate.get("/").body == plain.replace(b"dull", b"bright")


def test_body_replace_and_body_compress_work_together(gateway, origin):
    server = origin.answers(200, PAGE, ["Content-Type: text/html"])
    gate = gateway('require "body.compress" {}, require "body.replace" { words = { dull = "bright" } }', server)

    reply = gate.get("/", "Accept-Encoding: br")

    assert (brotli.decompress(reply.body), server.last["accept-encoding"]) == (BRIGHT, None)

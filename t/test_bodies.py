"""Bodies, trailers and interim answers on their way through, as they arrive (RFC 9112 6 and 7, RFC 9110 15.2)."""
import random
import threading

import pytest

from client import chunked, request
from wire import Cut


# ---- Bodies.

def test_a_chunked_request_body_reaches_the_origin_whole(proxy, origin):
    server = origin.echoes()
    client = proxy(server).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"), chunked(b"a", b"b" * 5000, b"c"))

    assert client.response().body == b"a" + b"b" * 5000 + b"c"
    assert server.last.length == "chunked"


def test_chunk_extensions_end_at_the_proxy(proxy, origin):
    server = origin.echoes()
    client = proxy(server).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"),
                b'3;a=b;c="d e"\r\nabc\r\n2 ; x\r\nde\r\n0;last\r\n\r\n')

    assert client.response().body == b"abcde"


def test_a_request_with_a_length_keeps_it(proxy, origin):
    server = origin.echoes()

    answer = proxy(server).post("/", body=b"x" * 100000)

    assert answer.body == b"x" * 100000
    assert server.last.length == 100000


def test_an_empty_body_keeps_its_length_of_zero(proxy, origin):
    server = origin.echoes()

    proxy(server).post("/", body=b"")

    assert server.last.length == 0


def test_a_request_without_a_body_gets_no_framing(proxy, origin):
    server = origin.answers()

    proxy(server).get("/")

    assert server.last.length is None


def test_a_chunked_response_reaches_the_client_whole(proxy, origin):
    server = origin.plays(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
                          chunked(b"one,", b"two,", b"t" * 70000))

    answer = proxy(server).get("/")

    assert (answer.framing, answer.body) == ("chunked", b"one,two," + b"t" * 70000)


def test_a_response_with_a_length_keeps_it(proxy, origin):
    server = origin.answers(200, b"y" * 300000)

    answer = proxy(server).get("/")

    assert (answer.framing, answer.body) == ("length", b"y" * 300000)


def test_trailers_of_a_request_pass(proxy, origin):
    server = origin.echoes()
    client = proxy(server).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked", "Trailer: X-Sum"),
                chunked(b"body", trailers=["X-Sum: 42", "X-Sum: 43"]))
    client.response()

    assert server.last.trailers == [("X-Sum", "42"), ("X-Sum", "43")]


def test_trailers_of_a_response_pass(proxy, origin):
    server = origin.plays(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" +
                          chunked(b"body", trailers=["X-Sum: 42"]))

    answer = proxy(server).get("/", "TE: trailers", "Connection: TE")

    assert (answer.body, answer.trailers) == (b"body", [("X-Sum", "42")])


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Host", "Authorization"])
def test_trailers_that_would_frame_or_route_are_dropped(proxy, origin, name):
    server = origin.echoes()
    client = proxy(server).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"),
                chunked(b"body", trailers=[f"{name}: 5", "X-Fine: yes"]))
    answer = client.response()

    if answer.status == 400:                            # refused is as good
        assert not any(r.whole for r in server.requests)
    else:
        assert server.last.trailers == [("X-Fine", "yes")]


def test_a_request_body_is_passed_on_before_it_is_whole(proxy, origin):
    pieces = []

    def script(connection):
        connection.head()
        for piece in connection.chunks():
            pieces.append(piece)
            with server.changed:
                server.changed.notify_all()
        connection.answer(200)
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"))
    server.wait_seen(1)
    for i in range(5):
        client.send(b"1\r\n%d\r\n" % i)
        server.wait(lambda: b"".join(pieces) == b"01234"[:i + 1])
    client.send(b"0\r\n\r\n")

    assert client.response().status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked", "X-Until: close"])
def test_a_response_body_is_passed_on_byte_by_byte(proxy, origin, framing):
    got = threading.Semaphore(0)

    def script(connection):
        connection.request()
        connection.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")
        for byte in (b"h", b"e", b"l", b"l", b"o"):
            connection.send(b"1\r\n" + byte + b"\r\n" if "chunked" in framing else byte)
            assert got.acquire(timeout=5)
        if "chunked" in framing:
            connection.send(b"0\r\n\r\n")
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(request("GET", "/"))
    head = client.final_head()
    body = b""
    if head["Transfer-Encoding"]:
        for piece in client.chunks():
            body += piece
            got.release(len(piece))
    else:
        for _ in range(5):
            body += client.exactly(1)
            got.release()

    assert body == b"hello"


def test_an_answer_passes_while_the_request_s_body_still_arrives(proxy, origin):
    def script(connection):
        connection.head()
        connection.answer(403, b"enough", ["Connection: close"])
        connection.ended()
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(request("POST", "/", "Content-Length: 100000"), b"x" * 10)
    answer = client.response()

    assert (answer.status, answer.body) == (403, b"enough")


def test_a_request_after_an_early_answer_is_never_mistaken_for_its_body(proxy, origin):
    def script(connection):
        connection.head()
        connection.answer(403, b"enough")
        connection.ended()
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(request("POST", "/", "Content-Length: 1000"), b"x" * 10)
    client.response()
    try:
        client.send(request("GET", "/smuggled").ljust(990))
        after = client.ended(3)
    except (OSError, TimeoutError):
        after = b""

    assert after == b""
    assert [r.method for r in server.requests] == ["POST"]


def test_the_body_that_the_client_cuts_stays_visibly_cut(proxy, origin):
    cut = threading.Event()

    def script(connection):
        head = connection.head()
        try:
            connection.body(head)
        except (OSError, Cut):
            cut.set()
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"), b"5\r\nhello\r\n")
    server.wait_seen(1)
    client.close()

    assert cut.wait(5)
    assert not server.last.whole


@pytest.mark.parametrize("framing, part", [("Content-Length: 100", b"only this"),
                                           ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
                                           ("Transfer-Encoding: chunked", b"a\r\nhello")])
def test_a_body_cut_by_the_origin_stays_visibly_cut(proxy, origin, framing, part):
    server = origin.plays(b"HTTP/1.1 200 OK\r\n" + framing.encode() + b"\r\n\r\n" + part)
    client = proxy(server).raw()

    client.send(request("GET", "/"))

    assert client.cut_response().status == 200


def test_a_body_until_the_close_that_is_reset_stays_visibly_cut(proxy, origin):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        go.wait(5)
        connection.reset()
    go = threading.Event()
    client = proxy(origin.plays(script)).raw()

    client.send(request("GET", "/"))
    head = client.final_head()
    go.set()

    try:
        client.body(head)
    except (Cut, ConnectionResetError):
        return
    raise AssertionError("whole")


# ---- Answers of handlers.

HANDLERS = """
    gate.route { "/text", handler = function() return 200, "hello" end }
    gate.route { "/pieces", handler = function()
      local n = 0
      return 200, function() n = n + 1 if n < 4 then return "piece" .. n .. "," end end end }
    gate.route { "/table", handler = function() return 201, { a = { 1, 2 } } end }
    gate.route { "/none", handler = function() return 204, "never seen" end }
    gate.route { "/same", handler = function() return 304 end }
    gate.route { "/fields", handler = function() return 200, "x", { ["x-one"] = "1", ["x-list"] = { "a", "b" } } end }
    gate.route { "/echo", handler = function(req)
      local all = {}
      for chunk in req:chunks() do all[#all + 1] = chunk end
      return 200, table.concat(all) end }
"""


def test_handlers_answer_with_text_pieces_and_tables(moongate):
    client = moongate(HANDLERS).raw()

    text, pieces, table = client.get("/text"), client.get("/pieces"), client.get("/table")

    assert (text.body, text.framing) == (b"hello", "length")
    assert (pieces.body, pieces.framing) == (b"piece1,piece2,piece3,", "chunked")
    assert (table.status, table.body, table["Content-Type"]) == (201, b'{"a":[1,2]}', "application/json")


def test_answers_without_a_body_have_none_whatever_the_handler_says(moongate):
    client = moongate(HANDLERS).raw()

    answers = [client.request("HEAD", "/text"), client.request("HEAD", "/pieces"), client.get("/none"), client.get("/same"),
               client.get("/text")]

    assert [(a.status, a.body) for a in answers] == [(200, b""), (200, b""), (204, b""), (304, b""), (200, b"hello")]


def test_an_http_1_0_client_gets_a_handler_s_pieces_until_the_close(moongate):
    answer = moongate(HANDLERS).request("GET", "/pieces", version="1.0")

    assert (answer.framing, answer.body) == ("close", b"piece1,piece2,piece3,")


def test_a_handler_s_fields_arrive(moongate):
    answer = moongate(HANDLERS).get("/fields")

    assert (answer["X-One"], answer.fields.all("X-List")) == ("1", ["a", "b"])


def test_a_handler_reads_a_body_piece_by_piece(moongate):
    client = moongate(HANDLERS).raw()

    client.send(request("POST", "/echo", "Transfer-Encoding: chunked"), chunked(b"a" * 70000, b"b", b"c" * 100))

    assert client.response().body == b"a" * 70000 + b"b" + b"c" * 100


def test_pipelined_requests_to_handlers_are_answered_in_their_order(moongate):
    client = moongate(HANDLERS).raw()

    client.send(request("GET", "/pieces"), request("POST", "/echo", body=b"x" * 50000), request("GET", "/text"),
                request("POST", "/text", body=b"unread" * 100), request("GET", "/none"), request("GET", "/text"))

    assert [client.response().body for _ in range(6)] == [b"piece1,piece2,piece3,", b"x" * 50000, b"hello", b"hello", b"",
                                                          b"hello"]


# ---- Interim answers, and answers without a body.

def test_expect_100_continue_goes_to_the_origin_and_its_answer_back(proxy, origin):
    def script(connection):
        head = connection.head()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.body(head)
        connection.answer(200, head.body)
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
    interim = client.head()
    client.send(b"hello")

    assert interim.status == 100
    assert client.response().body == b"hello"
    assert server.last["Expect"] == "100-continue"


def test_an_origin_may_refuse_what_is_expected(proxy, origin):
    def script(connection):
        connection.head()
        connection.answer(417, b"no")
        connection.ended()
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
    answer = client.response()

    assert (answer.status, answer.interims) == (417, [])


def test_a_handler_that_reads_the_body_lets_an_expecting_client_send(moongate):
    gate = moongate("""gate.route { "/*", handler = function(req) return 200, "got " .. req:text() end }""")
    client = gate.raw()

    client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
    interim = client.head()
    client.send(b"hello")

    assert interim.status == 100
    assert client.response().body == b"got hello"


def test_a_handler_that_does_not_read_asks_for_no_body(moongate):
    gate = moongate("""gate.route { "/*", handler = function(req) return 403, "no" end }""")
    client = gate.raw()

    client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
    answer = client.response()

    assert (answer.status, answer.interims) == (403, [])


def test_103_early_hints_pass(proxy, origin):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n")
        connection.answer(200, b"page")
    client = proxy(origin.plays(script)).raw()

    answer = client.get("/")

    assert [(i.status, i["Link"]) for i in answer.interims] == [(103, "</a.css>; rel=preload"),
                                                               (103, "</b.css>; rel=preload")]
    assert answer.body == b"page"


def test_interim_answers_do_not_reach_an_http_1_0_client(proxy, origin):
    server = origin.plays(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
                          b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")

    answer = proxy(server).request("GET", "/", version="1.0")

    assert (answer.interims, answer.body) == ([], b"page")


def test_head_gets_the_length_and_no_body(proxy, origin):
    server = origin.answers(200, b"x" * 1234)
    client = proxy(server).raw()

    answer = client.request("HEAD", "/")

    assert (answer.status, answer["Content-Length"]) == (200, "1234")
    assert client.get("/").body == b"x" * 1234
    assert [r.method for r in server.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
                                    b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nX-A: b\r\n\r\n",
                                    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nX-A: b\r\n\r\n"])
def test_204_and_304_have_no_body_and_keep_the_connection(proxy, origin, answer):
    def script(connection):
        while connection.request():
            connection.send(answer)
    server = origin.plays(script)
    client = proxy(server).raw()

    answers = [client.get("/"), client.get("/")]

    assert [(a.status, a["X-A"], a.body) for a in answers] == [(int(answer[9:12]), "b", b"")] * 2
    assert len(server.connections) == 1


# ---- Everything together.

def framed(dice, body):
    """The fields and bytes of a body, with a length or in chunks of random sizes."""
    if dice.random() < 0.5:
        return f"Content-Length: {len(body)}", body
    pieces = []
    while body:
        size = min(len(body), dice.choice([1, 2, 100, 4000, 70000]))
        pieces.append(body[:size])
        body = body[size:]
    return "Transfer-Encoding: chunked", chunked(*pieces)


@pytest.mark.parametrize("seed", range(8))
def test_messages_arrive_as_they_were_sent_however_they_are_framed_and_split(proxy, origin, seed):
    dice = random.Random(seed)

    def play(connection):
        dice = random.Random(seed + connection.number * 1000)
        while asked := connection.request():
            field, body = framed(dice, asked.body + b"|" + asked.target.encode())
            answer = f"HTTP/1.1 200 OK\r\n{field}\r\n\r\n".encode() + body
            while answer:
                size = dice.choice([1, 7, 300, 9000, 200000])
                connection.send(answer[:size])
                answer = answer[size:]
    gate = proxy(origin.plays(play))
    bodies = [dice.randbytes(dice.choice([0, 0, 1, 10, 5000, 40000, 150000])) for _ in range(30)]
    stream = b""
    for i, body in enumerate(bodies):
        field, sent = framed(dice, body)
        stream += request(dice.choice(["POST", "PUT", "GET"]), f"/{i}", field) + sent
    client = gate.raw()

    def work():
        at = 0
        while at < len(stream):
            size = dice.choice([1, 2, 50, 1000, 20000, 300000])
            client.send(stream[at:at + size])
            at += size
    writer = threading.Thread(target=work, daemon=True)
    writer.start()
    answers = [client.response().body for _ in bodies]
    writer.join(10)

    assert answers == [body + b"|/%d" % i for i, body in enumerate(bodies)]

"""Handlers and handle hooks: what they may answer with, and the onion they make."""
import pytest

from client import request
from wire import Cut

TRACE = """
    local order = {}
    local function note(word) return function() table.insert(order, word) end end
"""


@pytest.mark.parametrize("returned, status, kind, body", [
    ("204", 204, None, b""),
    ('200, "text"', 200, "text/plain; charset=utf-8", b"text"),
    ("200, 42", 200, "text/plain; charset=utf-8", b"42"),
    ('201, { a = { 1, 2 } }', 201, "application/json", b'{"a":[1,2]}'),
    ('200, "<p>", { ["content-type"] = "text/html" }', 200, "text/html", b"<p>"),
    ('404, ""', 404, "text/plain; charset=utf-8", b""),
], ids=["status", "text", "number", "json", "typed", "empty"])
def test_a_handler_answers_with_what_it_returns(moongate, returned, status, kind, body):
    gate = moongate(f'gate.route {{ "/", handler = function() return {returned} end }}')

    reply = gate.get("/")

    assert (reply.status, reply["Content-Type"], reply.body) == (status, kind, body)


def test_a_handler_sets_headers_from_strings_numbers_and_lists(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        return 200, "x", { ["x-one"] = "1", ["x-two"] = 2, ["set-cookie"] = { "a=1", "b=2" } } end }""")

    reply = gate.get("/")

    assert (reply["X-One"], reply["X-Two"], reply.fields.all("set-cookie")) == ("1", "2", ["a=1", "b=2"])


@pytest.mark.parametrize("returned, says", [
    ("99", "returned the status 99"), ("600", "returned the status 600"), ("200.5", "returned the status 200.5"),
    ('"hello"', "returned a string"), ("true", "returned a boolean"), ("200, true", "a boolean as the body"),
    ("200, print, { 1 }", "headers with a number as a name"), ('200, "x", "h"', "a string as headers"),
    ('200, "x", { ["bad name"] = "v" }', "bad name"), (r'200, "x", { ok = "a\r\nb: c" }', "bytes that can't stand"),
    ("200, { print }", "can't be JSON"), ("nil", "returned nothing"),
])
def test_what_is_no_answer_is_a_500_with_the_reason_in_the_log(moongate, returned, says):
    gate = moongate(f'gate.route {{ "/", handler = function() return {returned} end }}')
    gate.expect_error("handler")

    assert gate.get("/").status == 500

    gate.wait_log(says)


# ---- Bodies made by functions.

def test_the_first_chunk_arrives_before_the_last_is_made(moongate):
    gate = moongate("""
        local go
        gate.route { "/", handler = function()
            local n = 0
            return 200, function()
                n = n + 1
                if n == 1 then return "first," end
                if n == 2 then while not go do gate.sleep(0.01) end return "last" end
            end
        end }
        gate.route { "/go", handler = function() go = true return 204 end }
    """)
    client = gate.raw()
    client.send(request())
    client.final_head()
    chunks = client.chunks()

    assert next(chunks) == b"first,"
    gate.get("/go")
    assert b"".join(chunks) == b"last"


def test_a_function_waits_for_a_slow_reader(moongate):
    gate = moongate("""
        local made = 0
        gate.route { "/", handler = function()
            return 200, function() made = made + 1; if made <= 2000 then return ("x"):rep(65536) end end
        end }
        gate.route { "/made", handler = function() return 200, made end }
    """)
    client = gate.raw(receive_buffer=4096)
    client.send(request())
    client.final_head()
    gate.wait_log("ready")

    before = int(gate.get("/made").body)
    after = int(gate.get("/made").body)
    total = sum(len(chunk) for chunk in client.chunks())

    assert before <= after < 400            # of 2000: 25 MB would be far too much to hold
    assert total == 2000 * 65536


def test_a_function_that_throws_cuts_the_body_visibly(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        local n = 0
        return 200, function() n = n + 1; if n > 1 then error("no more") end return "some" end
    end }""")
    gate.expect_error("no more")

    client = gate.raw()
    client.send(request())

    assert client.cut_response().status == 200


def test_a_function_that_returns_no_string_cuts_and_says_so(moongate):
    gate = moongate("""gate.route { "/", handler = function() return 200, function() return {} end end }""")
    gate.expect_error("the function that makes the body returned a table")

    with pytest.raises((Cut, ConnectionError)):
        gate.get("/")


def test_a_function_stops_being_called_when_the_client_leaves(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        return 200, function()
            local ok, why = pcall(gate.sleep, 0.005)
            if not ok then gate.log.info("producer ended:", why); error(why, 0) end
            return ("x"):rep(1000)
        end
    end }""")
    client = gate.raw()
    client.send(request())
    next(client.chunks()) if client.final_head() else None

    client.close()

    gate.wait_log("producer ended: cancelled")
    gate.wait_total("exchanges", 0)


# ---- Responses and upstreams as answers.

@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_fetched_response_is_an_answer(moongate, origin, stream):
    other = origin.answers(203, b"fetched" * 10000, ["X-From: other", "Connection: x-hop", "X-Hop: 1"])
    gate = moongate(f"""gate.route {{ "/", handler = function()
        return (gate.fetch("http://{other}/", {{ stream = {stream} }})) end }}""")

    reply = gate.get("/")

    assert (reply.status, reply["X-From"], reply.body) == (203, "other", b"fetched" * 10000)


def test_a_fetch_without_an_answer_is_a_502_when_returned(moongate, origin):
    gate = moongate(f'gate.route {{ "/", handler = function() return (gate.fetch("http://{origin.refuses()}/")) end }}')

    assert gate.get("/").status == 502


def test_a_handler_may_return_an_upstream(moongate, origin):
    a, b = origin.answers(200, b"a"), origin.echoes()
    gate = moongate(f"""
        local a, b = gate.upstream("a", {{ peers = {{ "{a}" }} }}), gate.upstream("b", {{ peers = {{ "{b}" }} }})
        gate.route {{ "/*", handler = function(req) return req.path == "/a" and a or b end }}
    """)

    assert gate.get("/a").body == b"a"
    assert gate.post("/b", body=b"sent" * 5000).body == b"sent" * 5000


# ---- req:forward

@pytest.fixture
def two(moongate, origin):
    def start(handler, **options):
        start.a = origin.answers(lambda r: (200, b'{"from":"a"}', ["X-From: a"]))
        start.b = origin.answers(lambda r: (201, b'{"from":"b"}', ["X-From: b"]))
        return moongate(f"""
            local a = gate.upstream("a", {{ peers = {{ "{start.a}" }} }})
            local b = gate.upstream("b", {{ peers = {{ "{start.b}" }} }})
            gate.route {{ "/*", upstream = a, policies = {{ function(req, next) {handler} end }} }}
        """, **options)
    return start


@pytest.mark.parametrize("handler, status, body, seen", [
    ("return req:forward()", 200, b'{"from":"a"}', (1, 0)),
    ("req:forward()", 200, b'{"from":"a"}', (1, 0)),
    ("return req:forward(b)", 201, b'{"from":"b"}', (0, 1)),
    ('return req:forward("b")', 201, b'{"from":"b"}', (0, 1)),
    ("req:forward(); return req:forward()", 200, b'{"from":"a"}', (2, 0)),
    ("req:forward(a); return req:forward(b)", 201, b'{"from":"b"}', (1, 1)),
    ('local res = req:forward(); return 202, res:text() .. "!"', 202, b'{"from":"a"}!', (1, 0)),
    ("local x = req:forward(a):json().from; return 202, x .. req:forward(b):json().from", 202, b"ab", (1, 1)),
    ("local res = req:forward(); res:text(); return res", 200, b'{"from":"a"}', (1, 0)),
    ('local res = req:forward(); local t = {}; for c in res:chunks() do t[#t + 1] = c end; return 200, table.concat(t):upper()',
     200, b'{"FROM":"A"}', (1, 0)),
    ('req.upstream = "b"; return next(req)', 201, b'{"from":"b"}', (0, 1)),
    ("next(req); return 418", 418, b"", (1, 0)),
    ('return 418, "no"', 418, b"no", (0, 0)),
    ("", 200, b'{"from":"a"}', (1, 0)),
], ids=["once", "unreturned", "other", "by-name", "twice", "to-two", "text", "json-of-two", "text-then-whole", "chunks",
        "assigned", "another-answer", "no-next", "nothing"])
def test_forward(two, handler, status, body, seen):
    gate = two(handler)

    for _ in range(3):                          # what was left of one must not disturb the next
        reply = gate.get("/")
        assert (reply.status, reply.body) == (status, body)

    assert (two.a.seen, two.b.seen) == (3 * seen[0], 3 * seen[1])


def test_a_response_whose_place_was_taken_is_over(two):
    gate = two("local res = req:forward(a); req:forward(b); return 200, tostring(select(2, pcall(function() return res.status end)))")

    assert b"this response is over" in gate.get("/").body


def test_headers_changed_before_a_second_forward_reach_it(two):
    gate = two('req:forward(a); req.headers["x-try"] = "2"; return req:forward(b)')

    gate.get("/")

    assert ("x-try" in two.a.last.fields, two.b.last["x-try"]) == (False, "2")


# ---- The onion.

def test_handles_nest_in_order_and_response_hooks_run_inside_in_reverse(moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate(TRACE + f"""
        local function layer(name)
            return {{
                access = note("access " .. name),
                handle = function(req, next) note("in " .. name)(); local res = next(req); note("out " .. name)(); return res end,
                response = note("response " .. name),
            }}
        end
        gate.use {{ request = function() order = {{}} end }}
        gate.use(layer "1", layer "2")
        gate.route {{ "/*", policies = {{ layer "3", {{ response = function(_, res) note("response 4")() end }},
                      function(req, next) local res = next(req); res.headers["x-order"] = table.concat(order, ","); return res end }},
                     upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}
        gate.route {{ "/order", handler = function() return 200, "x" end }}
    """)

    reply = gate.get("/")

    assert reply["X-Order"] == ("access 1,access 2,access 3,in 1,in 2,in 3,response 4,response 3,response 2,response 1")


def test_the_outer_handles_end_after_the_inner_ones(moongate):
    gate = moongate(TRACE + """
        local function layer(name)
            return function(req, next) note("in " .. name)(); local res = next(req); note("out " .. name)()
                res.headers["x-order"] = table.concat(order, ","); return res end
        end
        gate.route { "/", policies = { layer "1", layer "2" }, handler = function() note("handler")(); return 200, "x" end }
    """)

    assert gate.get("/")["X-Order"] == "in 1,in 2,handler,out 2,out 1"


def test_a_handle_that_does_not_call_next_answers_and_response_hooks_still_run(moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate(f"""gate.route {{ "/", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}), policies = {{
        {{ response = function(_, res) res.headers["x-seen"] = tostring(res.status) end }},
        function() return 403, "stop" end, function() error("never reached") end }} }}""")

    reply = gate.get("/")

    assert (reply.status, reply.body, reply["X-Seen"], server.seen) == (403, b"stop", "403", 0)


def test_a_handle_that_catches_an_inner_error_may_answer_instead(moongate):
    gate = moongate("""gate.route { "/", policies = { function(req, next)
        local ok, why = pcall(next, req)
        if not ok then return 503, "caught: " .. tostring(why):match("[^:]+$") end
    end }, handler = function() gate.sleep(0.001); error("inner") end }""")

    reply = gate.get("/")

    assert (reply.status, reply.body) == (503, b"caught:  inner")


LOOKS = """
    local seen = {{}}
    local function looker(name, more)
        return {{ name = name, handle = function(req, next)
            return next(req, function(_, res)
                seen[#seen + 1] = name .. " " .. res.status .. " " .. (res.headers["x-by"] or "origin")
                {deed}
            end)
        end, response = function(req, res)
            if name == "outer" then res.headers["x-by"], res.headers["x-seen"] = "hooks", table.concat(seen, ", ") end
        end }}
    end
    gate.route {{ "/*", policies = {{ looker "outer", looker "inner" }}, upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}
"""


def test_a_look_sees_what_came_before_response_hooks_do_the_inmost_first(moongate, origin):
    gate = moongate(LOOKS.format(deed="", server=origin.answers(200, b"ok")))

    reply = gate.get("/")

    assert (reply.body, reply["x-seen"], reply["x-by"]) == (b"ok", "inner 200 origin, outer 200 origin", "hooks")


def test_what_a_look_returns_answers_and_meets_the_looks_further_out(moongate, origin):
    gate = moongate(LOOKS.format(deed='if name == "inner" then return 404, "instead" end', server=origin.answers(200, b"ok")))

    reply = gate.get("/")

    assert (reply.status, reply.body, reply["x-seen"]) == (404, b"instead", "inner 200 origin, outer 404 origin")


def test_a_look_may_wait_and_one_that_throws_is_a_500(moongate, origin):
    gate = moongate(LOOKS.format(deed='gate.sleep(0.01) if req.path == "/throw" then error "looked badly" end',
                                 server=origin.answers(200, b"ok")))
    gate.expect_error("looked badly")

    assert (gate.get("/").body, gate.get("/throw").status) == (b"ok", 500)
    gate.wait_log("looked badly")


def test_a_look_sees_the_502_of_an_origin_that_is_away(moongate, origin):
    gate = moongate(LOOKS.format(deed='if res.status == 502 then return 200, "stand-in" end', server=origin.refuses()))

    reply = gate.get("/")

    assert (reply.status, reply.body) == (200, b"stand-in")


def test_a_peer_can_be_asked_by_itself(moongate, origin):
    server = origin.answers(lambda request: (203, request.target.encode() + (request["x-own"] or "").encode(), ()))
    gate = moongate(f"""
        local app = gate.upstream("app", {{ peers = {{ "{server}" }} }})
        gate.route {{ "/*", handler = function(req)
            return app.peers[1]:fetch("/at?x=1", {{ headers = {{ ["x-own"] = "!" }} }})
        end }}""")

    reply = gate.get("/")

    assert (reply.status, reply.body) == (203, b"/at?x=1!")

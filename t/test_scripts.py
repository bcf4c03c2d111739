"""The ready-made policies of scripts/, each in front of a recording origin; the demo; declaring with the real core."""
import base64
import json
import os
import random
import re
import socket
import subprocess
import threading
import time

import pytest

import moongate as moongate_module
from client import Client
from moongate import ROOT, free_port, wait_until

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '


@pytest.fixture
def policy(moongate, origin):
    """policy(text, server=...): a gateway whose one route has this policy and ends at `server`."""
    def start(text, server=None, pattern="/*", upstream="", **options):
        server = server or origin.answers(200, b"ok")
        start.origin = server
        return moongate(f"""{HERE}
            gate.route {{ "{pattern}", policies = {{ {text} }},
                upstream = gate.upstream("app", {{ peers = {{ "{server}" }}, {upstream} }}) }}
        """, **options)
    return start


def basic(user, password):
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# ---- auth: see also test_auth_*.py

def test_auth_session_asks_a_service_for_the_token(policy, origin):
    sessions = origin.answers(lambda r: (200, b"carol\n", ()) if r.target == "/session/a%2Fb" else (404, b"", ()))
    gate = policy(f'require "auth.session" {{ url = "http://{sessions}/session/" }}')

    assert gate.get("/").status == 401
    assert gate.get("/", "Authorization: Bearer nobody").status == 401
    assert gate.get("/", "Authorization: Bearer a/b", "X-User: root").status == 200
    assert policy.origin.last.fields.all("x-user") == ["carol"]
    assert sessions.seen == 2


def test_auth_session_says_503_when_nobody_can_tell(policy, origin):
    gate = policy(f'require "auth.session" {{ url = "http://{origin.refuses()}/" }}')

    answer = gate.get("/", "Authorization: Bearer x")

    assert (answer.status, policy.origin.seen) == (503, 0)


# ---- headers

def test_headers_request_id_is_the_same_on_both_sides(policy, moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate(f"""{HERE}
        gate.use(require "headers.request_id" {{ keep = true }})
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}
    """)

    made = gate.get("/", "X-Request-Id: not good!")["X-Request-Id"]
    first = server.last["x-request-id"]
    kept = gate.get("/", "X-Request-Id: abc-123")["X-Request-Id"]

    assert re.fullmatch("[0-9a-f]{16}", made) and made == first
    assert kept == server.last["x-request-id"] == "abc-123"


def test_headers_security_adds_what_is_missing_and_takes_off_what_tells_too_much(policy, origin):
    server = origin.answers(200, b"ok", ["Server: x/1.2", "X-Powered-By: y", "X-Frame-Options: DENY"])
    gate = policy('require "headers.security" { policy = "default-src \'self\'", hsts = 60 }', server)

    answer = gate.get("/")

    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer.fields.all("x-frame-options") == ["DENY"]
    assert answer["Content-Security-Policy"] == "default-src 'self'"
    assert "strict-transport-security" not in answer.fields
    assert "x-powered-by" not in answer.fields and "server" not in answer.fields


def test_headers_set_writes_strings_lists_and_functions_and_takes_off(policy, origin):
    server = origin.answers(200, b"ok", ["Server: x", "Cache-Control: public"])
    gate = policy("""require "headers.set" {
        request = { ["x-gateway"] = "moon", cookie = false, ["x-path"] = function(req) return req.path end },
        response = { server = false, ["cache-control"] = { "no-store", "private" } },
    }""", server)

    answer = gate.get("/a", "Cookie: a=b")

    assert server.last["x-gateway"] == "moon" and server.last["x-path"] == "/a"
    assert "cookie" not in server.last.fields
    assert answer.fields.all("cache-control") == ["no-store", "private"]
    assert "server" not in answer.fields


# ---- body, rewrite, answer

def test_body_replace_sees_words_across_the_borders_of_pieces(policy, origin):
    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"in the do", b"o", b"r and a door", b" do"):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(0.02)            # each in a segment of its own
        connection.send(b"0\r\n\r\n")
    gate = policy('require "body.replace" { words = { door = "gate" } }', origin.plays(play))

    assert gate.get("/").body == b"in the door and a gate do".replace(b"door", b"gate", 1)


def test_body_replace_mends_the_length_and_leaves_other_types_alone(policy, origin):
    kinds = {"/text": "text/plain", "/data": "application/octet-stream"}
    server = origin.answers(lambda r: (200, b"door door", [f"Content-Type: {kinds[r.target]}", 'ETag: "1"']))
    gate = policy('require "body.replace" { words = { door = "moon gate" } }', server)

    assert gate.get("/text").body == b"moon gate moon gate"
    data = gate.get("/data")
    assert (data.body, data["ETag"]) == (b"door door", '"1"')


@pytest.mark.parametrize("target, forwarded", [
    ("/api", "/v1/"), ("/api/users", "/v1/users"), ("/api/a%2Fb%20c?q=1", "/v1/a%2Fb%20c?q=1"),
    ("/apiary", "/apiary"), ("/other/api", "/other/api"),
])
def test_rewrite_prefix(policy, target, forwarded):
    gate = policy('require "rewrite.prefix" { strip = "/api", add = "/v1" }')

    gate.get(target)

    assert policy.origin.last.target == forwarded


def test_rewrite_prefix_is_not_led_astray_by_dot_segments(policy):
    gate = policy('require "rewrite.prefix" { strip = "/api", add = "/v1" }')

    gate.get("/api/../api/%2e%2e/api/x")

    assert policy.origin.last.target == "/v1/x"


def test_rewrite_redirect_keeps_path_and_query(policy):
    gate = policy('require "rewrite.redirect" { from = "Old.test", to = "https://new.test" }')

    moved = gate.get("/a%20b?c=d", "Host: old.test")

    assert (moved.status, moved["Location"]) == (308, "https://new.test/a%20b?c=d")
    assert gate.get("/").status == 200


def test_answer_maintenance_follows_a_file(policy, tmp_path):
    file = tmp_path / "down"
    gate = policy(f'require "answer.maintenance" {{ file = "{file}", every = 0.02, retry_after = 7 }}')
    assert gate.get("/").status == 200

    file.write_text("back at noon\n")
    wait_until(lambda: gate.get("/").status == 503)
    down = gate.get("/")
    file.unlink()

    assert (down.body, down["Retry-After"]) == (b"back at noon\n", "7")
    wait_until(lambda: gate.get("/").status == 200)


# ---- the demo

def free_row(count):
    """The first of some free ports in a row, where no client's connection gets its own from."""
    while True:
        first = random.randrange(10000, 30000)
        try:
            for port in range(first, first + count):
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


@pytest.fixture
def demo(tmp_path):
    """`scripts/demo.lua` as `make run` starts it; gives its port and first lines of output."""
    for _ in range(20):
        port = free_row(3)
        process = subprocess.Popen([moongate_module.BINARY, ROOT / "scripts" / "demo.lua"], cwd=tmp_path,
                                   env={**os.environ, "PORT": str(port)}, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "ready:" in line or "in use" in line:
                break
        if "ready:" in lines[-1]:
            break
        process.kill()
        process.wait()
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    drain.start()
    yield port, "".join(lines)
    process.terminate()
    assert process.wait(10) == 0
    drain.join(5)
    process.stdout.close()


def test_the_demo_does_what_its_first_lines_say(demo):
    port, said = demo

    def get(target, *fields):
        client = Client(("127.0.0.1", port))
        try:
            return client.get(target, *fields)
        finally:
            client.close()

    assert f"curl 'http://127.0.0.1:{port}/hello?name=moon'" in said
    assert get("/hello?name=moon").body == b"hello moon\n"
    plain = get("/any/path")
    assert (plain.status, json.loads(plain.body)["path"]) == (200, "/any/path")
    assert plain["X-Content-Type-Options"] == "nosniff" and plain["X-Request-Id"]
    assert {json.loads(get("/x").body)["peer"] for _ in range(30)} == {f"127.0.0.1:{port + 1}", f"127.0.0.1:{port + 2}"}
    assert get("/private/").status == 401
    assert json.loads(get("/private/", basic("alice", "open sesame")).body)["user"] == "alice"
    assert b"whoever went through the moon gate never" in get("/story").body
    assert [get("/limited").status for _ in range(5)] == [200, 200, 200, 429, 429]


# ---- declaring, with the real core

def check(tmp_path, text):
    script = tmp_path / "gateway.lua"
    script.write_text('local gate = require "moongate"\n' + text)
    return moongate_module.run("check", script.name, cwd=tmp_path)


def test_check_prints_routes_in_match_order(tmp_path):
    done = check(tmp_path, """
gate.listen { "127.0.0.1:8080", max_head_size = "64K" }
gate.route { "/*", upstream = "app" }
gate.route { "/a/:id", methods = { "GET", "POST" }, handler = function() return 204 end, name = "one" }
gate.route { "x.test/*", upstream = "app", policies = { { name = "deny", access = function() return 403 end } } }
gate.route { "/a/b", upstream = "app" }
gate.upstream("app", { peers = { "127.0.0.1:1", { "127.0.0.1:2", weight = 3 } }, balance = "least_conn" })
""")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    routes = [line.split()[0] for line in lines if " -> " in line]
    assert routes == ["x.test/*", "/a/b", "/a/:id", "/*"]
    assert "  127.0.0.1:8080  (gateway.lua:3)" in lines and "    limits: max_head_size 64K" in lines
    assert '  /a/:id  GET,POST  -> handler  "one"  (gateway.lua:5)' in lines
    assert "    policy deny: access" in lines
    assert "    127.0.0.1:2  weight 3" in lines


@pytest.mark.parametrize("text, says", [
    ('gate.listen "nonsense"\ngate.route { "/", handler = print }', 'gateway.lua:2: gate.listen: "nonsense" is not an address'),
    ('gate.listen ":8080"\ngate.route { "no-slash", handler = print }', 'gateway.lua:3: gate.route: pattern "no-slash" has no path'),
    ('gate.listen ":8080"\ngate.route { "/", handler = print }\ngate.route { "/", handler = print }',
     '(another route with this pattern stands at gateway.lua:3)'),
    ('gate.listen ":8080"\ngate.upstream("u", { peers = { "no port" } })', 'gateway.lua:3: upstream "u": peer 1: '),
    ('gate.listen { ":8080", trusted = { "10.0.0.0/99" } }\ngate.route { "/", handler = print }',
     'gateway.lua:2: gate.listen: trusted: "10.0.0.0/99" is not a network'),
    ("gate.listen(", "gateway.lua:"),
    ("nothing.here = 1", "gateway.lua:2: "),
    ('require "no.such.module"', "gateway.lua:2: "),
])
def test_a_mistake_names_its_line_and_ends_with_1(tmp_path, text, says):
    done = check(tmp_path, text)

    assert done.returncode == 1
    assert says in done.stderr
    assert done.stdout == ""


def test_a_script_that_fails_binds_nothing(tmp_path):
    port = free_port()
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.listen "127.0.0.1:{port}"\n'
                      'gate.route { "/", handler = function() end }\nerror "on purpose"\n')

    done = moongate_module.run(script)

    assert done.returncode == 1
    assert "on purpose" in done.stderr and "gateway.lua:4" in done.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_ten_thousand_routes_are_declared_and_found(moongate):
    gate = moongate("""
        for i = 1, 10000 do
            gate.route { ("/r%d/:id"):format(i), handler = function(req) return 200, i .. ":" .. req.params.id end }
        end
    """)

    assert gate.get("/r9876/x").body == b"9876:x"
    assert gate.get("/r10001/x").status == 404

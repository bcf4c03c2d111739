"""answer.files: the files of a folder, and nothing else; answer.error_pages, body.json and body.template."""
import gzip
import json
import os
import re
import subprocess
import threading

import pytest

from moongate import run, wait_until

LONG = bytes(range(256)) * 4096 * 3          # 3 MiB


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "www"
    (root / "sub").mkdir(parents=True)
    (root / "index.html").write_bytes(b"<h1>hi</h1>\n")
    (root / "sub" / "index.html").write_bytes(b"sub\n")
    (root / "long.bin").write_bytes(LONG)
    (root / "empty.txt").write_bytes(b"")
    (root / ".env").write_bytes(b"secret\n")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(b"secret\n")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "security.txt").write_bytes(b"Contact: x\n")
    (root / "a b.txt").write_bytes(b"blank\n")
    (tmp_path / "outside.txt").write_bytes(b"outside\n")
    (root / "out").symlink_to(tmp_path / "outside.txt")
    (root / "up").symlink_to("../outside.txt")
    (root / "in.html").symlink_to("index.html")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def files(moongate, folder):
    def start(options="", pattern="/*", **more):
        return moongate(f'gate.route {{ "{pattern}", handler = require "answer.files" {{ root = "{folder}", {options} }} }}', **more)
    return start


@pytest.mark.parametrize("path, status, body, kind", [
    ("/", 200, b"<h1>hi</h1>\n", "text/html; charset=utf-8"),
    ("/index.html", 200, b"<h1>hi</h1>\n", "text/html; charset=utf-8"),
    ("/sub/", 200, b"sub\n", "text/html; charset=utf-8"),
    ("/a%20b.txt", 200, b"blank\n", "text/plain; charset=utf-8"),
    ("/in.html", 200, b"<h1>hi</h1>\n", "text/html; charset=utf-8"),
    ("/empty.txt", 200, b"", "text/plain; charset=utf-8"),
    ("/long.bin", 200, ..., "application/octet-stream"),
    ("/.well-known/security.txt", 200, b"Contact: x\n", "text/plain; charset=utf-8"),
    ("/nothing", 404, None, None), ("/index.html/", 404, None, None), ("/index.html/x", 404, None, None),
    ("/.env", 404, None, None), ("/.git/config", 404, None, None), ("/sub/../.env", 404, None, None), ("/%2eenv", 404, None, None),
    ("/out", 404, None, None), ("/up", 404, None, None), ("/pipe", 404, None, None),
    ("/../outside.txt", 404, None, None), ("/..%2foutside.txt", 404, None, None), ("/%2e%2e/outside.txt", 404, None, None),
    ("/sub/..%2f..%2foutside.txt", 404, None, None), ("/..\\outside.txt", 404, None, None), ("/index.html%00.png", 404, None, None),
    ("//etc/passwd", 404, None, None), ("/" + "x" * 300, 404, None, None),
])
def test_what_is_in_the_folder_is_served_and_nothing_else(files, path, status, body, kind):
    gate = files()

    answer = gate.get(path)

    assert answer.status in ((status, 400) if status == 404 else (status,))
    if status == 200:
        body = LONG if body is ... else body
        assert (answer.body, answer["content-type"], answer["content-length"]) == (body, kind, str(len(body)))
        head = gate.request("HEAD", path)
        assert (head.status, head.body, head["content-length"], head["etag"]) == (200, b"", str(len(body)), answer["etag"])


def test_a_folder_has_a_slash_and_other_methods_are_told_which_are_there(files):
    gate = files()
    moved = gate.get("/sub?x=1")
    assert (moved.status, moved["location"]) == (308, "/sub/?x=1")
    assert gate.get("//evil.example/..%2fsub").status in (400, 404)
    refused = gate.request("POST", "/index.html", body=b"x")
    assert (refused.status, refused["allow"]) == (405, "GET, HEAD")


def test_one_page_answers_for_all_that_is_not_there(files):
    gate = files('fallback = "index.html"', pattern="/app/*")
    assert gate.get("/app/users/7").body == b"<h1>hi</h1>\n"
    assert gate.get("/app/sub/").body == b"sub\n"


@pytest.mark.parametrize("field, status, first, last", [
    ("bytes=0-9", 206, 0, 9), ("bytes=100-", 206, 100, len(LONG) - 1), ("bytes=-5", 206, len(LONG) - 5, len(LONG) - 1),
    ("bytes=3145000-9999999", 206, 3145000, len(LONG) - 1), ("bytes=-99999999", 206, 0, len(LONG) - 1),
    ("bytes=9999999-", 416, None, None), ("bytes=-0", 416, None, None),
    ("bytes=9-5", 200, None, None), ("lines=1-2", 200, None, None), ("bytes=a-b", 200, None, None), ("bytes=0-9,5-20", 200, None, None),
])
def test_a_part_is_sent_if_the_file_has_it(files, field, status, first, last):
    answer = files().get("/long.bin", "Range: " + field)

    assert answer.status == status
    if status == 206:
        assert answer.body == LONG[first:last + 1] and answer["content-range"] == f"bytes {first}-{last}/{len(LONG)}"
    elif status == 416:
        assert answer["content-range"] == f"bytes */{len(LONG)}"
    else:
        assert answer.body == LONG


def test_several_parts_come_in_one_answer(files):
    answer = files().get("/long.bin", "Range: bytes=0-9, 1000000-1600000, -5")

    assert answer.status == 206
    boundary = re.fullmatch("multipart/byteranges; boundary=([0-9a-f]{32})", answer["content-type"])[1]
    parts = answer.body.split(b"\r\n--" + boundary.encode())
    assert parts[0] == b"" and parts[-1] == b"--\r\n" and len(parts) == 5
    for part, (a, b) in zip(parts[1:], ((0, 9), (1000000, 1600000), (len(LONG) - 5, len(LONG) - 1))):
        head, body = part.split(b"\r\n\r\n", 1)
        assert f"Content-Range: bytes {a}-{b}/{len(LONG)}".encode() in head and body == LONG[a:b + 1]


def test_conditions_are_looked_at_in_the_order_of_the_standard(files):
    gate = files()
    first = gate.get("/index.html")
    tag, date = first["etag"], first["last-modified"]
    early, other = "Sun, 06 Nov 1994 08:49:37 GMT", '"other"'

    def status(*fields):
        return gate.get("/index.html", *fields).status
    assert status("If-None-Match: " + tag) == status(f"If-None-Match: {other}, W/{tag}") == status("If-None-Match: *") == 304
    assert status("If-None-Match: " + other) == 200
    assert status("If-Modified-Since: " + date) == 304 and status("If-Modified-Since: " + early) == 200
    assert status("If-None-Match: " + other, "If-Modified-Since: " + date) == 200
    assert status("If-Match: " + tag) == status("If-Match: *") == 200
    assert status("If-Match: " + other) == status("If-Match: W/" + tag) == 412
    assert status("If-Unmodified-Since: " + early) == 412 and status("If-Unmodified-Since: " + date) == 200
    assert status("If-Match: " + tag, "If-Unmodified-Since: " + early) == 200
    assert status("If-Match: " + tag, "If-None-Match: " + tag) == 304
    assert status("Range: bytes=0-1", "If-Range: " + tag) == status("Range: bytes=0-1", "If-Range: " + date) == 206
    assert status("Range: bytes=0-1", "If-Range: " + other) == status("Range: bytes=0-1", "If-Range: W/" + tag) == 200
    unchanged = gate.get("/index.html", "If-None-Match: " + tag)
    assert unchanged["etag"] == tag and unchanged.body == b"" and "content-type" not in unchanged.fields


def test_a_smaller_file_beside_it_goes_to_clients_that_take_it_unless_it_is_older(files, folder):
    page = folder / "page.html"
    page.write_bytes(b"x" * 1000)
    (folder / "page.html.gz").write_bytes(gzip.compress(b"x" * 1000))
    (folder / "page.html.br").write_bytes(b"not looked at")
    gate = files('precompressed = { "br", "gzip" }, fresh = 0')

    def coding(accept):
        answer = gate.get("/page.html", *(["Accept-Encoding: " + accept] if accept else []))
        assert answer["vary"] == "Accept-Encoding" and answer["content-type"] == "text/html; charset=utf-8"
        return answer["content-encoding"], answer["etag"]
    assert [coding(a)[0] for a in ("gzip, br", "gzip", "br;q=0, gzip", "gzip;q=0", "zstd", None)] == ["br", "gzip", "gzip", None, None, None]
    assert len({coding(a)[1] for a in ("br", "gzip", None)}) == 3
    assert gzip.decompress(gate.get("/page.html", "Accept-Encoding: gzip").body) == b"x" * 1000
    os.utime(page, (2e9, 2e9))
    assert coding("gzip, br")[0] is None


def test_a_file_that_has_changed_is_seen_within_the_time_that_was_asked_for(files, folder):
    gate = files("fresh = 0.05, cache_control = function(path) return 'max-age=' .. #path end")
    first = gate.get("/index.html")
    assert first["cache-control"] == "max-age=10"
    (folder / "new.html").write_bytes(b"new\n")
    (folder / "new.html").rename(folder / "index.html")
    wait_until(lambda: gate.get("/index.html").body == b"new\n")
    assert gate.get("/index.html")["etag"] != first["etag"]


def test_a_download_goes_on_when_another_file_takes_the_place_of_its(files, folder):
    gate = files()
    client = gate.raw()
    client.send(b"GET /long.bin HTTP/1.1\r\nHost: a\r\n\r\n")
    (folder / "new").write_bytes(b"short")
    (folder / "new").rename(folder / "long.bin")
    answer = client.response()
    assert answer.body in (LONG, b"short") and answer["content-length"] == str(len(answer.body))


def test_a_file_that_is_not_sent_is_given_back_at_once(files):
    gate = files("fresh = 0")
    tag = gate.get("/long.bin")["etag"]
    folder = f"/proc/{gate.worker_pids()[0]}/fd"
    before = len(os.listdir(folder))

    for _ in range(20):
        assert gate.get("/long.bin", "If-None-Match: " + tag).status == 304
        assert gate.get("/long.bin", "If-Match: \"other\"").status == 412
        assert gate.get("/long.bin", "Range: bytes=9999999-").status == 416
        assert gate.request("HEAD", "/long.bin").status == 200

    assert len(os.listdir(folder)) <= before + 5        # connections of this test among them


def test_curl_fetches_a_file_in_two_parts_as_it_goes_on_with_a_download(files, tmp_path):
    gate, out = files(), tmp_path / "got"
    out.write_bytes(LONG[:1000000])
    subprocess.run(["curl", "-sS", "-f", "-C", "-", "-o", out, f"http://127.0.0.1:{gate.port}/long.bin"], check=True, timeout=30)
    assert out.read_bytes() == LONG


def test_what_is_no_folder_or_coding_is_told(tmp_path):
    script = tmp_path / "gateway.lua"
    script.write_text('local gate = require "moongate"\ngate.listen "127.0.0.1:0"\n'
                      'gate.route { "/*", handler = require "answer.files" { root = "/x", precompressed = { "deflate" } } }\n')
    done = run("check", script)
    assert done.returncode == 1 and 'gateway.lua:3: answer.files: precompressed must be a list of "br", "zstd" and "gzip"' in done.stderr


# ---- answer.error_pages

PAGES = """require "answer.error_pages" { pages = { [404] = "<p>nothing at {id}: {status} {reason}</p>", ["5xx"] = "%s" } %s }"""
BROWSER = "Accept: text/html,application/xhtml+xml"


def test_errors_of_the_gateway_show_the_page_for_their_status_or_class_and_keep_the_status(moongate, origin, tmp_path):
    page = tmp_path / "5xx.html"
    page.write_text("<p>sorry {status}</p>\n")
    gate = moongate(f"""gate.use({PAGES % (page, "")})
        gate.route {{ "/dead", upstream = gate.upstream("dead", {{ peers = {{ "{origin.refuses()}" }} }}) }}
        gate.route {{ "/throws", handler = function() error "x" end }}
        gate.route {{ "/own", handler = function() return 404, "own\\n" end }}""")
    gate.expect_error("x")

    missing, dead, throws = [gate.get(path, BROWSER) for path in ("/no", "/dead", "/throws")]

    assert re.fullmatch(b"<p>nothing at [0-9a-f]{16}: 404 Not Found</p>", missing.body) and missing.status == 404
    assert missing["content-type"] == "text/html; charset=utf-8"
    assert (dead.status, dead.body, throws.status, throws.body) == (502, b"<p>sorry 502</p>\n", 500, b"<p>sorry 500</p>\n")
    problem = gate.get("/no")
    assert problem["content-type"] == "application/problem+json"
    told = json.loads(problem.body)
    assert (told["status"], told["title"]) == (404, "Not Found") and told["instance"].startswith("urn:request:")
    assert gate.get("/own", BROWSER).body == b"own\n"


def test_pages_of_the_origin_are_replaced_only_if_asked_for_and_its_other_fields_stay(moongate, origin):
    server = origin.answers(lambda r: (int(r.target[1:4]), b"origin's", ["Set-Cookie: a=1", "Set-Cookie: b=2", "ETag: x"]))
    upstream = f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }}, retry = {{ attempts = 1 }} }}) }}'
    kept = moongate(f"gate.use({PAGES % ('<b>sorry</b>', '')})\n" + upstream)
    assert kept.get("/404", BROWSER).body == b"origin's"
    gate = moongate(f"gate.use({PAGES % ('<b>sorry</b>', ', origin = true, plain = false')})\n" + upstream)

    answer = gate.get("/503", BROWSER)

    assert (answer.status, answer.body) == (503, b"<b>sorry</b>")
    assert answer.fields.all("set-cookie") == ["a=1", "b=2"] and "etag" not in answer.fields
    assert [gate.get(p, BROWSER).body for p in ("/200", "/403")] == [b"origin's", b"origin's"]


# ---- body.json

@pytest.fixture
def changed(moongate, origin):
    """changed(options, body): what a client gets of this JSON body of an origin; .sent: what the origin got last."""
    def start(options, body=b"{}", kind="application/json", fields=(), **more):
        start.server = origin.answers(lambda r: (200, body, ["Content-Type: " + kind, *fields]))
        return moongate(f"""gate.route {{ "/*", policies = {{ require "body.json" {{ {options} }} }},
            upstream = gate.upstream("app", {{ peers = {{ "{start.server}" }} }}) }}""", **more)
    return start


def test_fields_of_an_answer_are_taken_off_renamed_set_and_picked(changed):
    body = {"id": 1, "password": "x", "users": [{"name": "a", "email": "e"}, {"name": "b", "email": "f"}], "deep": {"a": {"b": 1, "c": 2}}}
    rules = """response = { remove = { "password", "users.*.email", "users.2" }, rename = { ["users.*.name"] = "title" },
        set = { ["deep.new.x"] = 5, at = function(req) return req.path end }, %s }"""
    gate = changed(rules % "", json.dumps(body).encode())
    assert json.loads(gate.get("/p").body) == {"id": 1, "at": "/p", "users": [{"title": "a"}],
                                               "deep": {"a": {"b": 1, "c": 2}, "new": {"x": 5}}}
    picked = changed(rules % 'pick = { "id", "deep.*.b" }, map = function(body, req) body.more = true end',
                     json.dumps(body).encode(), fields=["Content-Length: %d" % len(json.dumps(body)), "ETag: \"a\""])
    answer = picked.get("/p")
    assert json.loads(answer.body) == {"id": 1, "deep": {"a": {"b": 1}, "new": {}}, "more": True}
    assert answer["etag"] in (None, 'W/"a"')


def test_what_is_no_json_and_what_is_too_long_passes_by_as_it_came(changed):
    rules = 'response = { remove = { "a" } }, max = 100'
    assert changed(rules, b'{"a":1}', "text/plain").get("/").body == b'{"a":1}'
    assert changed(rules, b"{not json").get("/").body == b"{not json"
    long = json.dumps({"a": "x" * 100000}).encode()
    assert changed(rules, long).get("/").body == long
    coded = changed(rules, gzip.compress(b'{"a":1,"b":2}'), "application/problem+json; charset=utf-8", ["Content-Encoding: gzip"])
    answer = coded.get("/", "Accept-Encoding: gzip")
    assert json.loads(answer.body) == {"b": 2} and "content-encoding" not in answer.fields


def test_a_request_is_changed_before_the_origin_sees_it_and_one_that_is_no_json_is_refused(changed):
    gate = changed('request = { set = { ["meta.user"] = function(req) return req.headers["x-user"] end }, remove = { "admin" } }, max = 1000')

    def post(body, *fields, kind="application/json"):
        return gate.request("POST", "/", "Content-Type: " + kind, *fields, body=body).status
    assert post(b'{"admin":true,"a":[1]}', "X-User: ada") == 200
    assert json.loads(changed.server.last.body) == {"a": [1], "meta": {"user": "ada"}}
    assert post(gzip.compress(b'{"b":1}'), "Content-Encoding: gzip", "X-User: eve") == 200
    assert json.loads(changed.server.last.body) == {"b": 1, "meta": {"user": "eve"}} and "content-encoding" not in changed.server.last.fields
    assert post(b"{", "X-User: a") == 400 and post(json.dumps({"x": "y" * 2000}).encode()) == 413
    assert post(b"plain", kind="text/plain") == 200 and changed.server.last.body == b"plain"
    assert changed.server.seen == 3


# ---- body.template

TEMPLATE = r"""<h1>{{title}}</h1>{{{raw}}}{{#items}}<li>{{name}} of {{title}}{{#tags}}[{{.}}]{{/tags}}</li>{{/items}}{{^items}}none{{/items}}{{user.name}}{{missing}}"""


def test_a_template_is_filled_in_and_what_comes_from_outside_is_escaped(moongate):
    gate = moongate(f"""local page = require "body.template" {{ text = [[{TEMPLATE}]] }}
        local line = require "body.template" {{ text = '{{"q":"{{{{q}}}}"}}', escape = "json" }}
        gate.route {{ "/page", handler = function(req) return 200, page {{ title = req.args.title, raw = "<b>",
            items = {{ {{ name = "a", tags = {{ 1, 2 }} }}, {{ name = "b&" }} }}, user = {{ name = "ada" }} }} end }}
        gate.route {{ "/empty", handler = function() return 200, page {{ items = {{}} }} end }}
        gate.route {{ "/json", handler = function(req) return 200, line {{ q = req.args.q }} end }}""")

    assert gate.get("/page?title=%3Cscript%3E").body == (
        b"<h1>&lt;script&gt;</h1><b><li>a of &lt;script&gt;[1][2]</li><li>b&amp; of &lt;script&gt;</li>ada")
    assert gate.get("/empty").body == b"<h1></h1>none"
    assert json.loads(gate.get("/json?q=%22%0a%5c").body) == {"q": '"\n\\'}


@pytest.mark.parametrize("text, told", [
    ("a\n{{#b}}", "line 2: {{#b}} is not closed"), ("{{/b}}", "line 1: {{/b}} closes nothing"),
    ("a\n\n{{b c}}", "line 3: {{ that is no place"), ("{{{b}}", "line 1: {{{b: its braces do not go together"),
])
def test_a_mistake_in_a_template_names_its_line(tmp_path, text, told):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\nlocal page = require "body.template" {{ text = [==[{text}]==] }}\n')
    done = run("check", script)
    assert done.returncode == 1 and "gateway.lua:2: body.template: text: " + told in done.stderr, done.stderr

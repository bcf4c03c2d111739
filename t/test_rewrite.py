"""The policies of scripts/rewrite/, route.split, answer.maintenance and block.scanners."""
import collections
import json

import pytest

from moongate import run, wait_until
from test_reload import reload


@pytest.fixture
def gateway(moongate, origin):
    def start(text, use=False, more="", **options):
        server = start.origin = origin.answers(200, b"ok")
        return moongate(f"""{more}
            {f"gate.use({text})" if use else ""}
            gate.route {{ "/*", policies = {{ {"" if use else text} }},
                upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""", **options)
    return start


RULES = """require "rewrite.path" {
    { "^/articles/(%d+)$", "/posts?id=%1" },
    { "^/old/(.*)$", "/new/%1" },
    { "^/blog/(.*)$", "https://blog.example.com/%1", status = 301 },
    { "^/go/(.*)$", "/%1", status = 302 },
}"""


@pytest.mark.parametrize("asked, seen", [
    ("/articles/7", "/posts?id=7"),
    ("/articles/7?x=1", "/posts?id=7&x=1"),
    ("/articles/seven", "/articles/seven"),
    ("/old/a%20b/%E2%82%AC?q=%31", "/new/a%20b/%E2%82%AC?q=%31"),
    ("/old/a%3Fb%23c", "/new/a%3Fb%23c"),
    ("/old//evil.example", "/new/evil.example"),
    ("/other?x=%20", "/other?x=%20"),
])
def test_a_path_that_matches_becomes_another_and_all_others_stay_as_they_were_written(gateway, asked, seen):
    gate = gateway(RULES)

    assert gate.get(asked).status == 200

    assert gateway.origin.last.target.replace("//", "/") == seen


@pytest.mark.parametrize("asked, status, location", [
    ("/blog/2024/a%20b?p=2", 301, "https://blog.example.com/2024/a%20b?p=2"),
    ("/blog/%0d%0aset-cookie:a", 301, "https://blog.example.com/%0D%0Aset-cookie:a"),
    ("/go/x", 302, "/x"),
    ("/go//evil.example/", 302, "/evil.example/"),
    ("/go/%5Cevil.example", 302, "/%5Cevil.example"),
])
def test_a_rule_with_a_status_sends_the_client_there_and_never_to_a_host_that_the_client_chose(gateway, asked, status, location):
    gate = gateway(RULES)

    answer = gate.get(asked)

    assert (answer.status, answer["location"]) == (status, location) and gateway.origin.seen == 0


@pytest.mark.parametrize("rules, told", [
    ('{ { "^/a(", "/b" } }', "rule 1: ^/a( is no pattern: a ( or [ is not closed"),
    ('{ { "^/a", "https://b/" } }', "rule 1: it leads to another host, so it needs a status"),
    ('{ { "^/a", "/b", status = 200 } }', "rule 1: status must be 301, 302, 303, 307 or 308, got 200"),
    ("{}", "it needs a list of rules"),
])
def test_rules_that_can_not_be_meant_are_refused(tmp_path, rules, told):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.listen "127.0.0.1:0"\ngate.use(require "rewrite.path" {rules})\n')

    done = run("check", script)

    assert done.returncode == 1 and "gateway.lua:3: rewrite.path: " in done.stderr and told in done.stderr, done.stderr


@pytest.mark.parametrize("options, host, asked, location", [
    ("https = true", "a.example", "/x?y=1", "https://a.example/x?y=1"),
    ('host = "www.a.example"', "a.example:8080", "/x", "http://www.a.example/x"),
    ('host = "www.a.example"', "www.a.example", "/x", None),
    ('slash = "remove"', "a.example:8080", "/x/?y", "http://a.example:8080/x?y"),
    ('slash = "remove"', "a.example", "/", None),
    ('slash = "add"', "a.example", "/x/y", "http://a.example/x/y/"),
    ('slash = "add"', "a.example", "/x/y.html", None),
    ('slash = "remove"', "a.example", "//evil.example/", "http://a.example/evil.example"),
    ("https = true", "a.example", "/.well-known/acme-challenge/x", None),
])
def test_each_page_has_one_address_and_clients_that_use_another_are_sent_there(gateway, options, host, asked, location):
    gate = gateway(f'require "rewrite.canonical" {{ {options} }}', use=True)

    answer = gate.get(asked, "Host: " + host)

    assert (answer.status, answer["location"]) == (308 if location else 200, location)


def test_arguments_are_set_taken_off_and_renamed_and_all_others_stay_as_they_were_written(gateway):
    gate = gateway("""require "rewrite.query" { set = { version = "2", who = function(req) return req.client.ip end },
        default = { page = 1, q2 = 5 }, remove = { "utm_*", "debug" }, rename = { q = "search", ["old name"] = "q2" } }""")

    gate.get("/?b=%2B+x&utm_source=a&q=1+2&version=9&debug&old+name=y&q=3")
    assert gateway.origin.last.target == "/?b=%2B+x&search=1+2&q2=y&search=3&version=2&who=127.0.0.1&page=1" or \
        gateway.origin.last.target == "/?b=%2B+x&search=1+2&q2=y&search=3&who=127.0.0.1&version=2&page=1"
    gate.get("/")
    assert sorted(gateway.origin.last.target[2:].split("&")) == ["page=1", "q2=5", "version=2", "who=127.0.0.1"]


# ---- route.split

def split(moongate, sides, options, weights="{ { \"b\", 20 }, { \"a\", 80 } }", **more):
    return moongate(f"""gate.upstream("a", {{ peers = {{ "{sides["a"]}" }} }})
        gate.upstream("b", {{ peers = {{ "{sides["b"]}" }} }})
        gate.route {{ "/*", policies = {{ require "route.split" {{ to = {weights}, {options} }} }}, upstream = "a" }}""", **more)


@pytest.fixture
def sides(origin):
    return {name: origin.answers(lambda r, name=name: (200, name.encode() + b" " + (r["x-split"] or "").encode(), ()))
            for name in "ab"}


def test_a_part_of_the_users_goes_to_each_side_and_stays_there_over_workers_and_reloads(moongate, sides):
    options = 'key = function(req) return req.args.user end'
    gate = split(moongate, sides, options, workers=2)
    users = [f"/?user={i}" for i in range(1000)]
    before = {user: gate.get(user).body for user in users}
    count = collections.Counter(before.values())
    assert set(count) == {b"a a", b"b b"} and 150 <= count[b"b b"] <= 250      # 20 % of 1,000: within 4 deviations

    reload(gate)
    assert {user: gate.get(user).body for user in users[:200]} == {user: before[user] for user in users[:200]}


def test_when_a_share_grows_those_who_were_there_stay(moongate, sides):
    options = 'key = function(req) return req.args.user end'
    users = [f"/?user={i}" for i in range(300)]
    small, large = split(moongate, sides, options), split(moongate, sides, options, '{ { "b", 50 }, { "a", 50 } }')

    in_small = {user for user in users if small.get(user).body == b"b b"}
    in_large = {user for user in users if large.get(user).body == b"b b"}

    assert in_small < in_large


def test_a_user_keeps_the_side_of_the_cookie_as_long_as_it_has_a_weight(moongate, sides):
    gate = split(moongate, sides, 'cookie = "side", max_age = 60')
    answer = gate.get("/")
    side = answer.body.split()[0].decode()
    assert answer["set-cookie"] == f"side={side}; Path=/; Max-Age=60; SameSite=Lax; HttpOnly"

    for kept in "ab":
        answers = [gate.get("/", "Cookie: side=" + kept) for _ in range(20)]
        assert {a.body for a in answers} == {f"{kept} {kept}".encode()}
        assert not any("set-cookie" in a.fields for a in answers)
    assert "set-cookie" in gate.get("/", "Cookie: side=unknown").fields
    without = split(moongate, sides, 'cookie = "side"', '{ { "b", 0 }, { "a", 1 } }')
    assert without.get("/", "Cookie: side=b").body == b"a a"


def test_a_header_leads_to_a_side_from_the_networks_that_may(moongate, sides):
    gate = split(moongate, sides, 'header = "x-side"', '{ { "b", 0 }, { "a", 1 } }')
    assert gate.get("/", "X-Side: b").body == b"b b"
    assert gate.get("/", "X-Side: c").body == b"a a"
    other = split(moongate, sides, 'header = "x-side", header_from = { "10.0.0.0/8" }', '{ { "b", 0 }, { "a", 1 } }')
    assert other.get("/", "X-Side: b").body == b"a a"


# ---- answer.maintenance

def test_while_a_flag_that_all_workers_share_is_set_all_but_the_allowed_are_told_so(gateway):
    policy = """require "answer.maintenance" { when = function() return flags:get "down" end, page = "<h1>Back soon</h1>",
        retry_after = 30 }"""
    gate = gateway(policy, more="""local flags = gate.shared("flags", "64K")
        gate.route { "/switch/:to", handler = function(req) flags:set("down", req.params.to == "off") return 204 end }""")
    assert gate.get("/").status == 200
    gate.get("/switch/off")

    text, page, problem = gate.get("/"), gate.get("/", "Accept: text/html,*/*"), gate.get("/", "Accept: application/json")

    assert [(a.status, a["retry-after"], a["content-type"]) for a in (text, page, problem)] == [
        (503, "30", "text/plain; charset=utf-8"), (503, "30", "text/html; charset=utf-8"), (503, "30", "application/problem+json")]
    assert page.body == b"<h1>Back soon</h1>" and json.loads(problem.body)["status"] == 503
    gate.get("/switch/on")
    assert gate.get("/").status == 200


def test_networks_that_are_allowed_pass_while_the_file_is_there(gateway, tmp_path):
    flag = tmp_path / "down"
    flag.write_text("wait\n")
    gate = gateway(f'require "answer.maintenance" {{ file = "{flag}", allow = {{ "10.0.0.0/8" }}, every = 0.01 }}')
    assert (gate.get("/").status, gate.get("/").body) == (503, b"wait\n")
    open_gate = gateway(f'require "answer.maintenance" {{ file = "{flag}", allow = {{ "127.0.0.0/8" }} }}')
    assert open_gate.get("/").status == 200
    flag.unlink()
    wait_until(lambda: gate.get("/").status == 200)


# ---- block.scanners

@pytest.mark.parametrize("target, agent, status", [
    ("/", "Mozilla/5.0", 200), ("/.env", "Mozilla/5.0", 403), ("/.git/config", "curl/8", 403), ("/WP-Login.php", "x", 403),
    ("/%2egit/config", "x", 403), ("/a/../.env", "x", 403), ("/", "sqlmap/1.7", 403), ("/", "Mozilla (Nikto/2.1)", 403),
    ("/.environment", "x", 403), ("/docs/.env-explained", "x", 200), ("/", None, 200),
])
def test_tools_that_look_for_holes_and_paths_that_only_they_ask_for_are_turned_away(gateway, target, agent, status):
    gate = gateway('require "block.scanners" { strikes = 0 }')

    assert gate.get(target, *(["User-Agent: " + agent] if agent else [])).status == status
    assert gateway.origin.seen == (status == 200)


def test_who_goes_on_is_banned_in_all_workers_for_a_time_and_others_are_not(gateway):
    gate = gateway("""require "block.scanners" { strikes = 3, ban = 1, status = 404, nameless = true, more_paths = { "/trap" },
        by = function(req) return req.headers["x-client"] end }""", workers=2)
    scanner, other = "X-Client: 203.0.113.9", "X-Client: 203.0.113.10"
    agent = "User-Agent: x"

    assert gate.get("/", scanner).status == 404                                # without a name
    assert [gate.get(path, scanner, agent).status for path in ("/ok", "/trap", "/.env")] == [200, 404, 404]
    assert [gate.get("/ok", scanner, agent).status for _ in range(8)] == [404] * 8
    assert gate.get("/ok", other, agent).status == 200
    gate.wait_log("203.0.113.9 is banned for 1 s")
    wait_until(lambda: gate.get("/ok", scanner, agent).status == 200)


def test_networks_that_are_excepted_may_ask_for_anything(gateway):
    gate = gateway('require "block.scanners" { except = { "127.0.0.0/8" } }')

    assert [gate.get("/.env", "User-Agent: nikto").status for _ in range(10)] == [200] * 10

"""Every gateway of scripts/cookbook, as it stands there, before real servers: what its first lines promise, and what it
guards from."""
import json
import re
import shutil
import ssl
import subprocess
import threading
import urllib.parse

import pytest

import node
import tokens
from client import Client
from dns import Dns
from moongate import ROOT, free_port, wait_until
from redis_server import RedisServer
from test_auth_oidc import Browser, provider  # noqa: F401  (a fixture)
from test_traces import Collector
from wire import Cut

RECIPES = ROOT / "scripts" / "cookbook"
NAMES = sorted(path.stem for path in RECIPES.glob("*.lua"))


@pytest.fixture
def cook(moongate):
    """cook(name, VARIABLE=value): the recipe as it stands, told by its variables where things are."""
    def start(recipe, options=None, **variables):
        given = "".join(f'[{json.dumps(name)}] = {json.dumps(str(value))}, ' for name, value in variables.items())
        return moongate(f"""local real, given = os.getenv, {{ LISTEN = "127.0.0.1:$PORT", {given} }}
            os.getenv = function(name) return given[name] or real(name) end
            dofile "{RECIPES}/{recipe}.lua" """, declare_listen=False, **(options or {}))
    return start


def named(origin, name, **more):
    return origin.answers(lambda r: (200, name.encode(), ()), **more)


def test_every_recipe_has_a_test_and_a_row_in_the_index():
    tests = open(__file__).read()
    index = (RECIPES / "README.md").read_text()
    assert len(NAMES) >= 15
    assert not [name for name in NAMES if f'cook("{name}"' not in tests]
    assert not [name for name in NAMES if f"[`{name}.lua`]({name}.lua)" not in index]


def test_tls_front(cook, origin, site, authority):
    app, plain = origin.answers(200, b"app"), free_port()
    gate = cook("tls_front", PLAIN=f"127.0.0.1:{plain}", APP=app, CERT=site.cert, KEY=site.key)

    moved = Client(("127.0.0.1", plain)).get("/a?b=c", "Host: example.test:8080")
    answer = gate.raw(tls=authority.client_context()).get("/a?b=c")

    assert (moved.status, moved["location"]) == (308, "https://example.test/a?b=c") and app.seen == 1
    assert (answer.body, answer["strict-transport-security"]) == (b"app", "max-age=31536000")


def test_many_sites(cook, origin, authority, tmp_path):
    certs = tmp_path / "certs"
    certs.mkdir()
    for name in ("shop", "blog"):
        made = authority.issue(f"{name}.example.com", f"*.{name}.example.com")
        shutil.copy(made.cert, certs / f"{name}.pem")
        shutil.copy(made.key, certs / f"{name}.key")
    gate = cook("many_sites", CERTS=certs, SHOP=named(origin, "shop"), BLOG=named(origin, "blog"))

    def ask(name):
        client = gate.raw(tls=authority.client_context(), name=name)
        return client.get("/", "Host: " + name).body
    assert [ask(name) for name in ("shop.example.com", "blog.example.com", "a.blog.example.com")] == [b"shop", b"blog", b"blog"]
    with pytest.raises(ssl.SSLCertVerificationError):
        ask("other.example.com")


def test_microservices(cook, origin):
    users, orders = named(origin, "users"), named(origin, "orders")
    gate = cook("microservices", USERS=users, ORDERS=orders)

    answers = [gate.get(path) for path in ("/api/users/7?x", "/api/orders?open", "/api/nothing")]

    assert [a.status for a in answers] == [200, 200, 404]
    assert (users.last.target, orders.last.target) == ("/7?x", "/?open")
    assert users.last["x-request-id"] == answers[0]["x-request-id"]


def test_balanced(cook, origin):
    one, other = named(origin, "one"), named(origin, "other")
    gate = cook("balanced", PEERS=f"{one},{other},{origin.refuses()}")

    assert {gate.get("/").body for _ in range(60)} == {b"one", b"other"}
    wait_until(lambda: gate.status()["workers"][0]["upstreams"][0]["healthy"] == 2)
    one.close()
    assert {gate.get("/").status for _ in range(30)} == {200}
    gate.expect_error(".")


def test_api(cook, origin):
    key = tokens.private("P-256")
    jwks = origin.answers(lambda r: (200, json.dumps({"keys": [tokens.jwk(key, "one")]}).encode(), ()))
    api = origin.answers(200, b"things")
    gate = cook("api", JWKS=f"http://{jwks}/", ISSUER="https://id.test", AUDIENCE="https://api.test", API=api)
    ada, bob = [tokens.bearer(tokens.sign(key, head={"kid": "one"}, sub=sub, aud="https://api.test")) for sub in ("ada", "bob")]

    assert [gate.get("/v1/things").status, gate.get("/v1/things", tokens.bearer("a.b.c")).status] == [401, 401]
    assert api.seen == 0
    statuses = [gate.get("/v1/things", ada, "X-User: root").status for _ in range(40)]
    assert statuses[:20] == [200] * 20 and 429 in statuses
    assert api.last["x-user"] == "ada" and gate.get("/v1/things", bob).status == 200


def test_api_keys(cook, origin, tmp_path):
    with RedisServer(tmp_path) as redis:
        options = dict(REDIS=f"redis://{redis}", QUOTA=3, API=origin.answers(200, b"ok"))
        first, second = cook("api_keys", **options), cook("api_keys", **options)

        assert first.get("/").status == first.get("/", "X-API-Key: other").status == 401
        statuses = [gate.get("/", "X-API-Key: demo").status for gate in (first, second) * 3]
        assert statuses == [200, 200, 200, 429, 429, 429]
        redis.stop()
        for gate in (first, second):
            gate.expect_error("redis|Redis")
        assert first.get("/", "X-API-Key: demo").status == 200


@node.needs("oidc-provider")
def test_login(cook, origin, provider):  # noqa: F811
    tool = origin.answers(lambda r: (200, ("hello " + (r["x-user"] or "nobody")).encode(), ()))
    port = provider()
    gate = cook("login", ISSUER=f"http://127.0.0.1:{port}", CLIENT_ID="gate", CLIENT_SECRET="s:ecret/", URL="http://app.test",
                COOKIE_SECRET="0123456789abcdef0123456789abcdef", TOOL=tool)
    assert gate.get("/data", "Accept: application/json").status == 401
    assert gate.request("POST", "/", "Sec-Fetch-Site: cross-site", body=b"x").status == 403
    browser = Browser(app_test=gate.address)

    page = browser.go("http://app.test/page")

    assert urllib.parse.urlsplit(page.url).port == port and tool.seen == 0 and "login" in page.text.lower()


def test_mutual_tls(cook, origin, authority):
    gate_cert = authority.issue("gate.internal", "IP:127.0.0.1", "example.test")
    seen = []

    def serve(request):
        seen.append(request["x-peer"])
        return 200, b"inside", ()
    service_cert = authority.issue("service.internal")
    service = origin.answers(serve, tls=authority.server_context(service_cert, client_authority=authority))
    gate = cook("mutual_tls", CA=authority.cert, CERT=gate_cert.cert, KEY=gate_cert.key, SERVICE=service)

    def ask(name):
        certificate = authority.issue(name) if name else None
        return gate.raw(tls=authority.client_context(certificate=certificate)).get("/")
    assert ask("a.jobs.internal").body == b"inside" and seen == ["DNS:a.jobs.internal"]
    assert ask("other.internal").status == 403
    with pytest.raises((ssl.SSLError, ConnectionError, Cut)):
        ask(None)


def test_chat(cook, origin):
    def streams(connection):
        connection.request()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        ended.wait(10)
    ended = threading.Event()
    one, other = named(origin, "one"), named(origin, "other")
    gate = cook("chat", PEERS=f"{one},{other}")
    first = gate.get("/")
    cookie = "Cookie: " + first["set-cookie"].split(";")[0]

    assert {gate.get("/", cookie).body for _ in range(10)} == {first.body}
    (one if first.body == b"one" else other).close()
    gate.expect_error(".")
    wait_until(lambda: gate.get("/", cookie).status == 200)
    assert gate.get("/", cookie).body != first.body

    events = origin.plays(streams)
    live = cook("chat", PEERS=events)
    client = live.raw()
    client.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.head()["content-type"] == "text/event-stream" and not ended.is_set()
    ended.set()


@node.needs("@grpc/grpc-js")
def test_grpc(cook):
    told = node.play("grpc.js", lambda port: cook("grpc", PEERS=f"127.0.0.1:{port}"))

    assert told["unary"]["code"] == 0 and told["chat"]["got"] == ["A", "B", "C"] and told["down"]["code"] == 14


def test_cached(cook, origin):
    app = origin.answers(200, b"page " * 500, ["Cache-Control: max-age=60", "Content-Type: text/html", "Vary: Accept-Encoding"])
    gate = cook("cached", APP=app)

    assert {gate.get("/").body for _ in range(20)} == {b"page " * 500} and app.seen == 1
    assert "hit" in gate.get("/")["cache-status"]
    assert gate.get("/", "Accept-Encoding: gzip")["content-encoding"] == "gzip"
    before = app.seen
    assert gate.request("PURGE", "/").status in (200, 204)
    gate.get("/")
    assert app.seen == before + 1


def test_site_and_api(cook, origin, tmp_path):
    root = tmp_path / "dist"
    root.mkdir()
    (root / "index.html").write_text("<h1>app</h1>")
    (root / "app-0123abcd.js").write_text("go()")
    api = origin.answers(200, b"{}")
    gate = cook("site_and_api", ROOT=root, API=api)

    page, script, deep = [gate.get(path) for path in ("/", "/app-0123abcd.js", "/any/page")]

    assert page.body == deep.body == b"<h1>app</h1>" and page["cache-control"] == "no-cache"
    assert "immutable" in script["cache-control"] and script["content-type"].startswith("text/javascript")
    assert page["content-security-policy"] == "default-src 'self'"
    assert gate.get("/api/things").status == 200 and api.last.target == "/things"


def test_blue_green(cook, origin):
    sides = dict(BLUE=named(origin, "blue"), GREEN=named(origin, "green"))
    dark, some = cook("blue_green", **sides), cook("blue_green", SHARE=30, **sides)

    assert {dark.get("/", f"Cookie: user={i}").body for i in range(30)} == {b"blue"}
    assert dark.get("/", "X-Version: green").body == b"green"
    first = [some.get("/", f"Cookie: user={i}").body for i in range(100)]
    assert 10 <= first.count(b"green") <= 50 and first == [some.get("/", f"Cookie: user={i}").body for i in range(100)]


def test_discovered(cook, origin, tmp_path):
    one, other = named(origin, "one"), named(origin, "other")
    dns = Dns(tmp_path)

    def serve(*servers):
        dns.serve("--host-record=node.test,127.0.0.1,1",
                  *(f"--srv-host=_http._tcp.app.test,node.test,{str(s).split(':')[1]},10,1" for s in servers))
    try:
        serve(one)
        gate = cook("discovered", SERVICE="_http._tcp.app.test", RESOLVER=f"127.0.0.1:{dns.port}")
        gate.expect_error(".")
        wait_until(lambda: gate.get("/").status == 200)
        assert {gate.get("/").body for _ in range(10)} == {b"one"}
        serve(other)
        wait_until(lambda: gate.get("/").body == b"other", patience=20)
        dns.stop()
        assert {gate.get("/").body for _ in range(10)} == {b"other"}
    finally:
        dns.stop()


def test_databases(cook, origin, authority):
    servers = {name: origin.answers(200, name.encode(), tls=authority.server_context(authority.issue(f"{name}.db.internal")))
               for name in ("orders", "users")}
    gate = cook("databases", ORDERS=servers["orders"], USERS=servers["users"])

    for name in servers:
        client = gate.raw(tls=authority.client_context(), name=f"{name}.db.internal")
        assert client.get("/").body == name.encode()
    with pytest.raises((ssl.SSLError, ConnectionError, Cut)):
        gate.raw(tls=authority.client_context(), name="other.db.internal").get("/")


def test_aggregate(cook, origin):
    users = origin.answers(lambda r: (200, b'{"name":"ada"}', ()) if r.target == "/users/7" else (404, b"", ()))
    orders = origin.answers(200, b"[1,2]")
    gate = cook("aggregate", USERS=f"http://{users}", ORDERS=f"http://{orders}")

    assert json.loads(gate.get("/dashboard/7").body) == {"user": {"name": "ada"}, "orders": [1, 2], "complete": True}
    assert gate.get("/dashboard/8").status == 502
    orders.close()
    assert json.loads(gate.get("/dashboard/7").body) == {"user": {"name": "ada"}, "orders": None, "complete": False}


def test_maintenance(cook, origin, tmp_path):
    app, switch = origin.answers(200, b"app"), tmp_path / "switch"
    gate, makers = cook("maintenance", SWITCH=switch, APP=app), cook("maintenance", SWITCH=switch, APP=app, MAKERS="127.0.0.0/8")
    browser = "Accept: text/html"
    assert gate.get("/", browser).body == b"app"

    switch.touch()
    wait_until(lambda: gate.get("/", browser).status == 503)
    assert b"Down for maintenance" in gate.get("/", browser).body and gate.get("/")["retry-after"] == "60"
    assert makers.get("/").body == b"app"
    switch.unlink()
    wait_until(lambda: gate.get("/", browser).status == 200)
    app.close()
    for each in (gate, makers):
        each.expect_error(".")
    assert b"<h1>We'll be back</h1>" in gate.get("/", browser).body


def test_observed(cook, origin, tmp_path):
    to, port, log = Collector(origin), free_port(), tmp_path / "log"
    gate = cook("observed", APP=origin.answers(200, b"app"), COLLECTOR=f"http://{to.server}/v1/traces", LOG=log,
                METRICS=f"127.0.0.1:{port}", SAMPLE=1)

    assert gate.get("/thing").body == b"app" and gate.get("/metrics").status == 404
    whole = to.wait(2)[2][0]
    page = Client(("127.0.0.1", port)).get("/metrics", "Accept: application/openmetrics-text").body.decode()

    assert f'trace_id="{whole["traceId"]}"' in page and re.search(r'moongate_requests_total\{route="/\*",status="2xx"\} 1', page)
    wait_until(lambda: log.exists() and whole["traceId"] in log.read_text())
    line = json.loads(log.read_text().splitlines()[0])
    assert (line["trace"], line["path"], line["status"]) == (whole["traceId"], "/thing", 200)


def test_shadow(cook, origin):
    app, copy = named(origin, "app"), named(origin, "next")
    gate = cook("shadow", APP=app, NEXT=copy, SHARE=1)

    assert [gate.get("/a").body, gate.get("/b").body] == [b"app", b"app"]

    copy.wait_seen(2)
    assert copy.last["x-moongate-mirror"] == "app"
    copy.close()
    assert gate.get("/c").body == b"app"
    gate.expect_error(".")


def test_tenants(cook, origin):
    held = origin.holds()
    gate = cook("tenants", APP=held, AT_ONCE=2)
    acme, other = "Host: acme.example.com", "Host: other.example.com"
    clients = [gate.raw() for _ in range(2)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: acme.example.com\r\n\r\n")
    held.wait_seen(2)

    assert gate.get("/", acme).status == 429 and gate.get("/", "Host: example.com").status == 404
    free = gate.raw()
    free.send(b"GET / HTTP/1.1\r\n" + other.encode() + b"\r\n\r\n")
    held.wait_seen(3)
    assert held.last["x-tenant"] == "other"
    held.go.set()
    assert [client.response().status for client in (*clients, free)] == [200] * 3


def test_browsers(cook, origin):
    app = origin.answers(200, b"app")
    gate = cook("browsers", APP=app)

    allowed = gate.get("/api/x", "Origin: https://app.example.com")
    assert allowed["access-control-allow-origin"] == "https://app.example.com" and allowed["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in gate.get("/api/x", "Origin: https://evil.example").fields
    assert gate.request("POST", "/settings", "Sec-Fetch-Site: cross-site", body=b"x").status == 403
    assert gate.request("POST", "/settings", "Sec-Fetch-Site: same-origin", body=b"x").status == 200
    assert [gate.get("/.env").status for _ in range(5)][-1] == 403 and gate.get("/").status == 403

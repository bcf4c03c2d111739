"""auth.oidc: people log in at npm's oidc-provider, with a browser that knows cookies, redirects and forms."""
import concurrent.futures
import hashlib
import http.client
import http.cookies
import json
import os
import random
import re
import subprocess
import time
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest

import moongate as moongate_module
import node
import tokens
from moongate import ROOT, wait_until

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '
SECRET = "a secret for cookies, with more than 32 bytes"
PAGE = {"Accept": "text/html"}


class Browser:
    """Follows redirects and keeps cookies. `hosts`: where a name is found."""

    def __init__(self, **hosts):
        self.hosts, self.jar = {name.replace("_", "."): address for name, address in hosts.items()}, {}
        self.seen = []

    def ask(self, url, method="GET", body=None, headers=PAGE, cookies=True):
        parts = urlsplit(url)
        host, port = self.hosts.get(parts.hostname, (parts.hostname, parts.port))
        connection = http.client.HTTPConnection(host, port, timeout=10)
        sent = {"Host": parts.netloc, **headers}
        jar = {name: value for (at, path, name), value in self.jar.items()
               if at == parts.hostname and parts.path.startswith(path)} if cookies else {}
        if jar:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, parts.path + ("?" + parts.query if parts.query else ""), body, sent)
        answer = connection.getresponse()
        answer.text, answer.url = answer.read().decode(), url
        for field in answer.headers.get_all("Set-Cookie") or []:
            for name, morsel in http.cookies.SimpleCookie(field).items():
                assert len(field) < 4096
                key = (parts.hostname, morsel["path"] or "/", name)
                if morsel["max-age"] == "0" or morsel["expires"].startswith("Thu, 01 Jan 1970"):
                    self.jar.pop(key, None)
                else:
                    self.jar[key] = morsel.value
        connection.close()
        self.seen.append(answer)
        return answer

    def go(self, url, **options):
        """To the page that the redirects lead to."""
        answer = self.ask(url, **options)
        while answer.status in (302, 303):
            answer = self.ask(urljoin(answer.url, answer.headers["Location"]))
        return answer

    def submit(self, page, **values):
        """Sends the page's form."""
        action = re.search(r'<form[^>]* action="([^"]+)"', page.text)[1]
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        return self.go(urljoin(page.url, action), method="POST", body=urlencode({**hidden, **values}))

    def log_in(self, url, user="ada"):
        page = self.go(url)
        while "<form" in page.text:
            page = self.submit(page, **({"login": user, "password": "any"} if 'name="login"' in page.text else {}))
        return page

    def cookies(self, prefix):
        return {name: value for (host, _, name), value in self.jar.items() if host == "app.test" and name.startswith(prefix)}


@pytest.fixture
def provider():
    """provider(ttl=, **client): the port of a provider that knows this client."""
    running = []

    def start(ttl=3600, **client):
        metadata = {"client_id": "gate", "client_secret": "s:ecret/", "redirect_uris": ["http://app.test/oidc/callback"],
                    "post_logout_redirect_uris": ["http://app.test/bye"], "response_types": ["code"],
                    "grant_types": ["authorization_code", "refresh_token"], "scope": "openid profile email offline_access",
                    **client}
        metadata = {name: value for name, value in metadata.items() if value is not None}
        running.append(subprocess.Popen(["node", ROOT / "t" / "node" / "oidc.mjs"], stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={
                                            **os.environ, "NODE_PATH": str(node.MODULES), "TTL": str(ttl),
                                            "CLIENT": json.dumps(metadata)}))
        return json.loads(running[-1].stdout.readline())["port"]

    start.stop = lambda: (running[-1].kill(), running[-1].wait())
    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def app(moongate, origin):
    """app(issuer, options): a gateway whose routes have auth.oidc, and a browser; app.origin has seen what passed."""
    def start(issuer, options="", secret='client_secret = "s:ecret/",', **more):
        start.origin = origin.answers(lambda r: (200, f"{r['x-user']} at {r.target}".encode(), ()))
        gate = moongate(f"""{HERE}
            local oidc = require "auth.oidc" {{ issuer = "{issuer}", client_id = "gate", {secret} url = "http://app.test",
                secrets = "{SECRET}", after_logout = "/bye", {options} }}
            gate.route {{ "/bye", handler = function() return 200, "bye" end }}
            gate.route {{ "/*", policies = {{ oidc }}, upstream = gate.upstream("app", {{ peers = {{ "{start.origin}" }} }}) }}
        """, **more)
        return gate, Browser(app_test=("127.0.0.1", gate.port))
    return start


needs_provider = node.needs("oidc-provider")


def test_tokens_that_are_null_are_none(origin, app):
    liar = Liar(origin)
    liar.answer = {"refresh_token": None, "expires_in": None}
    gate, browser = app(liar.issuer)

    assert liar.callback(browser).status == 302
    assert browser.ask("http://app.test/").status == 200


def test_cookies_are_secure_where_we_are_and_others_reach_the_origin(origin, moongate):
    liar = Liar(origin)
    app = origin.answers(200, b"ok")
    gate = moongate(f"""{HERE}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{app}" }} }}), policies = {{ require "auth.oidc" {{
            issuer = "{liar.issuer}", client_id = "gate", url = "https://app.test", secrets = "{SECRET}" }} }} }}
    """)
    browser = Browser(app_test=("127.0.0.1", gate.port))

    cookies = liar.callback(browser).headers.get_all("Set-Cookie")
    browser.jar["app.test", "/", "oidc_of_others"] = "1"
    browser.ask("http://app.test/")

    assert cookies and all("; Secure" in cookie for cookie in cookies if "Max-Age=0" not in cookie)
    assert app.last["cookie"] == "oidc_of_others=1"


@needs_provider
def test_who_has_logged_in_comes_back_to_the_page_and_the_origin_knows_who(app, provider):
    gate, browser = app(f"http://127.0.0.1:{provider()}", 'fields = { ["x-user"] = "sub", ["x-mail"] = "email" }')

    page = browser.log_in("http://app.test/deep/page?x=1&y=%20")
    again = browser.ask("http://app.test/other", headers={**PAGE, "X-User": "root"})

    assert (page.status, page.text) == (200, "ada at /deep/page?x=1&y=%20")
    assert (again.status, again.text) == (200, "ada at /other")
    seen = app.origin.last
    assert seen["x-mail"] == "ada@example.test" and seen.fields.all("x-user") == ["ada"] and "cookie" not in seen.fields
    assert list(browser.cookies("oidc")) == ["oidc"]            # nothing is left of the login itself
    field = next(f for a in browser.seen for f in a.headers.get_all("Set-Cookie") or [] if f.startswith("oidc="))
    assert "; HttpOnly; SameSite=Lax" in field and "Path=/;" in field and "ada" not in field


@needs_provider
def test_scripts_and_uploads_get_401_and_are_not_sent_away(app, provider):
    gate, browser = app(f"http://127.0.0.1:{provider()}")

    answers = [browser.ask("http://app.test/", headers={"Accept": "application/json"}),
               browser.ask("http://app.test/", method="POST", body="a=b"),
               browser.ask("http://app.test/", headers={**PAGE, "Sec-Fetch-Mode": "cors"}),
               browser.ask("http://app.test/", headers={"Sec-Fetch-Mode": "navigate"})]

    assert [answer.status for answer in answers] == [401, 401, 401, 302] and app.origin.seen == 0
    asked = parse_qs(urlsplit(answers[3].headers["Location"]).query)
    assert asked["code_challenge_method"] == ["S256"] and asked["redirect_uri"] == ["http://app.test/oidc/callback"]


@needs_provider
def test_a_large_session_stands_in_several_cookies(app, provider):
    gate, browser = app(f"http://127.0.0.1:{provider()}")

    page = browser.log_in("http://app.test/", "large")

    assert page.text == "large at /" and len(browser.cookies("oidc")) >= 4
    assert browser.ask("http://app.test/x").text == "large at /x"
    del browser.jar["app.test", "/", "oidc.2"]
    assert browser.ask("http://app.test/x").status == 302


@needs_provider
def test_a_public_client_and_userinfo(app, provider):
    port = provider(client_secret=None, token_endpoint_auth_method="none")
    gate, browser = app(f"http://127.0.0.1:{port}", 'userinfo = true, fields = { ["x-user"] = "name" }', secret="")

    assert browser.log_in("http://app.test/").text == "Name of ada at /"


@needs_provider
def test_several_logins_may_be_under_way_and_each_counts_once(app, provider):
    gate, browser = app(f"http://127.0.0.1:{provider()}")
    browser.log_in("http://app.test/")
    browser.jar = {key: value for key, value in browser.jar.items() if key[0] != "app.test"}
    first, second = browser.ask("http://app.test/one"), browser.ask("http://app.test/two")

    pages = [browser.go(answer.headers["Location"]) for answer in (first, second)]
    callback = next(a.url for a in reversed(browser.seen) if "/oidc/callback" in a.url)

    assert [page.text for page in pages] == ["ada at /one", "ada at /two"]
    assert browser.ask(callback).status == 400


@needs_provider
def test_a_logout_ends_the_session_here_and_there(app, provider):
    gate, browser = app(f"http://127.0.0.1:{provider()}")
    browser.log_in("http://app.test/")

    page = browser.go("http://app.test/oidc/logout")
    page = browser.submit(page, logout="yes")

    assert (page.url, page.text) == ("http://app.test/bye", "bye") and not browser.cookies("oidc")
    assert 'name="login"' in browser.go("http://app.test/").text        # the provider asks anew


@needs_provider
def test_tokens_are_refreshed_while_the_session_lasts(app, provider):
    gate, browser = app(f"http://127.0.0.1:{provider(ttl=1)}", 'scope = "openid,offline_access", forward_token = true, '
                        'parameters = { prompt = "consent" }', workers=2)
    assert browser.log_in("http://app.test/").status == 200
    old, used = dict(browser.jar), {app.origin.last["authorization"]}

    def is_used_another():
        assert browser.ask("http://app.test/").status == 200
        used.add(app.origin.last["authorization"])
        return len(used) == 3
    wait_until(is_used_another)
    browser.jar = old           # a request that was under way with the cookie from before

    assert browser.ask("http://app.test/late").status == 200


@needs_provider
def test_the_provider_knows_the_tokens_that_it_has_given(app, provider, moongate):
    port = provider()
    gate, browser = app(f"http://127.0.0.1:{port}", "forward_token = true")
    browser.log_in("http://app.test/")
    token = app.origin.last["authorization"]
    api = moongate(f"""{HERE}
        gate.route {{ "/*", handler = function(req) return 200, req.headers["x-user"] end, policies = {{
            require "auth.introspection" {{ url = "http://127.0.0.1:{port}/token/introspection", client_id = "gate",
                client_secret = "s:ecret/", remember = 0, remember_bad = 0, scope = "openid" }} }} }}
    """)
    assert api.get("/", f"Authorization: {token}").body == b"ada"

    browser.ask(f"http://127.0.0.1:{port}/token/revocation", method="POST", body=urlencode({"token": token.split()[1]}),
                headers={"Authorization": "Basic " + tokens.base64.b64encode(b"gate:s%3Aecret%2F").decode()})

    assert api.get("/", f"Authorization: {token}").status == 401
    assert api.get("/", "Authorization: Bearer nothing").status == 401


@needs_provider
def test_when_the_provider_is_away_sessions_go_on_and_logins_wait(app, provider):
    gate, browser = app(f"http://127.0.0.1:{provider()}", "refresh = 0.1")
    browser.log_in("http://app.test/")

    provider.stop()

    assert browser.ask("http://app.test/x").text == "ada at /x"
    fresh, other = app("http://127.0.0.1:1")
    assert other.ask("http://app.test/").status == 503


# ---- A provider that lies.

class Liar:
    """Plays a provider; `claims` and `key` make the ID token, `settings` its discovery."""

    def __init__(self, origin):
        self.key, self.claims, self.settings, self.nonce, self.answer, self.asked = tokens.private("P-256"), {}, {}, None, {}, None
        self.renewal, self.refreshed, self.delay = (200, b'{"access_token":"b","expires_in":3600}', ()), 0, 0
        self.server = origin.answers(self.play)
        self.issuer = f"http://{self.server}"

    def play(self, request):
        if request.target == "/.well-known/openid-configuration":
            said = {"issuer": self.issuer, "jwks_uri": self.issuer + "/keys", "authorization_endpoint": self.issuer + "/auth",
                    "token_endpoint": self.issuer + "/token", **self.settings}
        elif request.target == "/keys":
            said = {"keys": [tokens.jwk(tokens.private("P-256"), "k")]}
        else:
            self.asked = parse_qs(request.body.decode())
            if self.asked["grant_type"] == ["refresh_token"]:
                time.sleep(self.delay)
                self.refreshed += 1
                return self.renewal
            token = tokens.sign(self.key, "ES256", {"kid": "k"}, **{"iss": self.issuer, "aud": "gate", "iat": int(time.time()),
                                                                    "nonce": self.nonce, **self.claims})
            said = {"id_token": token, "access_token": "a", "expires_in": 3600, **self.answer}
        return 200, json.dumps(said).encode(), ["Content-Type: application/json"]

    def callback(self, browser, state=None, **more):
        """What the browser gets that comes back from here."""
        asked = parse_qs(urlsplit(browser.ask("http://app.test/page").headers["Location"]).query)
        self.nonce = asked["nonce"][0]
        self.challenge = asked["code_challenge"][0]
        query = urlencode({"code": "c", "state": state or asked["state"][0], **more})
        return browser.ask("http://app.test/oidc/callback?" + query)


@pytest.fixture
def liar(origin, app):
    made = Liar(origin)
    made.gate, made.browser = app(made.issuer)
    return made


def test_an_honest_answer_passes_and_the_code_goes_with_its_verifier(liar):
    answer = liar.callback(liar.browser)

    assert answer.status == 302 and answer.headers["Location"] == "http://app.test/page"
    verifier = liar.asked["code_verifier"][0]
    digest = tokens.base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    assert digest == liar.challenge and liar.asked["code"] == ["c"]


LIES = {
    "another nonce": lambda l: l.claims.update(nonce="other"),
    "no nonce": lambda l: l.claims.update(nonce=None),
    "another issuer": lambda l: l.claims.update(iss="http://evil.test"),
    "another audience": lambda l: l.claims.update(aud="other"),
    "many audiences": lambda l: l.claims.update(aud=["gate", "other"]),
    "another party": lambda l: l.claims.update(azp="other"),
    "an end long ago": lambda l: l.claims.update(exp=1),
    "nobody": lambda l: l.claims.update(sub=None),
    "another key": lambda l: setattr(l, "key", tokens.private("P-256", 1)),
    "no ID token": lambda l: l.answer.update(id_token=None),
    "an ID token that is not signed": lambda l: l.answer.update(id_token=tokens.forge({"alg": "none"}, {"sub": "a"}, b"x")),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_id_token_that_is_not_for_this_login_is_refused(liar, lie):
    LIES[lie](liar)

    answer = liar.callback(liar.browser)

    assert answer.status == 502 and not liar.browser.cookies("oidc"), answer.text
    assert "the login failed: its ID token" in answer.text or "it has sent no ID token" in answer.text


def test_answers_of_others_are_refused(liar, app):
    stranger = Browser(app_test=("127.0.0.1", liar.gate.port))
    asked = parse_qs(urlsplit(liar.browser.ask("http://app.test/").headers["Location"]).query)
    state = asked["state"][0]

    assert stranger.ask(f"http://app.test/oidc/callback?code=c&state={state}").status == 400     # begun in another browser
    assert liar.callback(liar.browser, state="A" * 32).status == 400
    alike = parse_qs(urlsplit(liar.browser.ask("http://app.test/").headers["Location"]).query)["state"][0][:8] + "A" * 24
    assert liar.browser.ask(f"http://app.test/oidc/callback?code=c&state={alike}").status == 400
    assert liar.callback(liar.browser, iss="http://evil.test").status == 403
    refused = liar.callback(liar.browser, error="access_denied<b>", error_description="<script>")
    assert refused.status == 403 and refused.text == "the provider refuses: access_deniedb\n"
    assert liar.browser.ask("http://app.test/oidc/callback").status == 400
    assert liar.asked is None or "code" in liar.asked


def test_an_issuer_that_must_name_itself_and_does_not_is_refused(origin, app):
    liar = Liar(origin)
    liar.settings = {"authorization_response_iss_parameter_supported": True}
    gate, browser = app(liar.issuer)

    assert liar.callback(browser).status == 403
    assert liar.callback(browser, iss=liar.issuer).status == 302


def test_a_provider_that_calls_itself_otherwise_is_not_used(origin, app):
    liar = Liar(origin)
    liar.settings = {"issuer": "http://evil.test"}
    gate, browser = app(liar.issuer)

    assert browser.ask("http://app.test/").status == 503
    gate.wait_log("it calls itself http://evil.test")


def test_a_cookie_that_was_changed_or_is_anothers_is_no_session(liar):
    liar.callback(liar.browser)
    key = ("app.test", "/", "oidc")
    good = liar.browser.jar[key]
    assert liar.browser.ask("http://app.test/").status == 200
    for bad in (good[:-2] + ("AA" if good[-2:] != "AA" else "BB"), good[:40], "1.", "9." + good[2:], "2." + good[2:], "x", "1.AAAA"):
        liar.browser.jar[key] = bad
        assert liar.browser.ask("http://app.test/").status == 302, bad
    liar.browser.jar[key] = good
    assert liar.browser.ask("http://app.test/").status == 200


def test_a_login_cookie_is_no_session(liar):
    liar.browser.ask("http://app.test/")
    (value,) = liar.browser.cookies("oidc-login-").values()
    liar.browser.jar["app.test", "/", "oidc"] = value

    assert liar.browser.ask("http://app.test/x").status == 302


def test_a_session_ends_and_a_new_secret_may_come_beside_the_old_one(origin, app):
    liar = Liar(origin)
    gate, browser = app(liar.issuer, "lifetime = 1.5")
    liar.callback(browser)
    key = ("app.test", "/", "oidc")
    value = browser.jar[key]

    assert browser.ask("http://app.test/").status == 200
    script = gate.script.read_text()
    gate.script.write_text(script.replace(f'"{SECRET}"', f'{{ "another secret that has more than 32 bytes", "{SECRET}" }}'))
    assert "error" not in gate.command("reload")
    assert browser.ask("http://app.test/").status == 200

    def ended():
        browser.jar[key] = value
        return browser.ask("http://app.test/").status == 302
    wait_until(ended)


def refreshing(origin, app, **more):
    """A browser with a session whose access token has ended."""
    liar = Liar(origin)
    liar.answer = {"refresh_token": "r", "expires_in": 0}
    gate, browser = app(liar.issuer, "forward_token = true", **more)
    assert liar.callback(browser).status == 302
    return liar, gate, browser


def test_a_refresh_token_is_sent_once_whoever_asks(origin, app):
    liar, gate, browser = refreshing(origin, app, workers=2)
    liar.delay = 0.4

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda n: browser.ask(f"http://app.test/{n}").status, range(8)))

    assert statuses == [200] * 8 and liar.refreshed == 1
    assert {seen["authorization"] for seen in app.origin.requests} == {"Bearer b"}


@pytest.mark.parametrize("sub, status", [("alice", 200), ("mallory", 302)])
def test_a_refresh_may_bring_a_new_id_token_of_the_same_one_only(origin, app, sub, status):
    liar, gate, browser = refreshing(origin, app)
    token = tokens.sign(liar.key, "ES256", {"kid": "k"}, iss=liar.issuer, aud="gate", iat=int(time.time()), sub=sub)
    liar.renewal = (200, json.dumps({"access_token": "b", "id_token": token}).encode(), ())

    assert browser.ask("http://app.test/").status == status


def test_a_session_whose_refresh_is_refused_is_over_and_one_that_fails_may_go_on(origin, app):
    liar, gate, browser = refreshing(origin, app)

    for status in (503, 429):
        liar.renewal = (status, b"", ())
        assert browser.ask("http://app.test/").status == 503
    liar.renewal = (400, b'{"error":"invalid_grant"}', ())
    assert [browser.ask("http://app.test/").status for _ in range(3)] == [302] * 3
    assert liar.refreshed == 3


def test_mutated_cookies_do_no_harm(liar):
    liar.callback(liar.browser)
    key, chance = ("app.test", "/", "oidc"), random.Random(5)
    good = liar.browser.jar[key]

    for _ in range(150):
        at = chance.randrange(len(good))
        liar.browser.jar[key] = good[:at] + chance.choice("A9._-%=") + good[at + chance.randint(0, 3):]
        if liar.browser.jar[key] != good:
            assert liar.browser.ask("http://app.test/").status == 302, liar.browser.jar[key]


def test_a_page_with_two_slashes_is_no_way_to_elsewhere(liar):
    liar.browser.ask("http://app.test//evil.test/x")
    state = parse_qs(urlsplit(liar.browser.seen[-1].headers["Location"]).query)
    liar.nonce = state["nonce"][0]

    answer = liar.browser.ask("http://app.test/oidc/callback?" + urlencode({"code": "c", "state": state["state"][0]}))

    assert urlsplit(answer.headers["Location"]).hostname == "app.test"


def test_a_check_of_ones_own_refuses(origin, app):
    liar = Liar(origin)
    gate, browser = app(liar.issuer, "check = function(claims) return claims.sub ~= 'alice' end")
    liar.callback(browser)

    assert browser.ask("http://app.test/").status == 403


@pytest.mark.parametrize("options, says", [
    ('issuer = "x", client_id = "y"', "auth.oidc: secrets is needed"),
    ('issuer = "x", client_id = "y", secrets = "short"', "auth.oidc: secrets must be a list of texts of 32 bytes or more"),
    ("", "is needed"),
])
def test_options_that_can_not_be_meant_refuse_the_script(tmp_path, options, says):
    script = tmp_path / "gateway.lua"
    script.write_text(f'{HERE}local gate = require "moongate"\ngate.listen ":1"\nrequire "auth.oidc" {{ {options} }}\n')

    done = moongate_module.run("check", script.name, cwd=tmp_path)

    assert done.returncode == 1 and "gateway.lua:3: " in done.stderr and says in done.stderr, done.stderr

"""Mirroring: a second upstream gets copies of requests, and nobody notices."""
import pytest

from client import request
from moongate import wait_until
from test_reload import reload


def script(server, shadow, mirror="", options="", shadow_options="", route=""):
    return f"""
        gate.upstream("shadow", {{ peers = {{ "{shadow}" }}, {shadow_options} }})
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }}, {options} }}), {route}
          mirror = {{ upstream = "shadow", {mirror} }} }}"""


def counts(gate):
    found, = [u for u in gate.status()["workers"][0]["upstreams"] if u["name"] == "shadow"]
    return found["mirrored"], found["mirrors_dropped"]


@pytest.mark.parametrize("method, body", [("GET", None), ("POST", b"x"), ("POST", b"x" * 60_000)])
def test_the_second_upstream_gets_the_same_request(moongate, origin, method, body):
    server, shadow = origin.answers(200, b"real"), origin.answers(500, b"shadow")
    gate = moongate(script(server, shadow))

    for _ in range(3):
        assert gate.request(method, "/a?b=c", "X-Moongate-Mirror: forged", body=body).body == b"real"
    shadow.wait(lambda: shadow.seen == 3 and shadow.last.whole)

    assert (shadow.last.method, shadow.last.target, shadow.last.body) == (method, "/a?b=c", body or b"")
    assert shadow.last["X-Moongate-Mirror"] == "app"
    assert shadow.last["Host"] == server.last["Host"]
    assert counts(gate) == (3, 0)


@pytest.mark.parametrize("kind", ["hangs", "refuses", "resets", "blackhole"])
def test_a_shadow_that_fails_costs_the_client_nothing(moongate, origin, kind):
    made = {"hangs": origin.hangs, "refuses": origin.refuses, "blackhole": origin.blackhole,
            "resets": lambda: origin.plays(lambda connection: connection.request() and connection.reset())}
    gate = moongate(script(origin.answers(200, b"real"), made[kind]()))
    client = gate.raw()

    assert [client.get("/").body for _ in range(20)] == [b"real"] * 20
    assert counts(gate) == (20, 0)


def test_a_share_is_mirrored(moongate, origin):
    shadow = origin.answers()
    gate = moongate(script(origin.answers(200, b"real"), shadow, mirror="share = 0.3"))
    client = gate.raw()

    for _ in range(500):
        client.get("/")

    assert 90 < sum(counts(gate)) < 220


BY_USER = 'key = function(req) return req.headers["x-user"] end'


def mirrored_users(gate, shadow, count=200, times=2):
    """Asks as so many users, and again; who was mirrored, and how often."""
    client, before = gate.raw(), len(shadow.requests)
    for _ in range(times):
        for n in range(count):
            client.get("/", f"X-User: user-{n}")
    gate.wait_total("exchanges", 0)
    shadow.wait_seen(before + counts_of_all(gate))
    seen = [request["X-User"] for request in shadow.requests[before:]]
    return {user: seen.count(user) for user in set(seen)}


def counts_of_all(gate):
    mirrored, dropped = counts(gate)
    assert not dropped
    return mirrored


def test_of_a_key_all_requests_are_mirrored_or_none_in_every_worker(moongate, origin):
    shadow = origin.answers()
    gate = moongate(script(origin.answers(200, b"real"), shadow, mirror=f"share = 0.3, max_active = 10000, {BY_USER}"), workers=2)

    users = mirrored_users(gate, shadow)

    assert 30 < len(users) < 90
    assert set(users.values()) == {2}


def test_a_larger_share_has_the_keys_of_a_smaller_one(moongate, origin):
    shadows = [origin.answers() for _ in range(2)]
    small, large = (
        set(mirrored_users(moongate(script(origin.answers(), shadow, mirror=f"share = {share}, max_active = 10000, {BY_USER}")), shadow, times=1))
        for shadow, share in zip(shadows, (0.2, 0.5)))

    assert small < large


def test_without_a_key_a_request_is_mirrored_by_chance_and_with_a_wrong_one_not(moongate, origin):
    shadow = origin.answers()
    gate = moongate(script(origin.answers(200, b"real"), shadow, mirror="share = 1, key = function(req) " \
                           "if req.path == '/throw' then error 'oh' end if req.path == '/table' then return {} end end"))
    gate.expect_error("mirror: key: ")

    assert [gate.get(path).body for path in ("/", "/throw", "/table")] == [b"real"] * 3

    gate.wait_log("mirror: key: .*oh")
    gate.wait_log("mirror: key: a string is needed, got a table")
    assert counts(gate) == (1, 0)


def test_a_key_may_wait_and_leaves_other_hooks_as_they_are(moongate, origin):
    shadow = origin.answers()
    gate = moongate(script(origin.answers(200, b"real"), shadow, mirror="share = 1, key = function(req) gate.sleep(0.01) return req.ctx.user end",
                           route="policies = { { access = function(req) req.ctx.user = 'a' end } },"))

    assert gate.get("/").body == b"real"
    assert counts(gate) == (1, 0)


def test_no_more_copies_are_under_way_than_max_active(moongate, origin):
    shadow = origin.hangs()
    gate = moongate(script(origin.answers(200, b"real"), shadow, mirror="max_active = 3"))

    assert [gate.get("/").body for _ in range(10)] == [b"real"] * 10

    shadow.wait_seen(3)
    assert counts(gate) == (3, 7)


@pytest.mark.parametrize("size, expected", [(100_000, (1, 0)), (100_001, (0, 1))])
def test_a_body_over_its_bound_is_not_mirrored(moongate, origin, size, expected):
    server, shadow = origin.echoes(), origin.echoes()
    gate = moongate(script(server, shadow, mirror="max_body = 100000"))

    assert len(gate.post("/", body=b"x" * size).body) == size

    assert counts(gate) == expected
    shadow.wait(lambda: shadow.seen == expected[0] and (not shadow.seen or shadow.last.whole))
    assert not shadow.seen or len(shadow.last.body) == size


def test_what_a_policy_answers_is_not_mirrored(moongate, origin):
    shadow = origin.answers()
    gate = moongate(script(origin.answers(), shadow, route="policies = { { access = function() return 401 end } },"))

    assert gate.get("/").status == 401
    assert counts(gate) == (0, 0) and not shadow.seen


def test_a_request_whose_own_upstream_fails_is_mirrored(moongate, origin):
    shadow = origin.answers()
    gate = moongate(script(origin.refuses(), shadow))

    assert gate.get("/").status == 502
    shadow.wait_seen(1)


def test_a_large_answer_of_the_shadow_is_read_and_dropped(moongate, origin):
    shadow = origin.answers(200, b"x" * 8_000_000)
    gate = moongate(script(origin.answers(200, b"real"), shadow))

    for _ in range(3):
        assert gate.get("/").body == b"real"

    shadow.wait_seen(3)
    wait_until(lambda: len(shadow.connections) <= 3)


def test_an_http2_shadow_gets_copies(moongate, origin, h2_origin):
    shadow = h2_origin()
    gate = moongate(script(origin.answers(200, b"real"), shadow, shadow_options='protocol = "h2"'))

    assert gate.post("/", body=b"body").body == b"real"

    shadow.wait_seen(1)
    assert (shadow.requests[0].body, shadow.requests[0]["x-moongate-mirror"]) == (b"body", "app")


def test_a_reload_keeps_copies_that_are_under_way(moongate, origin):
    shadow = origin.holds()
    gate = moongate(script(origin.answers(200, b"real"), shadow))

    client = gate.raw()
    client.send(request("GET", "/"))
    assert client.response().body == b"real"
    shadow.wait_seen(1)
    reload(gate)
    assert gate.get("/").body == b"real"
    shadow.go.set()

    shadow.wait_seen(2)

"""The policies of scripts/limit: each in front of a recording origin, with shared memory and with a real Redis."""
import calendar
import os
import re
import signal
import time

import pytest

from client import chunked, request
from moongate import ROOT, run, wait_until
from redis_server import RedisServer

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '
BY_FIELD = 'by = function(req) return req.headers["x-client"] end'


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def store(request, redis_server, moongate):
    """What an option list begins with: nothing, or a Redis that is empty. It hangs up at the test's end."""
    if request.param == "memory":
        yield ""
        return
    assert redis_server.command("FLUSHALL") == b"+OK\r\n"
    yield f'store = "redis://{redis_server}", '
    redis_server.hang_up()


@pytest.fixture
def policy(moongate, origin):
    """policy(text): a gateway whose one route has this policy and ends at policy.origin."""
    def start(text, server=None, settings="", **options):
        start.origin = server or origin.answers(200, b"ok")
        return moongate(f"""{HERE}{settings}
            gate.route {{ "/*", policies = {{ {text} }}, upstream = gate.upstream("app", {{ peers = {{ "{start.origin}" }} }}) }}
        """, **options)
    return start


def statuses(gate, number, *fields):
    return [gate.get("/", *fields).status for _ in range(number)]


# ---- rate

def test_a_burst_passes_and_then_it_is_said_when_to_come_again(policy, store):
    gate = policy(f'require "limit.rate" {{ {store}rate = 0.5, burst = 3 }}')

    answers = [gate.get("/") for _ in range(5)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert int(answers[3]["Retry-After"]) in (1, 2)
    assert policy.origin.seen == 3


def test_every_answer_tells_what_is_left(policy, store):
    gate = policy(f'require "limit.rate" {{ {store}rate = 0.5, burst = 3, name = "search" }}')

    answers = [gate.get("/") for _ in range(4)]

    assert {answer["RateLimit-Policy"] for answer in answers} == {'"search";q=3;w=6'}
    told = [re.fullmatch(r'"search";r=(\d+);t=(\d+)', answer["RateLimit"]) for answer in answers]
    assert [int(each[1]) for each in told] == [2, 1, 0, 0]
    assert [int(each[2]) for each in told][:3] == [2, 4, 6]
    assert int(told[3][2]) in (1, 2)


def test_it_need_not_tell(policy):
    gate = policy('require "limit.rate" { rate = 10, fields = false }')

    assert "ratelimit" not in gate.get("/").fields


def test_a_bucket_fills_up_again_and_each_client_has_its_own(policy, store):
    gate = policy(f'require "limit.rate" {{ {store}rate = 20, burst = 1, {BY_FIELD} }}')

    assert gate.get("/", "X-Client: a").status == 200
    assert gate.get("/", "X-Client: b").status == 200
    assert statuses(gate, 2) == [200, 200]          # nobody's
    wait_until(lambda: gate.get("/", "X-Client: a").status == 200)


def test_no_request_too_many_passes_over_all_workers(policy, store):
    gate = policy(f'require "limit.rate" {{ {store}rate = 0.01, burst = 10 }}', workers=2)

    assert statuses(gate, 30).count(200) == 10


def test_a_window_lets_so_many_through_in_any_length_of_it(policy, store):
    gate = policy(f'require "limit.rate" {{ {store}rate = 5, per = 600, window = true }}')

    answers = [gate.get("/") for _ in range(8)]

    assert [answer.status for answer in answers] == [200] * 5 + [429] * 3
    assert [answer["RateLimit"][:16] for answer in answers[:6]] == [f'"limit.rate";r={n}' for n in (4, 3, 2, 1, 0, 0)]
    assert 0 < int(answers[6]["Retry-After"]) <= 1200


def test_a_window_slides_so_that_its_end_is_no_second_burst(policy, store):
    gate = policy(f'require "limit.rate" {{ {store}rate = 20, per = 1, window = true }}')
    while time.time() % 1 < 0.7:        # just before the end of a window
        time.sleep(0.01)

    first, began = statuses(gate, 40).count(200), time.time()
    wait_until(lambda: time.time() // 1 > began // 1)
    second = statuses(gate, 20).count(200)

    assert first == 20
    assert second <= 20 * (time.time() - began + 0.3)
    wait_until(lambda: gate.get("/").status == 200)


def test_two_gateways_count_together_in_redis(policy, redis_server, moongate):
    redis_server.command("FLUSHALL")
    text = f'require "limit.rate" {{ store = "redis://{redis_server}", rate = 0.01, burst = 10 }}'

    passed = [gate.get("/").status for gate in (policy(text), policy(text)) for _ in range(8)].count(200)

    assert passed == 10
    redis_server.hang_up()


def test_a_password_and_a_database_may_stand_in_the_url(policy, tmp_path):
    with RedisServer(tmp_path, "--requirepass", "pa:ss word") as server:
        gate = policy(f'require "limit.rate" {{ store = "redis://:pa%3Ass%20word@{server}/3", rate = 0.01, burst = 2 }}')

        assert statuses(gate, 3) == [200, 200, 429]


# ---- Redis is away

@pytest.mark.parametrize("on_fail, status", [("open", 200), ("closed", 503)])
def test_when_redis_is_away_the_user_has_said_what_becomes_of_requests(policy, tmp_path, on_fail, status):
    with RedisServer(tmp_path) as server:
        gate = policy(f'require "limit.rate" {{ store = "redis://{server}", on_fail = "{on_fail}", rate = 0.01, burst = 2 }}')
        assert statuses(gate, 3) == [200, 200, 429]
        server.stop()

        assert statuses(gate, 10) == [status] * 10
        gate.wait_log(f"limit.rate: redis://{server}: .*; requests (pass uncounted|are answered with 503) till it answers")
        server.start()
        wait_until(lambda: statuses(gate, 3)[2] == 429)
        gate.wait_log(f"limit.rate: redis://{server} answers again")
        assert len([line for line in gate.lines if "till it answers" in line]) == 1


def test_a_redis_that_hangs_costs_its_timeout_once_a_second_at_most(policy, tmp_path):
    with RedisServer(tmp_path) as server:
        gate = policy(f'require "limit.rate" {{ store = "redis://{server}", rate = 1000 }}')
        assert gate.get("/").status == 200
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert statuses(gate, 20) == [200] * 20
            assert time.monotonic() - began < 4         # one or two timeouts of a second
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        gate.wait_log("timeout; requests pass uncounted")


# ---- quota

def test_a_quota_is_used_up_and_begins_anew_with_its_period(policy, store):
    gate = policy(f'require "limit.quota" {{ {store}most = 3, per = 1, {BY_FIELD} }}')
    wait_until(lambda: time.time() % 1 < 0.5)

    answers = [gate.get("/", "X-Client: a") for _ in range(5)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer["RateLimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0", "r=0"]
    assert answers[3]["Retry-After"] == "1"
    assert statuses(gate, 2, "X-Client: b") == [200, 200]
    wait_until(lambda: gate.get("/", "X-Client: a").status == 200)


@pytest.mark.parametrize("per", ["hour", "day", "month"])
def test_a_quotas_period_ends_where_the_calendar_says_in_utc(policy, per, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    gate = policy(f'require "limit.quota" {{ most = 1, per = "{per}", by = function() return "all" end }}')

    gate.get("/")
    now, left = time.time(), int(gate.get("/")["Retry-After"])

    at = time.gmtime(now)
    ends = {"hour": (now // 3600 + 1) * 3600, "day": (now // 86400 + 1) * 86400,
            "month": calendar.timegm((at.tm_year + at.tm_mon // 12, at.tm_mon % 12 + 1, 1, 0, 0, 0))}[per]
    assert abs(now + left - ends) <= 2


def test_a_quota_of_bytes_counts_what_was_sent(policy, store, origin):
    gate = policy(f'require "limit.quota" {{ {store}most = "1K", per = 3600, count = "bytes", by = function() return "all" end }}',
                  origin.answers(200, b"x" * 400))

    assert statuses(gate, 2) == [200, 200]
    wait_until(lambda: gate.get("/").status == 429)         # counted when a response has ended
    assert policy.origin.seen >= 3                          # 1,200 bytes: the last one went over


# ---- concurrency

def test_one_too_many_at_once_is_refused_until_another_has_ended(policy, origin, store):
    held = origin.holds()
    gate = policy(f'require "limit.concurrency" {{ {store}most = 2 }}', held)
    busy = [gate.raw() for _ in range(2)]
    for client in busy:
        client.send(request("GET", "/"))
    wait_until(lambda: held.seen == 2)

    refused = gate.get("/")
    held.go.set()
    answered = [client.response().status for client in busy]

    assert (refused.status, refused["Retry-After"]) == (429, "1")
    assert answered == [200, 200]
    wait_until(lambda: gate.get("/").status == 200)


def test_a_client_that_leaves_counts_no_longer(policy, origin, store):
    held = origin.holds()
    gate = policy(f'require "limit.concurrency" {{ {store}most = 1, status = 503 }}', held)
    client = gate.raw()
    client.send(request("GET", "/"))
    wait_until(lambda: held.seen == 1)
    assert gate.get("/").status == 503

    client.close()
    held.go.set()

    wait_until(lambda: gate.get("/").status == 200)


def test_what_a_killed_worker_had_in_progress_counts_no_longer(policy, origin):
    held = origin.holds()
    gate = policy('require "limit.concurrency" { most = 2, by = function() return "all" end }', held, workers=2)
    clients = [gate.raw() for _ in range(2)]
    for client in clients:
        client.send(request("GET", "/"))
    wait_until(lambda: held.seen == 2)
    assert gate.get("/").status == 429
    gate.expect_error("killed|ended")
    before = gate.worker_pids()

    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(pids := gate.worker_pids()) == 2 and not set(pids) & set(before))
    held.go.set()

    assert statuses(gate, 2) == [200, 200]


def test_in_redis_what_a_dead_gateway_had_in_progress_counts_for_its_lease(policy, redis_server):
    redis_server.command("FLUSHALL")
    redis_server.command("ZADD", "limit.concurrency:all", str(time.time() + 0.5), "of a gateway that died")
    gate = policy(f'require "limit.concurrency" {{ store = "redis://{redis_server}", most = 1, by = function() return "all" end }}')

    assert gate.get("/").status == 429
    wait_until(lambda: gate.get("/").status == 200)
    redis_server.hang_up()


# ---- bandwidth

def test_a_download_takes_as_long_as_its_rate_says(policy, origin):
    gate = policy('require "limit.bandwidth" { down = "400K", burst = "40K" }', origin.answers(200, b"x" * 240 * 1024))
    began = time.monotonic()

    answer = gate.get("/")

    assert len(answer.body) == 240 * 1024
    assert 0.45 <= time.monotonic() - began < 3


def test_an_upload_takes_as_long_as_its_rate_says(policy):
    gate = policy('require "limit.bandwidth" { up = "400K", burst = "40K" }')
    began = time.monotonic()

    assert gate.post("/", body=b"x" * 240 * 1024).status == 200
    assert 0.45 <= time.monotonic() - began < 3
    assert len(policy.origin.last.body) == 240 * 1024


def test_downloads_of_one_key_share_its_bandwidth(policy, origin):
    gate = policy('require "limit.bandwidth" { down = "400K", burst = "40K", by = function() return "all" end }',
                  origin.answers(200, b"x" * 120 * 1024))
    clients, began = [gate.raw() for _ in range(2)], time.monotonic()
    for client in clients:
        client.send(request("GET", "/"))

    assert [len(client.response().body) for client in clients] == [120 * 1024] * 2
    assert 0.45 <= time.monotonic() - began < 3


# ---- body

def test_a_body_may_be_as_long_as_the_request_is_worth(policy):
    gate = policy("""require "limit.body" { most = function(req)
        if req.headers["x-plan"] == "free" then return 1024 end
        if req.headers["x-plan"] == "paid" then return 8192 end
    end }""", settings='gate.set { max_body_size = "16K" }')

    def post(size, *fields):
        return gate.post("/", *fields, body=b"x" * size).status
    assert [post(1024, "X-Plan: free"), post(1025, "X-Plan: free")] == [200, 413]
    assert [post(8192, "X-Plan: paid"), post(8193, "X-Plan: paid")] == [200, 413]
    assert [post(16384), post(16385)] == [200, 413]


def test_a_body_that_does_not_say_its_length_is_cut_when_it_is_too_long(policy):
    gate = policy('require "limit.body" { most = 1000 }')
    client = gate.raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"), chunked(b"x" * 600, b"x" * 600))

    assert client.response().status == 413


# ---- What a script can get wrong.

@pytest.mark.parametrize("text, told", [
    ('limit.rate" { rate = 0 }', "limit.rate: rate must be a positive number, got 0"),
    ('limit.rate" { rate = 1, window = true, burst = 2 }', "limit.rate: burst is a token bucket's; window has none"),
    ('limit.rate" { rate = 1, store = "10.0.0.1" }', 'limit.rate: store must be like "redis://:password@10.0.0.1:6379/0", got "10.0.0.1"'),
    ('limit.rate" { rate = 1, on_fail = "shut" }', 'limit.rate: on_fail must be "open" or "closed", got "shut"'),
    ('limit.quota" { most = 1, per = "week", by = print }', 'limit.quota: per must be "hour", "day", "month" or seconds, got "week"'),
    ('limit.bandwidth" {}', "limit.bandwidth: give it down, up, or both"),
    ('limit.body" { most = "2X" }', 'limit.body: most must be a size like 65536 or "64K", got "2X"'),
])
def test_what_is_wrong_with_the_options_is_told(tmp_path, text, told):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"; {HERE}\ngate.listen "127.0.0.1:1"\nrequire "{text}\n')

    done = run("check", script)

    assert done.returncode == 1
    assert f"gateway.lua:3: {told}" in done.stderr

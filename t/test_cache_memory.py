"""The memory of scripts/cache.lua: its bound, what goes first, many at once, a worker that dies."""
import hashlib
import json
import os
import random
import signal
import threading
import time

import pytest

from moongate import wait_until


def body_of(target, size):
    """A body that tells whose it is, and whether it is whole."""
    seed = hashlib.sha256(target.encode()).hexdigest().encode()
    return (seed * (size // len(seed) + 1))[:size]


def size_of(target):
    return int(target.rsplit("-", 1)[1])


@pytest.fixture
def cached(moongate, origin):
    server = origin.answers(lambda request: (200, body_of(request.target, size_of(request.target)),
                                             ["Cache-Control: max-age=3600", "Cache-Tag: all"]))

    def start(size, options="", **more):
        gate = moongate(f"""
            local store = gate.cache("cache", "{size}")
            gate.route {{ "/stats", handler = function() return 200, store:stats() end }}
            gate.route {{ "/flush", handler = function() return 200, store:flush() end }}
            gate.route {{ "/*", policies = {{ require "cache" {{ size = "{size}", {options} }} }},
                         upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""", **more)
        gate.stats = lambda: json.loads(gate.get("/stats").body)
        gate.origin = server
        return gate
    return start


def test_when_it_is_full_the_least_recently_used_goes(cached):
    gate = cached("1M")
    client = gate.raw()
    for n in range(200):
        client.get(f"/{n}-10000")
        client.get("/0-10000")
    before = gate.origin.seen

    for target in ("/0-10000", "/199-10000", "/190-10000"):
        client.get(target)
    assert gate.origin.seen == before
    client.get("/1-10000")

    assert gate.origin.seen == before + 1
    stats = gate.stats()
    assert stats["evicted"] > 50 and stats["used"] <= stats["size"] == 2 ** 20


def test_hostile_keys_and_variants_stay_within_the_bound(cached):
    gate = cached("1M")
    client = gate.raw()

    for n in range(3000):
        assert client.get(f"/{n}{'k' * (n % 4000)}-0").status == 200

    stats = gate.stats()
    assert stats["used"] <= stats["size"] and stats["entries"] > 100


LONG = 7_000_000             # more than a kernel holds for a client that does not read


def read_slowly(gate, target):
    """A client that has asked and reads only the head for now."""
    client = gate.raw(receive_buffer=4096)
    client.send(f"GET {target} HTTP/1.1\r\nHost: example.test\r\n\r\n".encode())
    return client, client.final_head()


def test_a_body_that_a_slow_client_reads_stays_until_it_has_it(cached):
    gate = cached("32M", 'max_body = "8M"')
    target = f"/slow-{LONG}"
    gate.get(target)
    slow, head = read_slowly(gate, target)

    gate.get("/flush")
    for n in range(6):
        assert gate.get(f"/{n}-{LONG}").status == 200

    assert slow.body(head).body == body_of(target, LONG)
    stats = gate.stats()
    assert gate.origin.seen == 7 and stats["used"] <= stats["size"]


def test_clients_that_leave_in_the_middle_give_their_hold_back(cached):
    gate = cached("32M", 'max_body = "8M"')
    target = f"/x-{LONG}"
    gate.get(target)

    for _ in range(20):
        client, _ = read_slowly(gate, target)
        client.close()
    gate.wait_total("exchanges", 0)
    gate.get("/flush")

    assert wait_until(lambda: gate.stats()["used"] == 0)


def test_so_much_is_held_by_slow_clients_at_most_and_the_rest_goes_to_the_origin(cached):
    gate = cached("32M", 'max_body = "8M"')
    targets = [f"/{n}-{LONG}" for n in range(4)]
    for target in targets:
        gate.get(target)

    slow = [read_slowly(gate, target) for target in targets[2:]]
    before = gate.origin.seen
    assert gate.get(targets[1]).body == body_of(targets[1], LONG)

    assert gate.origin.seen == before + 1
    for (client, head), target in zip(slow, targets[2:]):
        assert client.body(head).body == body_of(target, LONG)


def test_many_clients_and_purges_at_once_never_see_a_wrong_body(cached):
    gate = cached("2M", 'purge = { "127.0.0.1" }', workers=2)
    targets = ["/hot-1000"] * 8 + [f"/{n}-{size}" for n, size in enumerate([10, 3000, 40_000, 120_000, 400_000] * 4)]
    over, problems, counts = time.monotonic() + 3, [], []

    def ask(seed):
        chance, client, count = random.Random(seed), gate.raw(), 0
        try:
            while time.monotonic() < over:
                target = chance.choice(targets)
                reply = client.get(target)
                assert (reply.status, reply.body == body_of(target, size_of(target))) == (200, True), (target, reply)
                count += 1
        except Exception as problem:
            problems.append(repr(problem))
        counts.append(count)

    def purge():
        client, chance = gate.raw(), random.Random(0)
        while time.monotonic() < over:
            how = chance.choice([(chance.choice(targets),), ("/*",), ("/", "Cache-Tag: all")])
            if client.request("PURGE", *how).status != 200:
                problems.append("purge")
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)] + [threading.Thread(target=purge)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not problems and sum(counts) > 100
    stats = gate.stats()
    assert stats["used"] <= stats["size"]
    client = gate.raw()
    gate.get("/flush")
    assert wait_until(lambda: gate.stats()["used"] == 0)
    assert client.get("/hot-1000").body == body_of("/hot-1000", 1000)


def test_a_worker_that_is_killed_leaves_nothing_held(cached):
    gate = cached("32M", 'max_body = "8M"', workers=2)
    targets = [f"/{n}-{LONG}" for n in range(2)]
    for target in targets:
        gate.get(target)
        gate.slow = [read_slowly(gate, target) for _ in range(4)]

    old = gate.worker_pids()
    gate.expect_error("killed|died|signal")
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(pids := gate.worker_pids()) == 2 and not set(pids) & set(old))

    gate.get("/flush")
    for n in range(6):
        assert gate.get(f"/{n}-{LONG}").body == body_of(f"/{n}-{LONG}", LONG)
    before, stats = gate.origin.seen, gate.stats()
    assert gate.get(f"/5-{LONG}").body == body_of(f"/5-{LONG}", LONG)
    assert gate.origin.seen == before and stats["used"] <= stats["size"]


def test_a_claim_of_a_worker_that_was_killed_holds_nobody_up(moongate, origin):
    go = threading.Event()

    def script(connection):
        while connection.request():
            if server.seen == 1:
                go.wait(10)
            connection.answer(200, b"ok", ["Cache-Control: max-age=60"])
    server = origin.plays(script)
    gate = moongate(f"""gate.route {{ "/*", policies = {{ require "cache" {{ wait = 30 }} }},
                        upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")
    gate.expect_error("killed|died|signal")
    leader = gate.raw()
    leader.send(b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n")
    server.wait_seen(1)

    old = gate.worker_pids()
    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: (pids := gate.worker_pids()) and pids != old)
    began = time.monotonic()
    reply = gate.get("/")
    go.set()

    assert reply.status == 200 and time.monotonic() - began < 10

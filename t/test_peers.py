"""moongate peers, upstream:add and peer:remove: who the peers are now, agreed by all workers."""
import os
import signal
import threading

import pytest

from load import Load
from moongate import run, wait_until
from test_reload import edit, reload


@pytest.fixture
def servers(origin):
    """Three origins that answer with their number."""
    return [origin.answers(200, b"%d" % n) for n in range(3)]


def script(peers, more=""):
    listed = ", ".join(f'"{peer}"' for peer in peers)
    return f"""local app = gate.upstream("app", {{ peers = {{ {listed} }} }})
        {more}
        gate.route {{ "/*", upstream = app }}"""


def peers(gate, *words):
    done = run("peers", *words, "--control", gate.control_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(gate, upstream="app"):
    answer = gate.command("peers", upstream=upstream)
    return {p["address"]: p for p in answer["upstreams"][0]["peers"]}


def met(gate, count=40):
    """Which origins answer, over new connections, so in all workers."""
    return {gate.get("/").body for _ in range(count)}


def test_the_list_tells_of_every_peer(moongate, servers):
    gate = moongate(script(servers[:2]))
    for _ in range(4):
        gate.get("/")

    rows = listed(gate)
    lines = peers(gate).splitlines()

    assert {address: row["requests"] for address, row in rows.items()} == {str(server): 2 for server in servers[:2]}
    assert {(row["state"], row["from"], row["weight"]) for row in rows.values()} == {("in use", "script", 1)}
    assert lines[0] == "app" and [line.split()[0] for line in lines[2:]] == [str(server) for server in servers[:2]]


def test_a_peer_that_is_added_and_removed_is_so_in_all_workers(moongate, servers):
    gate = moongate(script(servers[:1]), workers=2)
    assert met(gate) == {b"0"}

    told = peers(gate, "add", "app", str(servers[1]), "2")

    assert str(servers[1]) in told
    assert met(gate) == {b"0", b"1"}
    assert (listed(gate)[str(servers[1])]["weight"], listed(gate)[str(servers[1])]["from"]) == (2, "added")
    peers(gate, "remove", "app", str(servers[0]))
    assert met(gate) == {b"1"}
    peers(gate, "remove", "app", str(servers[1]))
    assert {gate.get("/").status for _ in range(10)} == {503}
    peers(gate, "reset", "app")
    assert met(gate) == {b"0"}


def test_a_peer_that_drains_gets_no_new_requests_until_it_is_told_to(moongate, servers):
    gate = moongate(script(servers[:2]), workers=2)

    peers(gate, "drain", "app", str(servers[0]))

    assert met(gate) == {b"1"}
    assert listed(gate)[str(servers[0])]["state"] == "draining"
    peers(gate, "undrain", "app", str(servers[0]))
    assert met(gate) == {b"0", b"1"}


def test_a_weight_counts_in_every_worker(moongate, servers):
    gate = moongate(script(servers[:2]), workers=2)

    peers(gate, "weight", "app", str(servers[0]), "9")

    answers = [gate.get("/").body for _ in range(100)]
    assert answers.count(b"0") == 90


def test_turns_are_even_over_all_workers_whoever_came_first(moongate, servers):
    gate = moongate(script(servers[:1]), workers=2)
    for server in (servers[2], servers[1]):
        met(gate, 3)
        peers(gate, "add", "app", str(server))
    peers(gate, "remove", "app", str(servers[0]))
    peers(gate, "add", "app", str(servers[0]))
    met(gate)

    answers = [gate.get("/").body for _ in range(90)]

    assert {answers.count(b"%d" % n) for n in range(3)} == {30}


def test_scripts_add_and_remove_in_all_workers_too(moongate, servers):
    gate = moongate(script(servers[:1], f"""
        gate.route {{ "/add", handler = function() return app:add {{ "{servers[1]}", weight = 3 }} and 204 or 500 end }}
        gate.route {{ "/remove", handler = function() app.peers[1]:remove() return 204 end }}
        gate.route {{ "/weights", handler = function() local sum = 0 for _, p in ipairs(app.peers) do sum = sum + p.weight end return 200, tostring(sum) end }}
    """), workers=2)

    assert gate.get("/add").status == 204
    assert met(gate) == {b"0", b"1"}
    assert {gate.get("/weights").body for _ in range(20)} == {b"4"}
    assert gate.get("/remove").status == 204
    assert met(gate) == {b"1"}


def test_balancers_in_lua_see_who_comes_and_what_they_weigh(moongate, servers):
    gate = moongate(script(servers[:1]).replace("peers = {", 'balance = "random", peers = {'), workers=2)
    met(gate)

    peers(gate, "add", "app", str(servers[1]), "1000")

    wait_until(lambda: [gate.get("/").body for _ in range(30)].count(b"1") > 25)
    peers(gate, "weight", "app", str(servers[1]), "0.001")
    assert [gate.get("/").body for _ in range(30)].count(b"0") > 25


def test_what_was_said_outlives_a_worker_a_reload_and_an_upgrade(moongate, servers):
    gate = moongate(script(servers[:2]), workers=2)
    peers(gate, "remove", "app", str(servers[0]))
    peers(gate, "add", "app", str(servers[2]))
    expected = {b"1", b"2"}
    before = gate.worker_pids()

    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(pids := gate.worker_pids()) == 2 and before[0] not in pids)
    assert met(gate) == expected
    reload(gate)
    assert met(gate) == expected
    gate.upgrade()
    assert met(gate) == expected
    edit(gate, script(servers))
    reload(gate)
    assert met(gate) == expected, "what was said stands, whatever the script declares"
    peers(gate, "reset", "app")
    assert met(gate) == {b"0", b"1", b"2"}


def test_peers_come_and_go_under_load_without_a_failed_request(moongate, origin):
    servers = [origin.answers(200, b"ok") for _ in range(3)]
    gate = moongate(script(servers[:2]), workers=2)
    load = Load(gate)

    for _ in range(10):
        peers(gate, "add", "app", str(servers[2]))
        peers(gate, "drain", "app", str(servers[0]))
        peers(gate, "remove", "app", str(servers[1]))
        peers(gate, "undrain", "app", str(servers[0]))
        peers(gate, "add", "app", str(servers[1]))
        peers(gate, "remove", "app", str(servers[2]))

    assert load.stop()["kept"] > 50


def test_a_request_in_progress_at_a_peer_that_is_removed_ends_there(moongate, origin):
    held = origin.holds(b"held")
    gate = moongate(script([held, origin.answers(200, b"other")]))
    clients = [gate.raw() for _ in range(2)]
    for client in clients:
        client.send("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n")
    held.wait_seen(1)

    peers(gate, "remove", "app", str(held))
    held.go.set()

    assert {client.response().body for client in clients} == {b"held", b"other"}


# ---- Kept connections.

class Parting:
    """An origin that knows when its connections are closed."""

    def __init__(self, origin, **options):
        self.closed, self.go = threading.Semaphore(0), threading.Event()

        def play(connection):
            while request := connection.request():
                if request.target == "/held":
                    self.go.wait(10)
                connection.answer(200, b"ok")
            self.closed.release()
        self.server = origin.plays(play, **options)

    def __str__(self):
        return str(self.server)


def fill(gate, server, connections):
    """Asks until there are so many kept connections, so that each worker has one."""
    wait_until(lambda: gate.get("/").status == 200 and len(server.connections) >= connections)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_idle_connections_to_a_peer_that_is_removed_are_closed_in_all_workers(moongate, origin, address):
    parting, stays = Parting(origin), Parting(origin)
    peer = f"{address}:{parting.server.port}"
    gate = moongate(script([peer, stays]).replace("peers = {", "keepalive_timeout = 600, peers = {"), workers=2)
    fill(gate, parting.server, 2)
    wait_until(lambda: gate.get("/").status == 200 and all(worker["idle"] >= 2 for worker in gate.status()["workers"]))
    kept = len(parting.server.connections)

    peers(gate, "remove", "app", peer)

    for _ in range(kept):
        assert parting.closed.acquire(timeout=5)
    assert not stays.closed.acquire(blocking=False)
    assert gate.total("idle") == len(stays.server.connections)
    assert {gate.get("/").status for _ in range(4)} == {200}


def test_a_busy_connection_to_a_peer_that_is_removed_ends_its_exchange_then_closes(moongate, origin):
    parting, stays = Parting(origin), Parting(origin)
    gate = moongate(script([parting]).replace("peers = {", "keepalive_timeout = 600, peers = {"))
    client = gate.raw()
    client.send("GET /held HTTP/1.1\r\nHost: example.test\r\n\r\n")
    parting.server.wait_seen(1)

    peers(gate, "add", "app", str(stays))
    peers(gate, "remove", "app", str(parting))
    assert {gate.get("/").status for _ in range(4)} == {200}
    assert not parting.closed.acquire(blocking=False)
    parting.go.set()

    assert client.response().body == b"ok"
    assert parting.closed.acquire(timeout=5)
    assert gate.total("idle") == 1


def test_so_does_one_of_http2_which_carries_several(moongate, h2_origin):
    go = threading.Event()

    def play(connection, request):
        if request.pseudo[":path"] == "/held":
            go.wait(10)
        connection.answer(request)
    parting = h2_origin(play)
    gate = moongate(script([parting]).replace("peers = {", 'protocol = "h2", keepalive_timeout = 600, peers = {'))
    clients = [gate.raw() for _ in range(3)]
    for client in clients:
        client.send("GET /held HTTP/1.1\r\nHost: example.test\r\n\r\n")
    parting.wait_seen(3)
    assert gate.get("/").status == 200

    peers(gate, "remove", "app", str(parting))
    assert parting.connections[0].sock.fileno() >= 0
    go.set()

    assert [client.response().status for client in clients] == [200] * 3
    wait_until(lambda: parting.connections[0].sock.fileno() < 0)
    assert len(parting.connections) == 1


def test_an_idle_one_of_http2_is_closed(moongate, h2_origin):
    parting = h2_origin()
    gate = moongate(script([parting]).replace("peers = {", 'protocol = "h2", keepalive_timeout = 600, peers = {'))
    assert gate.get("/").status == 200
    assert gate.total("idle") == 1

    peers(gate, "remove", "app", str(parting))

    wait_until(lambda: parting.connections[0].sock.fileno() < 0)
    assert gate.total("idle") == 0


def test_whom_discovery_does_not_name_any_more_loses_kept_connections_too(moongate, origin):
    parting, stays = Parting(origin), Parting(origin)
    gate = moongate(f"""local told = gate.shared "told"
        local app = gate.upstream("app", {{ keepalive_timeout = 600, discover_interval = 0.1,
          discover = function() return told:get "gone" and {{ "{stays}" }} or {{ "{parting}", "{stays}" }} end }})
        gate.route {{ "/gone", handler = function() told:set("gone", true) return 204 end }}
        gate.route {{ "/*", upstream = app }}""", workers=2)
    wait_until(lambda: gate.get("/").status == 200)
    fill(gate, parting.server, 2)
    kept = len(parting.server.connections)

    gate.get("/gone")

    for _ in range(kept):
        assert parting.closed.acquire(timeout=5)
    assert not stays.closed.acquire(blocking=False)


def test_a_reload_closes_what_is_kept_to_peers_it_has_not_and_nothing_else(moongate, origin):
    parting, stays = Parting(origin), Parting(origin)
    gate = moongate(script([parting, stays]).replace("peers = {", "keepalive_timeout = 600, peers = {"))
    for _ in range(2):
        assert gate.get("/").status == 200
    before = len(parting.server.connections), len(stays.server.connections)

    edit(gate, script([stays]).replace("peers = {", "keepalive_timeout = 600, peers = {"))
    reload(gate)

    assert parting.closed.acquire(timeout=5)
    assert not stays.closed.acquire(blocking=False)
    assert gate.get("/").status == 200
    assert (len(parting.server.connections), len(stays.server.connections)) == before == (1, 1)


def test_another_upstream_at_the_same_address_goes_on(moongate, origin):
    shared = Parting(origin)
    gate = moongate(f"""gate.route {{ "/app", upstream = gate.upstream("app", {{ peers = {{ "{shared}" }} }}) }}
        gate.route {{ "/other", upstream = gate.upstream("other", {{ peers = {{ "{shared}" }} }}) }}""")
    assert gate.get("/app").status == gate.get("/other").status == 200

    peers(gate, "remove", "app", str(shared))

    assert shared.closed.acquire(timeout=5)
    assert [gate.get("/other").status for _ in range(3)] == [200] * 3
    assert len(shared.server.connections) == 2, "kept again"


@pytest.mark.parametrize("words, told", [
    (["none"], 'peers: upstream "none": there is no such upstream; `moongate peers` lists those that there are'),
    (["add", "none", "127.0.0.1:1"], 'peers: upstream "none": there is no such upstream; `moongate peers` lists those that there are'),
    (["add", "app"], 'peers: upstream "app": an address is needed behind it, like `moongate peers add app 10.0.0.1:8080`'),
    (["add", "app", "nonsense"], 'peers: upstream "app": peer "nonsense": is not an address; write one like "10.0.0.1:8080"'),
    (["add", "app", "127.0.0.1:1", "heavy"], 'peers: upstream "app": peer "127.0.0.1:1": its weight must be a number above 0 and at most 1000000, got "heavy"'),
    (["remove", "app", "127.0.0.1:1"], 'peers: upstream "app": peer "127.0.0.1:1": there is no such peer; `moongate peers` with the upstream lists those that there are'),
    (["add", "app", "FIRST"], 'peers: upstream "app": peer "FIRST": it is there already; give it another weight by `moongate peers weight`'),
    (["weight", "app", "FIRST"], 'peers: upstream "app": peer "FIRST": a weight is needed behind it'),
    (["weight", "app", "FIRST", "-1"], 'peers: upstream "app": peer "FIRST": its weight must be a number above 0 and at most 1000000, got "-1"'),
    (["weigh", "app", "127.0.0.1:1"], 'peers: action "weigh": there are list, add, remove, drain, undrain, weight and reset'),
], ids=["list", "upstream", "address", "no address", "weight", "unknown", "there", "no weight", "below 0", "action"])
def test_a_mistake_is_told_with_its_remedy(moongate, servers, words, told):
    gate = moongate(script(servers[:1]))

    words, told = [word.replace("FIRST", str(servers[0])) for word in words], told.replace("FIRST", str(servers[0]))
    done = run("peers", "--control", gate.control_path, "--", *words)

    assert done.returncode == 1
    assert done.stderr.startswith(told)
    assert list(listed(gate)) == [str(servers[0])]


def test_of_more_than_can_be_remembered_the_last_is_refused_and_said_so(moongate, servers):
    gate = moongate(script(servers[:1]))

    answers = [gate.command("peers", action="add", upstream="app", peer=f"127.1.{n // 200}.{n % 200 + 1}:1") for n in range(513)]

    assert all("error" not in answer for answer in answers[:512])
    assert "at most 512" in answers[512]["error"]
    assert "error" not in gate.command("peers", action="reset", upstream="app")
    assert list(listed(gate)) == [str(servers[0])]

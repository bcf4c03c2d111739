"""One of ten peers, each a process, is killed under load: what is lost is what it had in flight, and of idempotent requests
nothing; and what all workers count of the peers together is exact."""
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

import proxies
from load import Load
from moongate import wait_until

TELLS = """local app = gate.upstream("app", {{ peers = {{ {peers} }}, {more} }})
    gate.route {{ "/active/:n", handler = function(req) return 200, tostring(app.peers[tonumber(req.params.n)].active) end }}
    gate.route {{ "/*", upstream = app }}"""


@pytest.fixture
def ten():
    """Ten processes that answer after 5 ms."""
    command = [sys.executable, Path(__file__).parent / "slow_server.py", "5"]
    made = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(10)]
    for each in made:
        each.port = int(each.stdout.readline())
    yield made
    for each in made:
        each.kill()
        each.communicate()


def script(processes, more):
    return TELLS.format(peers=", ".join(f'"127.0.0.1:{each.port}"' for each in processes), more=more)


@pytest.mark.parametrize("more", ["", "eject = true", "health = { tcp = true, interval = 0.1 }"])
def test_no_idempotent_request_fails_when_a_peer_is_killed(moongate, ten, more):
    gate = moongate(script(ten, more), workers=2)
    loads = [Load(gate, expected=b"GET") for _ in range(4)]

    def done():
        return sum(sum(load.counts.values()) for load in loads)
    wait_until(lambda: done() > 200)
    ten[3].kill()
    after = done()
    wait_until(lambda: done() > after + 800 or any(load.problems for load in loads))

    for load in loads:
        load.stop()
    assert f"peer 127.0.0.1:{ten[3].port}: " in gate.log(), "some have met it"


class Posts:
    """Clients that post, whatever comes of it, each until its request has failed or it is told to stop."""

    def __init__(self, gate, count):
        self.gate, self.statuses, self.over = gate, Counter(), False
        self.threads = [threading.Thread(target=self.run) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.over:
            self.statuses[self.gate.post("/", body=b"x").status] += 1

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join(10)
        return self.statuses


def test_at_most_what_was_in_flight_to_a_killed_peer_fails(moongate, ten):
    gate = moongate(script(ten, ""), workers=2)
    posts = Posts(gate, 8)
    wait_until(lambda: posts.statuses[200] > 100)

    ten[0].send_signal(signal.SIGSTOP)
    wait_until(lambda: int(gate.get("/active/1").body) == 8)    # one after another comes to it, and stays
    ten[0].kill()
    answered = posts.statuses[200]
    wait_until(lambda: posts.statuses[200] > answered + 500)

    statuses = posts.stop()
    assert 1 <= statuses[502] <= 8 and set(statuses) == {200, 502}


NGINX = """
daemon off; worker_processes 2; pid $DIR/nginx.pid; error_log stderr warn;
events { worker_connections 500; }
http {
    log_format port $server_port; access_log $DIR/ports.log port;
    client_body_temp_path $DIR/body; proxy_temp_path $DIR/proxy; fastcgi_temp_path $DIR/fastcgi;
    uwsgi_temp_path $DIR/uwsgi; scgi_temp_path $DIR/scgi; keepalive_requests 1000000;
    server { listen 127.0.0.1:$PORT; %s }
}
"""


def test_what_all_workers_count_is_exact(moongate, tmp_path):
    kinds = {"good": "return 200 ok;", "cut": "return 444;", "bad": "return 500 no;"}
    servers = {}
    try:
        for name, answer in kinds.items():
            directory = tmp_path / name
            directory.mkdir()
            command = ["nginx", "-p", str(directory), "-e", "stderr", "-c"]
            servers[name] = proxies.Server(directory, command, "nginx.conf", NGINX % answer)
        peers = ", ".join(f'"{server}"' for server in servers.values())
        gate = moongate(f"""
            local app = gate.upstream("app", {{ peers = {{ {peers} }}, retry = false,
              eject = {{ consecutive = 0, errors = 0 }} }})
            gate.route {{ "/counts/:n", handler = function(req)
              local peer = app.peers[tonumber(req.params.n)]
              return 200, ("%d %d %d"):format(peer.requests, peer.failed, peer.active)
            end }}
            gate.route {{ "/*", upstream = app }}""", workers=3)

        count = 6000
        subprocess.run(["h2load", "--h1", "-n", str(count), "-c", "24", f"http://127.0.0.1:{gate.port}/"], check=True,
                       capture_output=True, timeout=60)

        logged = {name: len((tmp_path / name / "ports.log").read_text().split()) for name in kinds}
        counts = {name: gate.get(f"/counts/{n}").body for n, name in enumerate(kinds, 1)}
        assert sum(logged.values()) == count
        assert counts == {
            "good": b"%d 0 0" % logged["good"], "cut": b"%d %d 0" % (logged["cut"], logged["cut"]),
            "bad": b"%d %d 0" % (logged["bad"], logged["bad"])}
    finally:
        for server in servers.values():
            server.close()

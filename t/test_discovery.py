"""Peers that come and go by themselves: a function, a file, names, Consul, etcd, Kubernetes."""
import base64
import json
import os
import signal
import subprocess

import pytest

from load import Load
from moongate import ROOT, free_port, run, wait_until
from test_peers import listed, met
from test_reload import edit, reload

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '


@pytest.fixture
def servers(origin):
    """Three origins that answer with their number."""
    return [origin.answers(200, b"%d" % n) for n in range(3)]


def script(discover, more=""):
    return f"""{HERE}{more}
        local app = gate.upstream("app", {{ discover = {discover}, discover_interval = 0.1 }})
        gate.route {{ "/told", handler = function(req) told:set("list", req:text()) return 204 end }}
        gate.route {{ "/*", upstream = app }}"""


BY_FUNCTION = """function()
        told:incr("calls", 1, 0)
        local text = told:get "list"
        if text == "throw" then error "a mistake" end
        if text == "fail" then return nil, "nobody knows" end
        gate.sleep(0.01)
        return gate.json.decode(text or "[]")
    end"""
TOLD = 'told = gate.shared "told"; gate.route { "/calls", handler = function() return 200, tostring(told:get "calls" or 0) end }\n'


def tell(gate, *peers):
    text = peers[0] if peers in (("throw",), ("fail",)) else json.dumps(list(peers))
    assert gate.post("/told", body=text.encode()).status == 204


def expect_met(gate, *numbers):
    wanted = {b"%d" % n for n in numbers}
    wait_until(lambda: met(gate, 12) == wanted)


def test_a_function_that_waits_says_who_the_peers_are_in_all_workers(moongate, servers):
    gate = moongate(script(BY_FUNCTION, TOLD), workers=2)
    gate.expect_error("the list is empty")

    tell(gate, str(servers[0]), [str(servers[1])])
    expect_met(gate, 0, 1)
    assert {row["from"] for row in listed(gate).values()} == {"added"}
    tell(gate, [str(servers[1])], str(servers[2]))
    expect_met(gate, 1, 2)
    tell(gate, str(servers[0]))
    expect_met(gate, 0)


def test_what_it_says_is_beside_the_peers_that_are_declared(moongate, servers):
    gate = moongate(script(BY_FUNCTION, TOLD).replace("{ discover", f'{{ peers = {{ "{servers[2]}" }}, discover'))

    tell(gate, str(servers[0]))
    expect_met(gate, 0, 2)
    tell(gate, str(servers[1]))
    expect_met(gate, 1, 2)


@pytest.mark.parametrize("fault, told", [
    ("throw", "a mistake"), ("fail", "nobody knows"), ("", "the list is empty"), ("nonsense", "is no address of a peer"),
], ids=["throws", "fails", "empty", "no address"])
def test_a_fault_keeps_the_last_good_list_and_is_told_once(moongate, servers, fault, told):
    gate = moongate(script(BY_FUNCTION, TOLD))
    tell(gate, str(servers[0]))
    expect_met(gate, 0)
    gate.expect_error("a mistake")

    tell(gate, *([fault] if fault else []))
    gate.wait_log(f'the discovery of upstream "app": .*{told}')
    calls = int(gate.get("/calls").body)
    wait_until(lambda: int(gate.get("/calls").body) > calls + 3)

    assert met(gate, 6) == {b"0"}
    assert len([line for line in gate.lines if told in line]) <= 2
    tell(gate, str(servers[1]))
    gate.wait_log("there is a good list again")
    expect_met(gate, 1)


def test_one_worker_asks_for_all_and_another_when_that_one_dies(moongate, servers):
    gate = moongate(script(BY_FUNCTION, TOLD), workers=3)
    tell(gate, str(servers[0]))
    expect_met(gate, 0)
    began, uptime = int(gate.get("/calls").body), gate.status()["uptime"]
    wait_until(lambda: gate.status()["uptime"] >= uptime + 2)
    assert int(gate.get("/calls").body) - began <= 2.2 * 3 / 0.09 / 3 * 1.5, "three workers would ask three times as often"

    for pid in gate.worker_pids():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(pids := gate.worker_pids()) == 3 and pid not in pids)
    tell(gate, str(servers[1]))

    expect_met(gate, 1)


def test_peers_come_and_go_under_load_without_a_failed_request(moongate, origin):
    servers = [origin.answers(200, b"ok") for _ in range(3)]
    gate = moongate(script(BY_FUNCTION, TOLD), workers=2)
    tell(gate, str(servers[0]))
    wait_until(lambda: gate.get("/").status == 200)
    load = Load(gate)

    for n in range(12):
        tell(gate, str(servers[n % 3]), str(servers[(n + 1) % 3]))
        wait_until(lambda: set(listed(gate)) == {str(servers[n % 3]), str(servers[(n + 1) % 3])})

    assert load.stop()["kept"] > 50


def test_a_reload_without_discovery_lets_go_of_what_was_found(moongate, servers):
    gate = moongate(script(BY_FUNCTION, TOLD), workers=2)
    tell(gate, str(servers[0]))
    expect_met(gate, 0)

    reload(gate)
    assert met(gate) == {b"0"}, "what was found is there at once"
    edit(gate, f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{servers[1]}" }} }}) }}')
    reload(gate)

    expect_met(gate, 1)


# ---- Ready-made.

@pytest.mark.parametrize("kind", ["lines", "json"])
def test_a_file_lists_the_peers(moongate, servers, tmp_path, kind):
    path = tmp_path / "peers"

    def write(*rows):
        text = json.dumps(rows) if kind == "json" else "# ours\n" + "".join(
            f"{row['address']} {row['weight']}  # one\n" if isinstance(row, dict) else f"{row}\n" for row in rows)
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)
    write(str(servers[0]))
    gate = moongate(script(f'require "discover.file" {{ path = "{path}" }}', 'told = gate.shared "told"; '), workers=2)
    expect_met(gate, 0)

    write(str(servers[1]), {"address": str(servers[2]), "weight": 3})
    expect_met(gate, 1, 2)
    assert listed(gate)[str(servers[2])]["weight"] == 3
    path.write_text("[half" if kind == "json" else "127.0.0.1:1 heavy\n")
    gate.wait_log(f"{path}: .*; the peers stay as they are")
    assert met(gate, 8) == {b"1", b"2"}


def test_each_address_of_a_name_is_a_peer(moongate, servers):
    port = str(servers[0]).rpartition(":")[2]
    gate = moongate(script(f'require "discover.dns" {{ name = "localhost", port = {port} }}', 'told = gate.shared "told"; '))

    wait_until(lambda: f"127.0.0.1:{port}" in listed(gate))
    assert set(listed(gate)) <= {f"127.0.0.1:{port}", f"[::1]:{port}"}


def test_consul_tells_of_the_instances_that_pass(moongate, origin, servers):
    host, _, port = str(servers[0]).rpartition(":")
    entries = [
        {"Node": {"Address": "10.255.255.1"}, "Service": {"Address": host, "Port": int(port), "Weights": {"Passing": 2, "Warning": 1}, "Meta": {"zone": "b"}}},
        {"Node": {"Address": host}, "Service": {"Address": "", "Port": int(str(servers[1]).rpartition(":")[2])}},
    ]
    consul = origin.answers(200, json.dumps(entries).encode(), ["Content-Type: application/json"])
    gate = moongate(script(f'require "discover.consul" {{ url = "http://{consul}", service = "app", tag = "blue", token = "secret" }}', 'told = gate.shared "told"; '))

    expect_met(gate, 0, 1)

    asked = consul.requests[0]
    assert asked.target.startswith("/v1/health/service/app?")
    assert set(asked.target.partition("?")[2].split("&")) == {"passing=1", "tag=blue"}
    assert asked["x-consul-token"] == "secret"
    row = listed(gate)[str(servers[0])]
    assert (row["weight"], row["zone"]) == (2, "b")


@pytest.fixture
def etcd(tmp_path):
    """A real etcd; a function that calls its JSON gateway with curl."""
    port, peer_port = free_port(), free_port()
    process = subprocess.Popen(
        ["etcd", "--data-dir", tmp_path / "etcd", "--listen-client-urls", f"http://127.0.0.1:{port}", "--advertise-client-urls",
         f"http://127.0.0.1:{port}", "--listen-peer-urls", f"http://127.0.0.1:{peer_port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def call(what, **fields):
        done = subprocess.run(["curl", "-sS", "-f", f"http://127.0.0.1:{port}/v3/kv/{what}", "-d", json.dumps(fields)],
                              capture_output=True, text=True, timeout=10)
        return done.returncode == 0
    call.url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: call("range", key="AA=="))
        yield call
    finally:
        process.terminate()
        process.wait(10)


def coded(text):
    return base64.b64encode(text.encode()).decode()


def test_a_real_etcd_tells_of_what_lies_under_a_prefix(moongate, servers, etcd):
    gate = moongate(script(f'require "discover.etcd" {{ url = "{etcd.url}", prefix = "/app/" }}', 'told = gate.shared "told"; '), workers=2)
    gate.expect_error("the list is empty")
    assert etcd("put", key=coded("/app/a"), value=coded(str(servers[0])))
    assert etcd("put", key=coded("/app0"), value=coded(str(servers[2])))
    expect_met(gate, 0)

    assert etcd("put", key=coded("/app/b"), value=coded(json.dumps({"address": str(servers[1]), "weight": 4, "zone": "c"})))
    expect_met(gate, 0, 1)
    assert (listed(gate)[str(servers[1])]["weight"], listed(gate)[str(servers[1])]["zone"]) == (4, "c")
    assert etcd("deleterange", key=coded("/app/a"))
    expect_met(gate, 1)


def test_kubernetes_tells_of_the_endpoints_that_are_ready(moongate, origin, servers, tmp_path):
    ports = [int(str(server).rpartition(":")[2]) for server in servers]
    slices = {"kind": "EndpointSliceList", "items": [
        {"addressType": "IPv4", "ports": [{"name": "http", "port": ports[0]}, {"name": "other", "port": 1}],
         "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}, "zone": "eu-1a"},
                       {"addresses": ["10.255.255.1"], "conditions": {"ready": False}},
                       {"addresses": ["10.255.255.2"], "conditions": {"ready": True, "terminating": True}}]},
        {"addressType": "IPv4", "ports": [{"name": "http", "port": ports[1]}],
         "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {}}]},
        {"addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["10.255.255.3"]}]},
    ]}
    api = origin.answers(200, json.dumps(slices).encode(), ["Content-Type: application/json"])
    token = tmp_path / "token"
    token.write_text("first\n")
    gate = moongate(script(f'require "discover.kubernetes" {{ url = "http://{api}", service = "app", namespace = "shop", port = "http", token_file = "{token}" }}', 'told = gate.shared "told"; '))

    expect_met(gate, 0, 1)
    assert listed(gate)[str(servers[0])]["zone"] == "eu-1a"
    assert len(listed(gate)) == 2
    asked = api.requests[0]
    assert asked.target == "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dapp"
    assert asked["authorization"] == "Bearer first"
    token.write_text("second\n")
    wait_until(lambda: api.last["authorization"] == "Bearer second")


# ---- What a script can get wrong.

@pytest.mark.parametrize("options, told", [
    ("{}", 'upstream "app": peers is needed: a list of addresses like { "10.0.0.1:8080" }; or discover'),
    ("{ discover = 1 }", 'upstream "app": discover must be a function, or a table of functions with find, and perhaps wait, got 1'),
    ("{ discover = print, discover_interval = 0 }", 'upstream "app": discover_interval must be a number of seconds, 0.1 or more, got 0'),
])
def test_what_is_wrong_with_a_discovery_is_told(tmp_path, options, told):
    path = tmp_path / "gateway.lua"
    path.write_text(f'local gate = require "moongate"\ngate.listen "127.0.0.1:1"\ngate.upstream("app", {options})\n')

    done = run("check", path)

    assert done.returncode == 1
    assert f"gateway.lua:3: {told}" in done.stderr

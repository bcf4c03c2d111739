"""gRPC through the proxy: a real server and a real client, npm's @grpc/grpc-js (t/node/grpc.js)."""
import json
import os
import subprocess

import pytest

from h2wire import Http2
from moongate import ROOT

MODULES = ROOT / "build" / "node" / "node_modules"


@pytest.mark.skipif(not (MODULES / "@grpc").exists(), reason="@grpc/grpc-js is not installed: make test does that")
def test_all_kinds_of_calls_pass(moongate):
    process = subprocess.Popen(["node", ROOT / "t" / "node" / "grpc.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, "NODE_PATH": str(MODULES)}, text=True)
    try:
        port = json.loads(process.stdout.readline())["port"]
        gate = moongate(f"""
            gate.route {{ "/*", upstream = gate.upstream("grpc", {{ peers = {{ "127.0.0.1:{port}" }}, protocol = "h2" }}) }}
        """)
        told, _ = process.communicate(f"{gate.port}\n", timeout=60)
    finally:
        process.kill()
        process.wait()
    told = json.loads(told)

    assert told["unary"] == {"code": 0, "details": None, "value": "one hello yes", "trailer": "behind"}
    assert (told["fails"]["code"], told["fails"]["details"]) == (5, "no such thing")
    assert told["many"] == {"code": 0, "count": 100, "last": "n99"}
    assert told["sum"] == {"code": 0, "value": "1000000"}
    assert told["chat"] == {"code": 0, "got": ["A", "B", "C"]}
    assert told["together"] == 200
    assert told["down"]["code"] == 14           # UNAVAILABLE: the proxy's own words


@pytest.mark.parametrize("kind, status, code", [("application/grpc", 200, "14"), ("application/grpc+proto", 200, "14"),
                                                ("application/json", 502, None)])
def test_errors_of_the_proxys_own_are_told_in_grpcs_way(proxy, origin, kind, status, code):
    gate = proxy(origin.refuses())
    client = Http2(gate.address)
    gate.clients.append(client)

    answer = client.get("/test.Echo/One", ("content-type", kind), method="POST")

    assert (answer.status, answer["grpc-status"]) == (status, code)
    assert code is None or (answer.body, answer["content-type"]) == (b"", "application/grpc")

"""gRPC through the proxy: a real server and a real client, npm's @grpc/grpc-js (t/node/grpc.js)."""
import pytest

import node
from h2wire import Http2


@node.needs("@grpc/grpc-js")
def test_all_kinds_of_calls_pass(moongate):
    told = node.play("grpc.js", lambda port: moongate(f"""
        gate.route {{ "/*", upstream = gate.upstream("grpc", {{ peers = {{ "127.0.0.1:{port}" }}, protocol = "h2" }}) }}
    """))

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

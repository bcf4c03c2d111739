"""Ten thousand routes over the binary: it starts soon, and finds the right one whatever stands around it."""
import time

import pytest

from moongate import Moongate

ROUTES = """
    local function answers(text) return function(req) return 200, text .. (req.params.id or "") .. (req.params["*"] or "") end end
    for i = 1, 2500 do
        gate.route { ("/s%d/x"):format(i), handler = answers("literal " .. i) }
        gate.route { ("/s%d/:id"):format(i), handler = answers("param " .. i .. " ") }
        gate.route { ("/s%d/*"):format(i), handler = answers("rest " .. i .. " ") }
        gate.route { ("h%d.test/s1/x"):format(i), handler = answers("host " .. i) }
    end
    gate.route { "*.wild.test/s1/x", handler = answers "wild" }
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    began = time.monotonic()
    gate = Moongate(tmp_path_factory.mktemp("gate"), ROUTES)
    gate.took = time.monotonic() - began
    yield gate
    gate.close_clients()
    gate.finish()


def test_the_start_takes_a_bounded_time(many):
    assert many.took < 5


@pytest.mark.parametrize("number", [1, 2, 1249, 2499, 2500])
def test_the_most_literal_route_wins_among_ten_thousand(many, number):
    client = many.raw()

    assert client.get(f"/s{number}/x").body == b"literal %d" % number
    assert client.get(f"/s{number}/y").body == b"param %d y" % number
    assert client.get(f"/s{number}/x/y").body == b"rest %d x/y" % number
    assert client.get("/s1/x", f"Host: h{number}.test").body == b"host %d" % number
    client.close()


def test_a_wildcard_host_stands_between_an_exact_one_and_none(many):
    assert many.get("/s1/x", "Host: a.wild.test").body == b"wild"
    assert many.get("/s1/x", "Host: other.test").body == b"literal 1"


@pytest.mark.parametrize("target", ["/s2501/x", "/s/x", "/", "/S1/x"])
def test_what_no_route_matches_is_404(many, target):
    assert many.get(target).status == 404

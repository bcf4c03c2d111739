"""SRV records: gate.resolve and discover.dns against a real dnsmasq, and against servers that lie or are silent."""
import json
import struct

import pytest

from dns import Dns, Liar
from moongate import ROOT, run, wait_until
from test_peers import listed, met

NAME = "_http._tcp.users.test"
HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '


@pytest.fixture
def dns(tmp_path):
    made = Dns(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def liar():
    made = []

    def start(play, port):
        made.append(Liar(play, port))
        return made[-1]
    yield start
    for each in made:
        each.close()


@pytest.fixture
def servers(origin):
    """Three origins that answer with their number."""
    return [origin.answers(200, b"%d" % n) for n in range(3)]


def port_of(server):
    return str(server).rpartition(":")[2]


def records(*rows, host="a.test"):
    """dnsmasq's options for rows of (server or port, priority, weight)."""
    return [f"--srv-host={NAME},{host},{port_of(server)},{priority},{weight}" for server, priority, weight in rows] + [
        "--host-record=a.test,127.0.0.1"]


def discovering(moongate, dns, options="", **more):
    return moongate(f"""{HERE}gate.route {{ "/*", upstream = gate.upstream("app", {{ discover_interval = 0.1,
        discover = require "discover.dns" {{ srv = "{NAME}" }}, {options} }}) }}""",
                    set=f'resolver = "127.0.0.1:{dns.port}"', **more)


def asking(moongate, dns, name=NAME):
    return moongate(f"""gate.route {{ "/*", handler = function(req)
        local list, reason = gate.resolve("{name}", {{ type = "SRV" }})
        return 200, {{ list = list and {{ unpack(list) }}, ttl = list and list.ttl, reason = reason }} end }}""",
                    set=f'resolver = "127.0.0.1:{dns.port}"')


def ask(gate):
    return json.loads(gate.get("/").body)


# ---- gate.resolve

def test_resolve_tells_of_the_records_and_of_how_long_they_hold(moongate, dns):
    dns.serve(*records((81, 10, 3), (82, 20, 0)), ttl=77)
    gate = asking(moongate, dns)

    told = ask(gate)

    assert sorted(told["list"], key=lambda r: r["port"]) == [
        {"target": "a.test", "port": 81, "priority": 10, "weight": 3},
        {"target": "a.test", "port": 82, "priority": 20, "weight": 0}]
    assert told["ttl"] == 77


@pytest.mark.parametrize("ttl, told", [(0, 1), (999999, 3600)])
def test_a_ttl_is_at_least_a_second_and_at_most_an_hour(moongate, dns, ttl, told):
    dns.serve(*records((81, 10, 3)), ttl=ttl)

    assert ask(asking(moongate, dns))["ttl"] == told


@pytest.mark.parametrize("name, reason", [
    ("_none._tcp.users.test", "no such name"), ("a.test", "the name has no SRV record"), ("not a name", "not a name"),
    ("a..test", "not a name"), ("x" * 300, "not a name")])
def test_what_has_no_record_has_a_reason(moongate, dns, name, reason):
    dns.serve(*records((81, 10, 3)))

    assert ask(asking(moongate, dns, name)) == {"reason": reason}


def test_an_answer_that_is_too_long_for_udp_comes_by_tcp(moongate, dns):
    host = "h" * 60 + ".test"
    dns.serve(*records(*((port, 1, 1) for port in range(1000, 1100)), host=host))

    told = ask(asking(moongate, dns))

    assert {(r["target"], r["port"]) for r in told["list"]} == {(host, port) for port in range(1000, 1100)}


def test_who_does_not_wait_for_the_answer_leaves_nothing_open(moongate, dns, liar):
    liar(lambda question: None, dns.port)
    gate = moongate(f"""gate.route {{ "/*", handler = function()
        local list, reason = gate.timeout(0.05, function() return gate.resolve("{NAME}", {{ type = "SRV" }}) end)
        return 200, tostring(list) .. reason end }}""", set=f'resolver = "127.0.0.1:{dns.port}"')

    assert gate.get("/").body == b"niltimeout"
    assert gate.total("lookups") == 0


@pytest.mark.parametrize("call, told", [
    ('gate.resolve("a", { type = "MX" })', 'type must be "A" (addresses of both kinds) or "SRV", got "MX"'),
    ('gate.resolve("a", { kind = "SRV" })', 'no such option: "kind"; known are: type'),
    ('gate.resolve("a", "SRV")', 'gate.resolve takes options like { type = "SRV" }, got "SRV"'),
    ("gate.resolve(1)", "gate.resolve takes a name, got 1"),
])
def test_what_is_wrong_with_a_question_is_told(moongate, call, told):
    gate = moongate(f'gate.route {{ "/*", handler = function() return 200, select(2, pcall(function() {call} end)) end }}')

    assert told in gate.get("/").body.decode()


# ---- discover.dns

def test_weights_of_records_are_those_of_the_peers(moongate, dns, servers):
    dns.serve(*records((servers[0], 1, 3), (servers[1], 1, 1)))
    gate = discovering(moongate, dns, workers=2)
    wait_until(lambda: len(listed(gate)) == 2)

    answers = [gate.get("/").body for _ in range(80)]

    assert (answers.count(b"0"), answers.count(b"1")) == (60, 20)


def test_a_weight_of_0_is_a_small_chance_where_others_have_more_and_an_even_one_where_not(moongate, dns, servers):
    dns.serve(*records((servers[0], 1, 5), (servers[1], 1, 0), (servers[2], 2, 0), (9, 2, 0)))
    gate = discovering(moongate, dns)
    wait_until(lambda: len(listed(gate)) == 4)

    rows = listed(gate)

    assert [rows[str(server)]["weight"] for server in servers] == [5, 0.01, 1]
    assert rows["127.0.0.1:9"]["weight"] == 1


def test_a_target_s_weight_is_spread_over_its_addresses(moongate, dns):
    dns.serve(f"--srv-host={NAME},b.test,80,1,10", "--host-record=b.test,127.0.0.1", "--host-record=b.test,127.0.0.2",
              f"--srv-host={NAME},c.test,80,1,4", "--host-record=c.test,127.0.0.2", "--host-record=c.test,::1")
    gate = discovering(moongate, dns)
    wait_until(lambda: len(listed(gate)) == 3)

    assert {address: row["weight"] for address, row in listed(gate).items()} == {
        "127.0.0.1:80": 5, "127.0.0.2:80": 7, "[::1]:80": 2}


def test_the_next_priority_serves_while_none_of_the_first_is_healthy_and_no_longer(moongate, dns, origin, servers):
    first = origin.answers(200, b"first")
    dns.serve(*records((first, 10, 1), (servers[1], 20, 1)))
    gate = discovering(moongate, dns, 'balance = require "balance.tiers" { spare = math.huge }, '
                       'health = { tcp = true, interval = 0.05, rise = 1, fall = 1 }', workers=2)
    gate.expect_error("is unhealthy")
    wait_until(lambda: len(listed(gate)) == 2 and met(gate, 8) == {b"first"})

    first.close()
    wait_until(lambda: met(gate, 8) == {b"1"})
    again = origin.answers(200, b"again", port=first.port)

    wait_until(lambda: met(gate, 8) == {b"again"})
    assert again.seen


def test_a_change_of_priorities_reaches_balancing(moongate, dns, servers):
    dns.serve(*records((servers[0], 10, 1), (servers[1], 20, 1)))
    gate = discovering(moongate, dns, 'balance = require "balance.tiers" { spare = math.huge }', workers=2)
    wait_until(lambda: len(listed(gate)) == 2 and met(gate, 8) == {b"0"})

    dns.serve(*records((servers[0], 30, 1), (servers[1], 20, 1)))

    wait_until(lambda: met(gate, 8) == {b"1"})


def test_a_change_of_the_records_brings_and_takes_peers_without_a_reload(moongate, dns, servers):
    dns.serve(*records((servers[0], 1, 1)))
    gate = discovering(moongate, dns, workers=2)
    wait_until(lambda: met(gate, 8) == {b"0"})
    generation = gate.status()["generation"]

    dns.serve(*records((servers[1], 1, 1), (servers[2], 1, 1)))
    wait_until(lambda: met(gate, 8) == {b"1", b"2"})

    assert set(listed(gate)) == {str(server) for server in servers[1:]}
    assert gate.status()["generation"] == generation


def test_the_name_is_not_asked_for_again_before_its_ttl_is_over(moongate, dns, servers):
    dns.serve(*records((servers[0], 1, 1)), ttl=600)
    gate = moongate(f"""{HERE}local find, n = require "discover.dns" {{ srv = "{NAME}" }}, 0
        gate.route {{ "/*", upstream = gate.upstream("app", {{ discover_interval = 0.1, discover = function()
          n = n + 1
          gate.log.info("asked " .. n)
          return find()
        end }}) }}""", set=f'resolver = "127.0.0.1:{dns.port}"')

    gate.wait_log("asked 5$")

    assert met(gate, 4) == {b"0"}
    assert sum(f"query[SRV] {NAME}" in line for line in dns.asked) == 1


def test_a_target_without_an_address_is_left_out_and_told(moongate, dns, servers):
    dns.serve(*records((servers[0], 1, 1)), f"--srv-host={NAME},gone.test,80,1,1")
    gate = discovering(moongate, dns)
    gate.expect_error("gone.test")

    gate.wait_log("discover.dns: target gone.test: .*; it is left out")

    wait_until(lambda: met(gate, 4) == {b"0"})
    assert len(listed(gate)) == 1


def answer_to(question, *, flags=0x8180, answers=0, behind=b""):
    return question[:2] + struct.pack("!HHHHH", flags, 1, answers, 0, 0) + question[12:] + behind


LIES = {
    "no such name": (lambda q: answer_to(q, flags=0x8183), "no such name"),
    "no record": (answer_to, "the name has no SRV record"),
    "refused": (lambda q: answer_to(q, flags=0x8185), "the name servers do not answer"),
    "garbage": (lambda q: answer_to(q, answers=9, behind=b"\xc0\x0c\0\x21\0\1\0\0\0\1\0\xff\xff\xff\xff"), "the name servers can't answer"),
    "a loop": (lambda q: answer_to(q, answers=1, behind=b"\xc0\x0c\0\x21\0\1\0\0\0\1\0\x08\0\1\0\1\0\x50\xc0" + bytes([len(q) + 18])), "the name servers can't answer"),
    "not offered": (lambda q: answer_to(q, answers=1, behind=b"\xc0\x0c\0\x21\0\1\0\0\0\1\0\7\0\0\0\0\0\0\0"), 'its target is ".": the service is not offered'),
    "silence": (lambda q: None, "the name servers do not answer"),
}


@pytest.mark.parametrize("kind", LIES)
def test_what_is_no_good_answer_keeps_the_peers_with_one_warning(moongate, dns, liar, servers, kind):
    play, told = LIES[kind]
    dns.serve(*records((servers[0], 1, 1)))
    gate = discovering(moongate, dns, workers=2)
    wait_until(lambda: met(gate, 4) == {b"0"})

    dns.stop()
    lying = liar(play, dns.port)
    gate.wait_log(f'the discovery of upstream "app": {NAME}: {told}; the peers stay as they are')
    for _ in range(1 if kind == "silence" else 4):
        assert lying.seen.acquire(timeout=10)

    assert met(gate, 8) == {b"0"}
    assert len([line for line in gate.lines if told in line]) == 1
    lying.close()
    dns.serve(*records((servers[1], 1, 1)))
    gate.wait_log("there is a good list again")
    wait_until(lambda: met(gate, 4) == {b"1"})


@pytest.mark.parametrize("options", ["{}", '{ name = "a" }', '{ port = 1 }', '{ srv = "a", port = 1 }'])
def test_a_name_and_a_port_or_srv_is_needed(tmp_path, options):
    path = tmp_path / "gateway.lua"
    path.write_text(f'{HERE}\nlocal gate = require "moongate"\ngate.listen "127.0.0.1:1"\n\nlocal found = require "discover.dns" {options}\n')

    done = run("check", path)

    assert done.returncode == 1
    assert "gateway.lua:5: discover.dns: give a name and a port" in done.stderr

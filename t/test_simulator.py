"""moongate sim: the script's own balancers in simulated time, against what theory says of them."""
import json
import re

import pytest

import moongate

GATEWAY = """local gate = require "moongate"
gate.listen "127.0.0.1:8080"
local peers = {}
for i = 1, %d do peers[i] = "10.0." .. math.floor(i / 250) .. "." .. i %% 250 .. ":80" end
gate.route { "/*", upstream = gate.upstream("app", { peers = peers, %s }) }
"""


@pytest.fixture
def simulate(tmp_path):
    """simulate(peers, *options, upstream=""): the runs, by balancer."""
    def start(peers, *options, upstream=""):
        script = tmp_path / "gateway.lua"
        script.write_text(peers if isinstance(peers, str) else GATEWAY % (peers, upstream))
        done = moongate.run("sim", script, "--json", *options, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        start.whole = json.loads(done.stdout)
        return {run["name"]: run for run in start.whole["runs"]}
    return start


def near(value, expected, share):
    return abs(value - expected) <= share * expected


# ---- Queues are as theory has them.

def test_a_server_that_is_picked_by_chance_is_a_queue_of_poisson_arrivals(simulate):
    run = simulate(10, "--balance", "random", "--load", 0.8, "--requests", 400000, "--warm-up", "5s")["random"]

    assert near(run["mean"], 0.01 / (1 - 0.8), 0.05)
    assert all(near(run["at_least"][k], 0.8 ** (k + 1), 0.06) for k in range(6))


@pytest.mark.parametrize("service, variation", [("constant 10ms", 0), ("lognormal 10ms 0.8", 0.8965)])
def test_waiting_follows_pollaczek_and_khinchine(simulate, service, variation):
    run = simulate(1, "--balance", "random", "--load", 0.7, "--requests", 400000, "--service", service)["random"]

    waiting = 0.7 * 0.01 * (1 + variation) / (2 * (1 - 0.7))
    assert near(run["mean"], 0.01 + waiting, 0.05)


def test_a_server_that_works_at_several_at_once_follows_erlang(simulate):
    servers, offered = 8, 6.4
    run = simulate(1, "--balance", "random", "--load", 0.8, "--capacity", servers, "--requests", 400000)["random"]

    terms = [1.0]
    for n in range(1, servers + 1):
        terms.append(terms[-1] * offered / n)
    last = terms[servers] / (1 - offered / servers)
    waits = last / (sum(terms[:servers]) + last)            # Erlang's C
    assert near(run["mean"], 0.01 + waits * 0.01 / (servers - offered), 0.04)


# ---- Runs are the same again, and alike but for the balancer.

def test_the_same_seed_gives_the_same_result_and_another_one_another(simulate):
    options = ("--balance", "p2c,ewma,ring,sticky", "--requests", 20000, "--workers", 2)
    first = simulate(5, *options)
    again = simulate(5, *options)
    other = simulate(5, *options, "--seed", 2)

    assert first == again
    assert all(first[name]["mean"] != other[name]["mean"] for name in first)


def test_all_balancers_meet_the_same_requests_that_take_as_long(simulate):
    runs = simulate(1, "--balance", "round_robin,least_conn,random,p2c,maglev", "--requests", 20000)

    assert len(runs) == 5
    assert len({(run["mean"], run["p999"], run["servers"][0]["busy"]) for run in runs.values()}) == 1


def test_the_scripts_own_function_is_what_runs(simulate):
    runs = simulate("""local gate = require "moongate"
        gate.listen "127.0.0.1:8080"
        local turn = 0
        local mine = gate.upstream("mine", { peers = { "10.0.0.1:80", "10.0.0.2:80" }, balance = function(req, peers)
          turn = turn + 1
          return peers[turn % 4 == 0 and 2 or 1]
        end })
        gate.route { "/*", upstream = mine }
    """, "--requests", 4000, "--balance", "script")

    assert [server["requests"] for server in runs["a function (script)"]["servers"]] == [3000, 1000]


def test_turns_are_even_to_the_last_request(simulate):
    runs = simulate(7, "--balance", "round_robin", "--requests", 10000, "--workers", 4)

    counts = [server["requests"] for server in runs["round_robin"]["servers"]]
    assert max(counts) - min(counts) <= 1 and sum(counts) == 10000


# ---- The command.

def said(tmp_path, *options, script=None):
    (tmp_path / "gateway.lua").write_text(script or GATEWAY % (3, ""))
    done = moongate.run("sim", "gateway.lua", *options, cwd=tmp_path, timeout=30)
    assert done.returncode in (1, 2) and done.stdout == "", done
    return done.stderr.strip()


def test_the_tables_name_the_run_the_figures_and_the_shares(tmp_path):
    (tmp_path / "gateway.lua").write_text(GATEWAY % (3, 'balance = "ewma"'))

    done = moongate.run("sim", "gateway.lua", "--requests", "2000", cwd=tmp_path)

    lines = done.stdout.splitlines()
    assert lines[0].startswith("app: 3 peers, 2000 requests, poisson, 210 a second; service exponential 10.0 ms")
    assert re.search(r"requests/s +mean +p50 +p90 +p99 +p99.9 +imbalance", lines[2])
    assert [line.split()[0] for line in lines[3:8]] == ["ewma", "round_robin", "least_conn", "random", "p2c"]
    assert re.match(r"10\.0\.0\.1:80( +[\d.]+ %){5}$", lines[10])


@pytest.mark.parametrize("options, expected", [
    (["--rat", "5"], "there is no option --rat; did you mean --rate?"),
    (["--rate", "fast"], 'rate must be a positive number, got "fast"'),
    (["--rate"], "a value is needed after --rate"),
    (["--service", "gauss 3"], 'service must be a law like "constant 10ms"'),
    (["--rate", "5", "--load", "0.5"], "--rate and --load exclude each other"),
    (["--balance", "p3c"], '--balance p3c: it must be a function(req, peers), or the name of a balancer; did you mean "p2c"?'),
    (["--kill", "9@1-2"], '--kill 9@1-2: the upstream has no peer "9"; write an address, a number from 1 to 3'),
    (["--kill", "1"], "--kill 1: when? Write it like 2@30-60"),
    (["--upstream", "ap"], 'there is no upstream "ap"; did you mean "app"?'),
    (["--warm-up", "1h"], "--warm-up: the last request comes after"),
    (["other.lua"], "one script only; what is this: other.lua"),
])
def test_a_mistake_is_told_with_its_remedy(tmp_path, options, expected):
    assert expected in said(tmp_path, *options)


def test_a_balancer_that_throws_fails_its_requests_and_says_so(tmp_path):
    (tmp_path / "gateway.lua").write_text(GATEWAY % (2, 'balance = function(req) error "no idea" end'))

    done = moongate.run("sim", "gateway.lua", "--requests", "3", "--balance", "script", "--json", cwd=tmp_path)

    assert json.loads(done.stdout)["runs"][0]["failed"] == 3
    assert done.stderr.count("no idea") == 3

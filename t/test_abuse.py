"""Storms of clients and origins that break off at any point, and scripts that run away: the worker goes on, nothing is left."""
import os
import random
import socket
import threading

import pytest

from client import Client, chunked, request
from wire import Cut, Malformed

SANITIZE = bool(os.environ.get("SANITIZE"))
STORM = 60 if SANITIZE else 150         # connections a thread


# ---- Everybody breaks off.

def moody(seed):
    """An origin's script: mostly it answers, now and then it does anything else."""
    def play(connection):
        dice = random.Random(seed + connection.number)
        while asked := connection.head():
            mood = dice.randrange(12)
            if mood == 0:
                return connection.reset()
            if mood == 1:
                return connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n", b"x" * dice.randrange(50000))
            if mood == 2:
                return connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nbroken")
            if mood == 3:
                return connection.send(b"no HTTP\r\n\r\n")
            if mood == 4:
                connection.answer(413, b"early", ["Connection: close"])
                return connection.ended(0.2)
            connection.body(asked)
            if mood == 5:
                connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            if mood < 9:
                connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                                chunked(b"y" * dice.randrange(1, 100000), trailers=["X-T: 1"]))
            else:
                connection.answer(200, b"z" * dice.randrange(200000), head_only=asked.method == "HEAD")
            if mood == 11:
                return connection.send(b"surplus")
    return play


def one_visit(client, dice, hosts):
    for _ in range(dice.randrange(1, 4)):
        host = "Host: " + dice.choice(hosts)
        sent = dice.choice([
            lambda: request("GET", "/", host),
            lambda: request("HEAD", "/", host),
            lambda: request("POST", "/", host, body=b"b" * dice.randrange(100000)),
            lambda: request("PUT", "/", host, "Transfer-Encoding: chunked") + chunked(b"c" * dice.randrange(1, 100000)),
            lambda: request("POST", "/", host, "Expect: 100-continue", body=b"e" * 1000),
            lambda: request("GET", "/", host, "Connection: Upgrade", "Upgrade: echo"),
            lambda: request("GET", "/", host) * 3,
            lambda: request("GET", "/", host, version="1.0"),
            lambda: b"GET / HTTP/1.1\r\nBroken\r\n\r\n",
        ])()
        if dice.random() < 0.3:
            sent = sent[:dice.randrange(len(sent))]
        client.send(sent)
        mood = dice.random()
        if mood < 0.2:
            return client.reset()
        if mood < 0.3:
            client.shutdown()
        client.sock.settimeout(0.05 if mood < 0.5 else 0.3)
        if mood < 0.6:
            client.sock.recv(dice.choice([1, 100, 10000]))
        else:
            client.response("HEAD" if sent.startswith(b"HEAD") else "GET")


def storm(address, seed, hosts):
    dice = random.Random(seed)
    for _ in range(STORM):
        client = Client(address)
        try:
            one_visit(client, dice, hosts)
        except (OSError, Cut, Malformed):
            pass                        # whatever comes of it: the proxy must live
        finally:
            client.close()


HOSTS = ("plain.test", "hooked.test", "handler.test", "onion.test")
SCRIPT = """
    local peers = { %s }
    local slow = { name = "slow",
      access = function(req) gate.sleep(0.001) end,
      request_body = function(req, chunk) gate.sleep(0.001) if chunk then return chunk:upper() end end,
      response = function(req, res) gate.sleep(0.001) res.headers["x-seen"] = "1" end,
      response_body = function(req, res, chunk) gate.sleep(0.001) end,
      log = function(req, res) gate.sleep(0.001) end }
    local function onion(req, next)
      local res = next(req)
      gate.sleep(0.001)
      res.headers["x-onion"] = "1"
      return res
    end
    gate.route { "plain.test/*", upstream = gate.upstream("plain", { peers = peers }) }
    gate.route { "hooked.test/*", policies = { slow }, upstream = gate.upstream("hooked", { peers = peers }) }
    gate.route { "onion.test/*", policies = { onion, slow }, upstream = gate.upstream("onion", { peers = peers }) }
    gate.route { "handler.test/*", handler = function(req)
      local text = req:text() or ""
      local n = 0
      return 200, function() n = n + 1 gate.sleep(0.001) if n < 5 then return text .. "piece" end end
    end }
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_broken_clients_and_origins_leaves_nothing(moongate, origin, seed):
    origins = [origin.plays(moody(seed * 10000 + i * 1000)) for i in range(3)]
    gate = moongate(SCRIPT % ", ".join(f'"{o}"' for o in origins), set="body_timeout = 1, max_text_size = 200000")
    gate.expect_error(r"gateway\.lua|the client|broke off|gone")
    threads = [threading.Thread(target=storm, args=(gate.address, seed * 100 + i, HOSTS)) for i in range(6)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert not any(thread.is_alive() for thread in threads)
    pids = gate.worker_pids()
    for each in origins:
        each.violations.clear()         # a client that breaks off may leave a head, never a malformed one: see below
    assert gate.request("GET", "/", "Host: handler.test").body == b"piece" * 4
    assert gate.worker_pids() == pids
    assert "died" not in gate.log()


# ---- Scripts that run away.

RUNAWAYS = {
    "an empty loop": "while true do end",
    "a loop that computes": "local x = 0 while true do x = x + 1 end",
    "a loop over tables": "local t = {} while true do t[1] = { 1, 2, 3 } end",
    "a loop over strings": "local s while true do s = tostring(math.random()) end",
    "a loop of pcalls": "while true do pcall(function() while true do end end) end",
    "a loop in a coroutine": "coroutine.wrap(function() while true do end end)()",
    "a pathological pattern": 'string.rep("a", 40):find(("a?"):rep(40) .. ("a-"):rep(30) .. "b")',
    "a long pattern": 'local s = string.rep("a", 100000) while true do s:find(".-.-.-b") end',
    "endless recursion": "local function f() return 1 + f() end f()",
    "endless tail calls": "local function f() return f() end f()",
    "a sort that never agrees": "local t = {} for i = 1, 1e6 do t[i] = i end while true do "
                                "pcall(table.sort, t, function(a, b) return true end) end",
    "a memory hog of tables": "local t = {} while true do t[#t + 1] = { {}, {}, {} } end",
    "a memory hog of strings": 'local s = "x" while true do s = s .. s end',
    "a memory hog in one call": 'return 200, ("x"):rep(2e9)',
    "an error in an error": "error(setmetatable({}, { __tostring = function() error('again') end }))",
}


@pytest.mark.parametrize("code", RUNAWAYS.values(), ids=RUNAWAYS)
def test_a_script_that_runs_away_hurts_only_its_own_request(moongate, origin, code):
    server = origin.answers(200, b"ok")
    gate = moongate(f"""gate.route {{ "/bad", handler = function(req) {code} end }}
        gate.route {{ "/sleep", handler = function() gate.sleep(0.2) return 200, "slept" end }}
        gate.route {{ "/lua", handler = function() return 200, "fine" end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""",
                    set='cpu_budget = 0.1, memory_limit = "64M"')
    gate.expect_error("")
    pids = gate.worker_pids()
    beside = gate.raw()

    for _ in range(2):
        assert gate.get("/bad").status == 500
        assert gate.get("/lua").body == b"fine"
        assert beside.get("/x").body == b"ok"

    assert gate.get("/sleep").body == b"slept"
    assert gate.worker_pids() == pids
    assert gate.log().count(" error ") >= 2


def test_a_policy_that_runs_away_in_log_hurts_nobody(moongate):
    gate = moongate("""gate.use { log = function() while true do end end }
        gate.route { "/*", handler = function() return 200, "fine" end }""")
    gate.expect_error("")
    pids = gate.worker_pids()

    assert [gate.get("/").body for _ in range(3)] == [b"fine"] * 3
    gate.wait_log("budget|too long|CPU", count=3)
    assert gate.worker_pids() == pids


# ---- Odd ways to use a socket.

def test_urgent_data_does_no_harm(moongate):
    gate = moongate('gate.route { "/*", handler = function() return 200, "fine" end }')
    client = gate.raw()

    client.send(b"GET / HTTP/1.1\r\nHost: a")
    client.sock.send(b"!", socket.MSG_OOB)
    client.send(b"b\r\n\r\n")

    assert client.response().status in (200, 400)


def test_a_client_that_closes_before_its_answer_leaves_nothing(moongate):
    gate = moongate('gate.route { "/*", handler = function() gate.sleep(0.05) return 200, ("x"):rep(1e6) end }')

    for how in ("close", "reset") * 20:
        client = Client(gate.address)
        client.send(request("GET", "/"))
        getattr(client, how)()

    gate.wait_total("exchanges", 0)


# ---- What the storms have found.

@pytest.mark.parametrize("hook", ["", "response_body = function(req, res, chunk) gate.sleep(0.01) end,"])
@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_body_cut_while_a_response_hook_waits_stays_visibly_cut(moongate, origin, hook, framing):
    part = b"5\r\nhello\r\n" if "chunked" in framing else b"hello"
    server = origin.plays(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + part)
    gate = moongate(f"""gate.route {{ "/*", policies = {{ {{ {hook} response = function() gate.sleep(0.1) end }} }},
        upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")
    client = gate.raw()

    client.send(request("GET", "/"))

    assert client.cut_response().status == 200

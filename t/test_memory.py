"""Memory over many exchanges: nothing leaks, nothing grows, nothing is touched that isn't ours."""
import os
import random
import shutil
import signal
import subprocess
import threading

import pytest

from client import chunked, request
from moongate import wait_until
from test_unit import UNIT, WITH_LUA, build

SANITIZE = bool(os.environ.get("SANITIZE"))
needs_valgrind = pytest.mark.skipif(SANITIZE or not shutil.which("valgrind"), reason="valgrind and sanitizers do not mix")
VALGRIND = ("valgrind", "-q", "--trace-children=yes", "--smc-check=all-non-file", "--leak-check=full",
            "--errors-for-leak-kinds=definite", "--show-leak-kinds=definite", "--child-silent-after-fork=no")

HOSTS = ("plain.test", "hooked.test", "onion.test", "handler.test")
SCRIPT = """
    local app = gate.upstream("app", { peers = { "%s" } })
    local hooks = { name = "hooks",
      access = function(req) req.ctx.seen = req.path gate.sleep(0.001) end,
      request_body = function(req, chunk) if chunk then return chunk:upper() end end,
      attempt = function(req, peer) req.headers["x-peer"] = peer.address end,
      response = function(req, res) res.headers["x-seen"] = req.ctx.seen end,
      response_body = function(req, res, chunk) if chunk then return chunk:lower() end end,
      log = function(req, res) gate.sleep(0.001) end }
    local function onion(req, next)
      local res = next(req)
      res:replace("x", "yy")
      return res
    end
    gate.route { "plain.test/*", upstream = app }
    gate.route { "hooked.test/*", policies = { hooks }, upstream = app }
    gate.route { "onion.test/*", policies = { onion, hooks }, upstream = app }
    gate.route { "handler.test/*", handler = function(req)
      local text, n = req:text() or "", 0
      return 200, function() n = n + 1 if n < 5 then return text .. "piece" end end
    end }
"""


def exchange(client, dice):
    host = "Host: " + dice.choice(HOSTS)
    kind = dice.randrange(5)
    if kind == 0:
        return client.get("/", host)
    if kind == 1:
        return client.request("POST", "/", host, body=b"b" * dice.randrange(20000))
    if kind == 2:
        client.send(request("PUT", "/", host, "Transfer-Encoding: chunked"), chunked(b"x" * dice.randrange(1, 9000), b"y"))
        return client.response()
    if kind == 3:
        return client.request("HEAD", "/", host)
    return client.get("/", "Host: nowhere.test")


def traffic(gate, count, seed=1):
    """So many mixed exchanges, over four connections that are renewed now and then."""
    wrong = []

    def work(seed):
        dice, client = random.Random(seed), gate.raw()
        for i in range(count // 4):
            if i % 100 == 99:
                client.close()
                client = gate.raw()
            client.sock.settimeout(60)
            try:
                status = exchange(client, dice).status
            except Exception as problem:
                return wrong.append(problem)
            if status not in (200, 404):
                wrong.append(status)
        client.close()
    threads = [threading.Thread(target=work, args=(seed * 10 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert not wrong


def resident(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


@needs_valgrind
def test_ten_thousand_mixed_exchanges_leak_nothing(moongate, origin):
    gate = moongate(SCRIPT % origin.echoes(), under=VALGRIND, set="cpu_budget = 10")

    traffic(gate, 10000)
    gate.close_clients()
    origin.close()
    wait_until(lambda: not gate.left_open())
    gate.signal(signal.SIGQUIT)         # it waits for the leak check, TERM would not

    assert gate.wait_exit(60) == 0
    assert "==" not in gate.log(), gate.log()


@needs_valgrind
def test_generations_that_come_and_go_leak_nothing(tmp_path):
    """A few; unit/test_generations.c counts the memory of a hundred without valgrind."""
    program = build(UNIT / "test_generations.c", tmp_path / "generations")

    done = subprocess.run([*VALGRIND, program, "5"], cwd=tmp_path, env=WITH_LUA, capture_output=True, text=True, timeout=200)

    assert done.returncode == 0, done.stderr
    assert "==" not in done.stderr, done.stderr


@pytest.mark.skipif(SANITIZE, reason="a sanitizer keeps what was freed")
def test_memory_stays_where_it_is_over_many_exchanges(moongate, origin):
    gate = moongate(SCRIPT % origin.echoes())
    pid = gate.worker_pids()[0]

    traffic(gate, 4000, seed=1)
    before = resident(pid)
    traffic(gate, 12000, seed=2)

    assert resident(pid) - before < 2048, "KiB more than after a third of the exchanges"

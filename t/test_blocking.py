"""What holds the worker is told with its line, once; what would end or change the process is refused."""
import json
import os
import threading
import time

import pytest

from moongate import run

COMMANDS = {
    "os.execute": 'os.execute "sleep 0.2"',
    "file:read": 'local p = io.popen "sleep 0.2; echo said"; said = p:read "*l"; p:close()',
    "file:close": 'io.popen("sleep 0.2"):close()',
    "io.open": 'local f = io.open(req.args.fifo); f:read "*a"; f:close()',
    "io.lines": 'for line in io.lines(req.args.fifo) do said = line end',
    "file:lines": 'local p = io.popen "sleep 0.2; echo said"; for line in p:lines() do said = line end',
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_call_that_held_the_worker_is_told_once_with_its_line(moongate, tmp_path, name):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    gate = moongate(f"""gate.route {{ "/*", handler = function(req)
        local said
        {COMMANDS[name]}
        return 200, said
    end }}""")

    for _ in range(2):
        if "fifo" in COMMANDS[name]:
            threading.Timer(0.2, lambda: fifo.write_text("said\n")).start()
        reply = gate.get(f"/?fifo={fifo}")
        assert reply.status == 200
        assert reply.body in (b"", b"said")

    lines = gate.wait_log("held the worker")
    assert len([line for line in gate.log().splitlines() if f"{name} held the worker" in line]) == 1, gate.log()
    told = [line for line in lines if f" {name} held" in line][0]
    assert " warn " in told and "gateway.lua:4: " in told
    assert float(told.split(" held the worker for ")[1].split()[0]) >= 0.15


@pytest.mark.parametrize("where", ["timer", "init", "connect", "log"])
def test_it_is_told_of_every_phase(moongate, where):
    deed = 'os.execute "sleep 0.15"'
    script = {"timer": f"gate.after(0, function() {deed} end)"}.get(where, f"gate.use {{ {where} = function() {deed} end }}")
    gate = moongate(script + '\ngate.route { "/", handler = function() return 200 end }')

    gate.get("/")

    assert "gateway.lua:2: os.execute held the worker" in gate.wait_log("held the worker")[0]


def test_luasocket_is_told_too(moongate, origin):
    def play(connection):
        time.sleep(0.2)
        connection.send(b"late\n")
    server = origin.plays(play)
    host, port = str(server).split(":")
    gate = moongate(f"""
        local socket = require "socket"
        local function ask()
            local s = socket.connect("{host}", {port})
            local line = s:receive "*l"
            s:close()
            return line
        end
        gate.route {{ "/", handler = function() return 200, ask() end }}
        gate.route {{ "/sleep", handler = function() socket.sleep(0.2) return 200 end }}""")

    assert gate.get("/").body == b"late"
    assert gate.get("/sleep").status == 200

    assert "gateway.lua:6: socket:receive held the worker" in gate.wait_log("socket:receive")[0]
    assert "called from" in gate.log()
    assert "gateway.lua:11: socket.sleep held the worker" in gate.wait_log("socket.sleep")[0]


FFI = """local ffi = require "ffi"
        ffi.cdef "int usleep(unsigned);"
        local nap = { name = "nap", access = function(req) if req.query then ffi.C.usleep(150000) end end }
        gate.route { "/", policies = { nap }, handler = function() return 200 end }
        gate.route { "/waits", handler = function() gate.sleep(0.01) ffi.C.usleep(150000) return 200 end }"""


def test_a_call_that_nobody_knows_is_told_once_with_its_hook(moongate):
    gate = moongate(FFI)

    assert [gate.get(target).status for target in ("/", "/?now", "/?now", "/waits")] == [200] * 4

    assert len(gate.wait_log(r"access of policy nap \(.*gateway.lua:4\) held the worker for 0\.[1-9]")) == 1
    assert len(gate.wait_log(r"the route's handler \(.*gateway.lua:6\) held the worker for 0\.[1-9]")) == 1
    assert len(gate.wait_log("held the worker")) == 2


def test_a_library_that_is_loaded_late_is_watched_too(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        local ffi = require "ffi"
        ffi.cdef "int usleep(unsigned);"
        return 200
    end }
    gate.route { "/nap", handler = function() require("ffi").C.usleep(150000) return 200 end }""")
    gate.get("/")

    assert gate.get("/nap").status == 200

    gate.wait_log(r"the route's handler \(.*gateway.lua:7\) held the worker")


def test_what_computes_is_not_told_as_blocking(moongate):
    gate = moongate("""require("ffi").cdef "int usleep(unsigned);"
        gate.route { "/", handler = function()
            local began, n = os.clock(), 0
            while os.clock() < began + 0.15 do n = n + 1 end
            return 200
        end }""", set="cpu_budget = 2")

    assert gate.get("/").status == 200

    assert "held the worker" not in gate.log()


def test_a_short_call_and_one_at_the_top_level_are_not_told(moongate, tmp_path):
    gate = moongate(f"""
        os.execute "sleep 0.2"
        gate.set {{ blocking_threshold = 2 }}
        gate.route {{ "/", handler = function()
            local f = assert(io.open("{tmp_path}/small", "w"))
            f:write "some"
            f:close()
            os.execute "sleep 0.02"
            for line in io.lines("{tmp_path}/small") do return 200, line end
        end }}""")

    assert gate.get("/").body == b"some"

    assert "held the worker" not in gate.log()


def test_a_threshold_of_0_tells_nothing(moongate):
    gate = moongate('gate.route { "/", handler = function() os.execute "sleep 0.1" return 200 end }', set="blocking_threshold = 0")

    assert gate.get("/").status == 200

    assert "held the worker" not in gate.log()


@pytest.mark.parametrize("deed, message", [
    ('io.lines "/nowhere/at/all"', r"gateway.lua:2: bad argument #1 to 'lines' \(/nowhere/at/all: No such file or directory\)"),
    ("io.open({})", r"gateway.lua:2: bad argument #1 to 'open' \(string expected, got table\)"),
])
def test_a_mistake_in_such_a_call_is_still_told_at_its_line(moongate, deed, message):
    gate = moongate(f'gate.route {{ "/", handler = function() {deed} end }}')
    gate.expect_error("bad argument")

    assert gate.get("/").status == 500

    gate.wait_log(message)


def test_files_are_read_as_ever(moongate, tmp_path):
    (tmp_path / "data").write_text("one\n2\nthree\n")
    gate = moongate(f"""gate.route {{ "/", handler = function()
        local f = io.open "{tmp_path}/data"
        local line, number, rest = f:read("*l", "*n", "*a")
        f:seek "set"
        local lines = {{}}
        for l in f:lines() do lines[#lines + 1] = l end
        f:close()
        local none, why, code = io.open "{tmp_path}/none"
        return 200, {{ line, number, rest, lines, none == nil, why, code, io.type(f), tostring(f) }}
    end }}""")

    assert gate.get("/").status == 200
    got = json.loads(gate.get("/").body)
    assert got == ["one", 2, "\nthree\n", ["one", "2", "three"], True, f"{tmp_path}/none: No such file or directory", 2,
                   "closed file", "file (closed)"]


@pytest.mark.parametrize("deed", ["os.exit(0)", "os.exit()", "pcall(os.exit, 1) os.exit(1)",
                                  "coroutine.wrap(function() os.exit(3) end)()"])
def test_os_exit_ends_its_exchange_and_not_the_worker(moongate, deed):
    gate = moongate(f'gate.route {{ "/", handler = function() {deed} end }}\n'
                    'gate.route { "/good", handler = function() return 200 end }')
    gate.expect_error("os.exit would end the worker")
    pids = gate.worker_pids()

    assert gate.get("/").status == 500

    gate.wait_log("gateway.lua:2: os.exit would end the worker .* `moongate stop`")
    assert gate.get("/good").status == 200
    assert gate.worker_pids() == pids


def test_os_exit_at_the_top_level_refuses_the_script(tmp_path):
    (tmp_path / "gateway.lua").write_text('local gate = require "moongate"\nos.exit(0)\n')

    done = run("check", "gateway.lua", cwd=tmp_path)

    assert done.returncode == 1
    assert "gateway.lua:2: os.exit would end the worker" in done.stderr


def test_the_locale_of_the_process_can_be_asked_for_and_not_changed(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        local ok, why = pcall(os.setlocale, "de_DE.UTF-8")
        return 200, { os.setlocale(), ok, why, tostring(1.5) }
    end }""")

    locale, ok, why, number = json.loads(gate.get("/").body)

    assert (locale, ok, number) == ("C", False, "1.5")
    assert "os.setlocale would change" in why

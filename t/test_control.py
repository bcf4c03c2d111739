"""What an operator asks of a running gateway: how much it logs, and what a reload would do."""
import json
import os
import signal
import socket
import subprocess

import pytest

from moongate import BINARY, free_port, run, wait_until

DEBUG = 'gate.route { "/*", handler = function(req) gate.log.debug("seen " .. req.path) return 200, "ok" end }'


def says(word):
    return f'gate.route {{ "/*", handler = function() return 200, "{word}" end }}'


def edit(gate, script):
    head, other = gate.script.read_text().split("\n", 1)[0], gate.script.with_suffix(".new")
    other.write_text(head + "\n" + script)
    other.replace(gate.script)


def level(gate, *words):
    done = run("log-level", *words, "--control", gate.control_path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- How much the log says.

def test_a_level_is_in_force_in_every_worker_at_once(moongate):
    gate = moongate(DEBUG, workers=2)
    gate.get("/before")

    assert level(gate, "debug") == "debug, as it was told"

    def both_have_said():
        gate.get("/after")
        return {line.split("[")[1].split("]")[0] for line in gate.lines if "seen /after" in line} == {"worker 0", "worker 1"}
    wait_until(both_have_said)
    assert "seen /before" not in gate.log()


def test_the_level_is_told_and_who_has_set_it(moongate):
    gate = moongate(DEBUG, set='log_level = "warn"')

    assert level(gate) == "info, as --log says"
    assert gate.command("log-level", level="error") == {"level": "error", "by": "command", "summary": "error, as it was told"}
    assert level(gate) == "error, as it was told"
    assert level(gate, "default") == "info, as --log says"


def test_without_an_option_the_level_is_what_the_script_in_force_says(tmp_path):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate" gate.listen "127.0.0.1:{free_port()}" gate.set {{ log_level = "warn" }} ' + DEBUG)
    control = tmp_path / "control.sock"
    gate = subprocess.Popen([BINARY, script, "--workers", "1", "--control", control])
    try:
        wait_until(control.exists)
        wait_until(lambda: run("log-level", "--control", control).stdout == "warn, as the script says\n")
        script.write_text(script.read_text().replace("warn", "error"))
        assert run("reload", "--control", control).returncode == 0
        assert run("log-level", "--control", control).stdout == "error, as the script says\n"
    finally:
        gate.terminate()
        assert gate.wait(10) == 0


def test_a_told_level_outlives_a_worker_and_a_reload(moongate):
    gate = moongate(DEBUG, set='log_level = "info"', level=None)
    level(gate, "debug")
    pid, = gate.worker_pids()

    os.kill(pid, signal.SIGKILL)
    gate.wait_log("a new one takes its place")
    wait_until(lambda: gate.worker_pids() not in ([], [pid]))
    gate.get("/of-the-new-worker")
    gate.wait_log("seen /of-the-new-worker")
    gate.command("reload")
    gate.get("/after-the-reload")

    gate.wait_log("seen /after-the-reload")
    assert level(gate) == "debug, as it was told"
    assert level(gate, "default") == "info, as the script says"
    gate.get("/unseen")
    assert "seen /unseen" not in gate.log()


def test_a_level_that_is_none_changes_nothing(moongate):
    gate = moongate(DEBUG)

    done = run("log-level", "loud", "--control", gate.control_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert "debug, info, warn, error, none, or default is needed" in done.stderr
    assert level(gate) == "info, as --log says"


def test_a_word_too_many_is_a_mistake_of_the_command_line():
    done = run("log-level", "info", "please", "--control", "nowhere")

    assert done.returncode == 2
    assert "one word too many: please" in done.stderr


# ---- What a reload would do.

def test_check_tells_what_would_change_and_changes_nothing(moongate):
    gate = moongate(says("old"), workers=2)
    port = free_port()
    edit(gate, f'gate.listen "127.0.0.1:{port}"\n{says("new")}\ngate.route {{ "/more", handler = function() return 200 end }}')

    done = run("check", "--control", gate.control_path)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("generation 2 would be ready in 2 workers after ")
    assert f"listeners added: 127.0.0.1:{port}" in lines
    assert "routes added: /more" in lines
    assert gate.get("/").body == b"old"
    assert gate.status()["generation"] == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_reload_after_a_check_does_what_was_told(moongate):
    gate = moongate(says("old"))
    edit(gate, says("new") + '\ngate.route { "/more", handler = function() return 200, "more" end }')

    told, done = gate.command("check"), gate.command("reload")

    assert told["changes"] == done["changes"] != {}
    assert (told["generation"], done["generation"]) == (2, 2)
    assert gate.get("/more").body == b"more"


def test_check_prints_the_traceback_of_a_bad_script_which_is_no_error_of_the_gateways(moongate):
    gate = moongate(says("old"))
    edit(gate, 'local function deep() error("broken") end\ndeep()')

    done = run("check", "--control", gate.control_path)

    assert done.returncode == 1
    assert "gateway.lua:2: broken" in done.stderr
    assert gate.get("/").body == b"old"
    gate.wait_log("check: a reload would fail")


def test_check_runs_the_init_hooks_of_every_worker(moongate, tmp_path):
    gate = moongate(says("old"), workers=2)
    edit(gate, f'gate.use {{ init = function() local file = io.open("{tmp_path}/ran", "a") file:write("x") file:close() end }}\n{says("new")}')

    assert "error" not in gate.command("check")
    assert (tmp_path / "ran").read_text() == "xx"
    edit(gate, f'gate.use {{ init = function() error("no store") end }}\n{says("new")}')
    assert "no store" in gate.command("check")["error"]


def test_check_tells_that_an_address_is_in_use(moongate):
    gate = moongate(says("old"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        edit(gate, f'gate.listen "127.0.0.1:{taken.getsockname()[1]}"\n{says("new")}')

        answer = gate.command("check")

    assert "in use" in answer["error"]
    assert gate.get("/").body == b"old"


def test_a_check_with_json_is_one_line(moongate):
    gate = moongate(says("old"))

    done = run("check", "--json", "--control", gate.control_path)

    assert json.loads(done.stdout)["generation"] == 2
    assert run("check", "--json", gate.script).returncode == 0, "with a file nobody is asked"


def test_a_hangup_during_a_check_is_followed(moongate):
    slow = "gate.use { init = function() gate.sleep(0.3) end }\n"
    gate = moongate(slow + says("old"))
    edit(gate, slow + says("new"))

    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(gate.control_path))
        sock.sendall(b'{"command":"check"}\n')
        wait_until(lambda: "a check is under way" in gate.command("reload").get("error", ""))
        gate.signal(signal.SIGHUP)
        assert b"would be ready" in sock.recv(65536)

    gate.wait_log("generation 2 is in force")
    assert gate.get("/").body == b"new"

"""Processes at their edges: files in the way, ends of groups, edited scripts, questions at a bad moment."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from moongate import BINARY, free_port, run, wait_until

HANDLER = 'gate.route { "/*", handler = function(req) return 200, "ok" end }'
SLOW_INIT = f"gate.use {{ init = function() gate.sleep(1) end }} {HANDLER}"


def script(tmp_path, text, where=None):
    path = tmp_path / "gateway.lua"
    path.write_text(f'local gate = require "moongate"\ngate.listen "{where or f"127.0.0.1:{free_port()}"}"\n{text}\n')
    return path


def ask(gate, said, half_close=False):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(gate.control_path))
        sock.sendall(said)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while answer.count(b"\n") < said.count(b"\n") and (piece := sock.recv(65536)):
            answer += piece
        return answer.splitlines()


# ---- Nobody's file is taken away.

def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")

    told = run(script(tmp_path, HANDLER, f"unix:{precious}"), "--workers", 1)

    assert told.returncode == 1
    assert "precious" in told.stderr
    assert precious.read_text() == "mine"


def test_a_file_in_the_place_of_the_control_socket_is_left_alone(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")

    told = run(script(tmp_path, HANDLER), "--workers", 1, "--control", precious)

    assert told.returncode == 1
    assert precious.read_text() == "mine"


# ---- While it is loading.

def started(path, tmp_path):
    control = tmp_path / "control.sock"
    process = subprocess.Popen([BINARY, path, "--workers", "1", "--control", control], stderr=subprocess.PIPE, text=True)
    wait_until(control.exists)
    return process, control


def test_status_is_answered_while_an_init_hook_waits(tmp_path):
    process, control = started(script(tmp_path, SLOW_INIT), tmp_path)

    time.sleep(0.3)                     # the worker loads the script before it listens to anybody
    told = run("status", "--json", "--control", control)
    process.terminate()

    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["workers"][0]["fibers"] == 1
    assert process.wait(5) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
def test_an_end_while_an_init_hook_waits_is_a_quiet_one(tmp_path, number):
    process, _ = started(script(tmp_path, SLOW_INIT), tmp_path)

    time.sleep(0.3)
    process.send_signal(number)

    assert process.wait(5) == 0
    assert process.stderr.read() == ""


# ---- Ends.

def test_term_to_the_whole_group_ends_quietly_and_keeps_the_log(moongate):
    gate = moongate(HANDLER, workers=2, set="log_flush = 60")
    for _ in range(4):
        gate.get("/")

    os.killpg(gate.process.pid, signal.SIGTERM)

    assert gate.wait_exit() == 0
    assert len(gate.access_log(4)) == 4
    assert "died" not in gate.log()


def test_a_second_term_is_no_harm(moongate):
    gate = moongate(HANDLER, workers=2)

    gate.signal(signal.SIGTERM)
    gate.signal(signal.SIGTERM)

    assert gate.wait_exit() == 0


def test_a_worker_that_hangs_does_not_stop_a_drain_from_ending(moongate):
    gate = moongate(HANDLER, set="drain_timeout = 0.2")
    os.kill(gate.worker_pids()[0], signal.SIGSTOP)

    gate.signal(signal.SIGQUIT)

    assert gate.wait_exit(10) == 0


def test_a_bad_script_is_told_of_in_one_sentence(tmp_path):
    told = run(script(tmp_path, "local = 1"), "--workers", 2)

    assert told.returncode == 1
    assert len(told.stderr.splitlines()) == 1


# ---- A script that was edited since the start.

def test_a_new_worker_serves_the_sockets_it_knows_though_the_script_listens_elsewhere_first(moongate):
    gate = moongate(HANDLER)
    gate.expect_error("worker")
    text = gate.script.read_text()
    gate.script.write_text(text.replace("gate.listen {", f'gate.listen "127.0.0.1:{free_port()}" gate.listen {{', 1)
                           .replace('"ok"', '"new"'))
    old = gate.worker_pids()[0]

    os.kill(old, signal.SIGKILL)
    wait_until(lambda: gate.worker_pids() not in ([], [old]))

    assert wait_until(lambda: gate.get("/").body) == b"new"
    assert gate.wait_log("has been edited")


def test_a_script_that_was_broken_meanwhile_costs_one_worker_only(moongate):
    gate = moongate(HANDLER, workers=2)
    gate.expect_error("worker")
    gate.script.write_text("nonsense nonsense")

    os.kill(gate.worker_pids()[0], signal.SIGKILL)
    gate.wait_log("can't load the script")

    assert [gate.get("/").body for _ in range(4)] == [b"ok"] * 4


# ---- The control socket.

def test_an_asker_that_has_said_all_still_gets_its_answer(moongate):
    gate = moongate(HANDLER)

    answer, = ask(gate, b'{"command":"status"}\n', half_close=True)

    assert len(json.loads(answer)["workers"]) == 1


def test_questions_in_one_piece_are_answered_one_by_one(moongate):
    gate = moongate(HANDLER)

    answers = ask(gate, b'{"command":"status"}\nnonsense\n{"command":"status"}\n')

    assert ["workers" in json.loads(each) for each in answers] == [True, False, True]


def test_many_askers_at_once_all_get_an_answer(moongate):
    gate = moongate(HANDLER, workers=2)
    answers = []
    threads = [threading.Thread(target=lambda: answers.extend(ask(gate, b'{"command":"status"}\n'))) for _ in range(10)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)

    assert len(answers) == 10
    assert any("workers" in json.loads(each) for each in answers)


# ---- The command line.

@pytest.mark.parametrize("given, meant", [("--workes", "--workers"), ("--wrokers=3", "--workers"), ("--contol", "--control"),
                                          ("--error_log", "--error-log"), ("--sared", "--shared")])
def test_a_misspelt_option_is_answered_with_the_nearest(given, meant):
    told = run(given, "gateway.lua")

    assert told.returncode == 2
    assert f"did you mean {meant}?" in told.stderr


@pytest.mark.parametrize("given", ["--zzz", "-q"])
def test_an_option_that_is_like_none_is_not_guessed_at(given):
    told = run(given)

    assert told.returncode == 2
    assert "did you mean" not in told.stderr


# ---- The access log.

def test_a_log_field_named_twice_is_a_mistake_of_the_script(tmp_path):
    told = run("check", script(tmp_path, f'gate.set {{ log_fields = {{ "path", "status", "path" }} }} {HANDLER}'))

    assert told.returncode == 1
    assert "twice" in told.stderr


def test_a_named_pipe_that_nobody_reads_stops_no_start(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    told = run(script(tmp_path, f'gate.set {{ access_log = "{pipe}" }} {HANDLER}'), "--workers", 1)

    assert told.returncode == 1
    assert "pipe" in told.stderr


def test_long_lines_of_two_workers_do_not_mix_in_a_pipe(moongate):
    gate = moongate(HANDLER, workers=2, set='access_log = "stderr"')

    def storm():
        for _ in range(100):
            gate.get("/" + "p" * 1500)
    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    wait_until(lambda: gate.log().count('"status":200') == 400)

    for line in gate.log().splitlines():
        if line.startswith("{"):
            json.loads(line)


def test_running_out_of_descriptors_is_told_once_though_connections_come_and_go(moongate):
    gate = moongate(HANDLER, nofile=40)
    waiting = [socket.create_connection(gate.address, 5) for _ in range(70)]

    for _ in range(30):
        waiting.pop(0).close()
        waiting.append(socket.create_connection(gate.address, 5))
        time.sleep(0.02)
    for each in waiting:
        each.close()

    wait_until(lambda: gate.get("/").body == b"ok")
    assert len(gate.wait_log("out of file descriptors")) == 1

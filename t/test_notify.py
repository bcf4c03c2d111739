"""What the service manager is told: the datagrams of sd_notify(3)."""
import os
import signal
import socket
import time

import pytest

from moongate import become_reaper, wait_until

become_reaper()
HANDLER = 'gate.route { "/*", handler = function() return 200, "ok" end }'


@pytest.fixture
def manager(tmp_path):
    """A service manager's socket; messages(n) waits for so many and gives each as a dict."""
    class Manager:
        def __init__(self, name=None):
            self.name = name or str(tmp_path / "notify")
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.sock.bind("\0" + self.name[1:] if self.name.startswith("@") else self.name)
            self.sock.settimeout(10)
            self.environment = {"NOTIFY_SOCKET": self.name}

        def next(self):
            return dict(line.split("=", 1) for line in self.sock.recv(4096).decode().splitlines())

        def until(self, key):
            """The first message with this key, with all before it."""
            heard = [self.next()]
            while key not in heard[-1]:
                heard.append(self.next())
            return heard

    made = []

    def start(name=None):
        made.append(Manager(name))
        return made[-1]
    yield start
    for each in made:
        each.sock.close()


def test_ready_is_said_once_all_workers_serve(moongate, manager):
    told = manager()

    gate = moongate(HANDLER, workers=2, environment=told.environment)

    message = told.next()
    assert message["READY"] == "1" and "2 workers" in message["STATUS"]
    assert gate.get("/").body == b"ok"


def test_nothing_is_said_before_the_init_hooks_have_ended(moongate, manager, origin):
    told, began = manager(), time.monotonic()

    moongate("gate.use { init = function() gate.sleep(0.5) end }\n" + HANDLER, environment=told.environment)

    assert told.next()["READY"] == "1"
    assert time.monotonic() - began > 0.4


def test_an_abstract_name_is_a_socket_too(moongate, manager):
    told = manager(f"@moongate-test-{os.getpid()}")

    moongate(HANDLER, environment=told.environment)

    assert told.next()["READY"] == "1"


def test_a_reload_is_told_when_it_begins_and_when_it_has_ended(moongate, manager):
    told = manager()
    gate = moongate(HANDLER, environment=told.environment)
    told.until("READY")

    before = time.monotonic() * 1e6
    gate.command("reload")
    begun, ended = told.next(), told.next()

    assert begun["RELOADING"] == "1" and "READY" not in begun
    assert before <= int(begun["MONOTONIC_USEC"]) <= time.monotonic() * 1e6
    assert ended["READY"] == "1" and "Generation 2" in ended["STATUS"]


def test_a_reload_that_is_refused_ends_too(moongate, manager):
    told = manager()
    gate = moongate(HANDLER, environment=told.environment)
    gate.expect_error("nothing has changed")
    told.until("READY")

    gate.script.write_text("nonsense nonsense")
    gate.signal(signal.SIGHUP)

    assert told.next()["RELOADING"] == "1"
    ended = told.next()
    assert ended["READY"] == "1" and "Generation 1" in ended["STATUS"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_the_end_is_told_when_it_begins(moongate, manager, number):
    told = manager()
    gate = moongate(HANDLER, environment=told.environment)
    told.until("READY")

    gate.signal(number)

    assert told.next()["STOPPING"] == "1"
    assert gate.wait_exit() == 0


def test_the_watchdog_is_told_twice_in_its_time_while_the_loop_turns(moongate, manager):
    told = manager()
    gate = moongate(HANDLER, environment={**told.environment, "WATCHDOG_USEC": "400000"})

    began = time.monotonic()
    for _ in range(3):
        told.until("WATCHDOG")
    assert time.monotonic() - began < 3

    gate.signal(signal.SIGSTOP)
    told.sock.settimeout(0.7)
    with pytest.raises(TimeoutError):
        for _ in range(10):             # what was said before it was stopped may still lie there
            told.next()
    gate.signal(signal.SIGCONT)


def test_a_watchdog_that_is_meant_for_another_process_is_left_alone(moongate, manager):
    told = manager()

    moongate(HANDLER, environment={**told.environment, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"})

    told.until("READY")
    told.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        told.next()


def test_scripts_don_t_see_the_manager_s_variables(moongate, manager):
    told = manager()
    gate = moongate("""gate.route { "/*", handler = function()
        return 200, tostring(os.getenv "NOTIFY_SOCKET") .. tostring(os.getenv "WATCHDOG_USEC") end }""",
                    environment={**told.environment, "WATCHDOG_USEC": "60000000"})

    assert gate.get("/").body == b"nilnil"


def test_a_manager_that_does_not_read_holds_nobody_up(moongate, manager):
    told = manager()
    gate = moongate(HANDLER, environment={**told.environment, "WATCHDOG_USEC": "2000"})

    wait_until(lambda: gate.get("/").body == b"ok")
    for _ in range(5):
        assert len(gate.status()["workers"]) == 1


def test_an_upgrade_tells_who_serves_from_then_on(moongate, manager):
    told = manager()
    gate = moongate(HANDLER, environment={**told.environment, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"})
    told.until("READY")

    gate.upgrade()
    successor, ready = told.next(), told.next()
    gate.signal(signal.SIGTERM)

    assert successor["MAINPID"] == str(gate.process.pid) and "READY" not in successor
    assert ready["READY"] == "1"
    assert told.next()["STOPPING"] == "1", "and the old process has not said that it stops"
    assert gate.wait_exit() == 0

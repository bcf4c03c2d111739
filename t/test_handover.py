"""The place of a process is taken by another one: upgrades of the binary, and sockets that a service manager has bound."""
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest

from client import Client, request
from h2wire import Http2, get
from load import Load
from moongate import BINARY, become_reaper, free_port, run, wait_until
from test_reload import edit, says

become_reaper()


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def refused(gate):
    """Why an upgrade changes nothing."""
    gate.expect_error("nothing has changed")
    return gate.command("upgrade")["error"]


# ---- What an upgrade does.

def test_another_process_serves_and_the_old_one_ends(moongate):
    gate = moongate(says("ok"), workers=2)
    old, workers = gate.process, gate.worker_pids()

    answer = gate.upgrade()

    assert answer["pid"] != old.pid and gate.status()["pid"] == answer["pid"]
    assert old.wait(5) == 0
    assert not set(gate.worker_pids()) & set(workers) and not any(alive(pid) for pid in workers)
    assert {gate.get("/").body for _ in range(10)} == {b"ok"}


def test_the_command_prints_who_serves(moongate):
    gate = moongate(says("ok"))

    told = run("upgrade", "--control", gate.control_path)
    gate.follow(gate.status()["pid"])

    assert told.returncode == 0, told.stderr
    assert f"process {gate.process.pid} serves with version" in told.stdout


def test_usr2_upgrades(moongate):
    gate = moongate(says("ok"))
    old = gate.process

    gate.signal(signal.SIGUSR2)
    gate.wait_log("this one|finishes what it has in progress")
    gate.follow(wait_until(lambda: gate.status()["pid"]))

    assert old.wait(5) == 0
    assert gate.process.pid != old.pid and gate.get("/").body == b"ok"


def test_the_new_process_loads_the_script_as_it_is_by_then(moongate):
    gate = moongate(says("old"))
    port = free_port()
    edit(gate, f'gate.listen "127.0.0.1:{port}"\n' + says("new"))

    gate.upgrade()

    wait_until(lambda: gate.get("/").body == b"new")    # the old process accepts until it has heard of it
    gate.address = ("127.0.0.1", port)
    assert gate.get("/").body == b"new"


@pytest.fixture
def installed(tmp_path):
    """A binary in a folder of its own, which can be replaced."""
    path = tmp_path / "bin" / "moongate"
    path.parent.mkdir()
    os.link(BINARY, path) if os.stat(BINARY).st_dev == os.stat(tmp_path).st_dev else shutil.copy2(BINARY, path)

    def replace(text):
        other = path.with_name("other")
        other.write_text(text)
        other.chmod(0o755)
        other.replace(path)
        return path
    replace.path = path
    return replace


def started_by(path, called="$0", folder="."):
    """Words in front of the command, which put this binary in the place of the tests' own."""
    return ["/bin/sh", "-c", f'cd {folder}; shift; exec {called} "$@"', str(path)]


def test_the_binary_that_lies_at_the_path_by_then_is_executed_with_the_same_arguments(moongate, installed, tmp_path):
    gate = moongate(says("ok"), under=started_by(installed.path), arguments=["--shared", "64M"])
    installed(f'#!/bin/sh\necho "$PWD $0 $@" > {tmp_path}/called\nexec {BINARY} "$@"\n')

    gate.upgrade()

    folder, path, *arguments = (tmp_path / "called").read_text().split()
    assert (folder, path) == (str(tmp_path), str(installed.path))
    assert arguments[0] == str(gate.script) and arguments[-2:] == ["--shared", "64M"]
    assert gate.get("/").body == b"ok"


@pytest.mark.parametrize("called", ["bin/moongate", "PATH=$PWD/bin:$PATH moongate"])
def test_the_binary_is_found_again_however_it_was_called(moongate, installed, tmp_path, called):
    called = called if "=" not in called else "env " + called
    gate = moongate(says("ok"), under=started_by(installed.path, called))
    installed(f'#!/bin/sh\ntouch {tmp_path}/called\nexec {BINARY} "$@"\n')

    gate.upgrade()

    assert (tmp_path / "called").exists() and gate.get("/").body == b"ok"


def test_a_link_that_points_elsewhere_by_then_is_followed(moongate, installed, tmp_path):
    link, other = tmp_path / "current", tmp_path / "second"
    link.symlink_to("bin/moongate")
    gate = moongate(says("ok"), under=started_by(installed.path, "./current"))
    other.write_text(f'#!/bin/sh\ntouch {tmp_path}/called\nexec {BINARY} "$@"\n')
    other.chmod(0o755)
    link.unlink()
    link.symlink_to("second")

    gate.upgrade()

    assert (tmp_path / "called").exists() and gate.get("/").body == b"ok"


# ---- What an upgrade refuses.

def test_a_bad_script_changes_nothing_and_its_traceback_is_told(moongate):
    gate = moongate(says("old"), workers=2)
    before = gate.worker_pids()
    edit(gate, "local function broken() local x = nil + 1 end\nbroken()")
    gate.expect_error("nothing has changed")

    told = run("upgrade", "--control", gate.control_path)

    assert told.returncode == 1
    assert "gateway.lua:2: attempt to perform arithmetic on a nil value" in told.stderr
    assert "in function 'broken'" in told.stderr
    gate.wait_log("upgrade: nothing has changed: .*gateway.lua:2:")
    assert gate.worker_pids() == before and gate.get("/").body == b"old"


def test_an_address_in_use_changes_nothing(moongate):
    gate = moongate(says("old"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        edit(gate, f'gate.listen "127.0.0.1:{taken.getsockname()[1]}"\n' + says("new"))
        gate.expect_error("in use")

        why = refused(gate)

    assert f"127.0.0.1:{taken.getsockname()[1]}" in why if taken.fileno() >= 0 else "in use" in why
    assert gate.get("/").body == b"old"


@pytest.mark.parametrize("text, why", [
    ("#!/bin/sh\nexit 3\n", "the new process ended with status 3 before it served"),
    ("#!/bin/sh\nkill -9 $$\n", "the new process was killed by signal 9"),
    ("#!/nowhere/interpreter\n", "bin/moongate: No such file or directory"),
    ("\x7fnonsense", "bin/moongate: Exec format error"),
], ids=["ends", "is killed", "has no interpreter", "is no binary"])
def test_a_binary_that_does_not_serve_changes_nothing(moongate, installed, text, why):
    gate = moongate(says("ok"), under=started_by(installed.path))
    installed(text)

    assert why in refused(gate)

    assert gate.get("/").body == b"ok" and gate.status()["pid"] == gate.process.pid


def test_an_upgrade_works_after_one_that_was_refused(moongate):
    gate = moongate(says("old"))
    edit(gate, "nonsense nonsense")
    refused(gate)
    edit(gate, says("new"))

    gate.upgrade()

    wait_until(lambda: gate.get("/").body == b"new")


class HangingUpgrade:
    """An upgrade to a script whose init hook waits, until it is told to finish."""

    def __init__(self, gate, origin, script):
        self.gate, self.origin, self.answers = gate, origin, []
        server = origin.hangs()
        edit(gate, f'gate.use {{ init = function() gate.fetch "http://{server}/" end }}\n' + script)
        self.thread = threading.Thread(target=lambda: self.answers.append(gate.command("upgrade")))
        self.thread.start()
        server.wait_seen(1)

    def finish(self):
        self.origin.close()
        self.thread.join(10)
        self.gate.follow(self.answers[0]["pid"])


def test_one_upgrade_or_reload_at_a_time(moongate, origin):
    gate = moongate(says("old"))
    upgrade = HangingUpgrade(gate, origin, says("new"))

    assert "another upgrade is under way" in gate.command("upgrade")["error"]
    assert "an upgrade is under way" in gate.command("reload")["error"]
    assert gate.get("/").body == b"old"

    upgrade.finish()
    wait_until(lambda: gate.get("/").body == b"new")


def test_hup_during_an_upgrade_is_for_whoever_serves_then(moongate, origin):
    gate = moongate(says("old"))
    upgrade = HangingUpgrade(gate, origin, says("between"))

    edit(gate, says("last"))
    gate.signal(signal.SIGHUP)
    wait_until(lambda: gate.status()["generation"] == 1)      # it was heard: signals come before questions
    upgrade.finish()

    wait_until(lambda: gate.get("/").body == b"last")


def test_term_during_an_upgrade_ends_both(moongate, origin):
    server = origin.hangs()
    gate = moongate(says("old"))
    edit(gate, f'gate.use {{ init = function() gate.fetch "http://{server}/" end }}\n' + says("new"))
    gate.expect_error("told to stop")
    gate.signal(signal.SIGUSR2)
    server.wait_seen(1)

    gate.signal(signal.SIGTERM)

    assert gate.wait_exit() == 0
    wait_until(lambda: not subprocess.run(["pgrep", "-g", str(gate.group)], capture_output=True).stdout.split() or
               not any(alive(pid) for pid in subprocess.run(["pgrep", "-g", str(gate.group)], capture_output=True,
                                                            text=True).stdout.split()))


# ---- What lives through it.

def test_many_upgrades_under_load_fail_no_request_and_no_question(moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate(f"""gate.use {{ access = function(req) req.headers["x-seen"] = "1" end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""", workers=2)
    load = Load(gate, kinds=("kept", "new", "ask"), renews=True)

    for _ in range(10):
        gate.upgrade()

    counts = load.stop()
    assert load.connections > 1 and counts["new"] > 20, counts


def test_a_question_that_was_on_its_way_when_another_process_took_over_is_answered(moongate):
    gate = moongate(says("ok"))
    old, workers = gate.process, gate.worker_pids()
    with socket.socket(socket.AF_UNIX) as asker:
        asker.settimeout(5)
        asker.connect(str(gate.control_path))
        gate.status()                                   # so it has been accepted, too
        gate.upgrade()
        wait_until(lambda: not any(alive(pid) for pid in workers), what="the old process has no workers left")

        asker.sendall(b'{"command":"status"}\n')
        answer = json.loads(asker.makefile().readline())

    assert (answer["pid"], answer["workers"]) == (old.pid, [])
    assert old.wait(5) == 0


def test_shared_dictionaries_and_what_is_known_of_peers_outlive_an_upgrade(moongate, origin):
    server = origin.answers()
    gate = moongate(f"""local seen = gate.shared("seen", "64K")
        local app = gate.upstream("app", {{ peers = {{ "{server}" }} }})
        gate.route {{ "/origin", upstream = app }}
        gate.route {{ "/*", handler = function()
          return 200, seen:incr("n", 1, 0) .. " " .. (app.peers[1].latency > 0 and "known" or "unknown")
        end }}""", workers=2)
    gate.get("/origin")
    assert gate.get("/").body == b"1 known"

    gate.upgrade()
    assert gate.get("/").body == b"2 known"
    gate.upgrade()

    assert gate.get("/").body == b"3 known"


def test_what_both_processes_have_in_flight_is_counted_together_and_taken_off_when_one_is_killed(moongate, origin):
    server = origin.hangs()
    gate = moongate(f"""local app = gate.upstream("app", {{ peers = {{ "{server}" }} }})
        gate.route {{ "/active", handler = function() return 200, tostring(app.peers[1].active) end }}
        gate.route {{ "/*", upstream = app }}""")
    gate.expect_error("died")
    waiting, workers = gate.raw(), gate.worker_pids()
    waiting.send(request("GET", "/"))
    server.wait_seen(1)

    gate.upgrade()
    also = gate.raw()
    also.send(request("GET", "/"))
    server.wait_seen(2)
    assert gate.get("/active").body == b"2"
    in_the_new_one = gate.total("exchanges")        # the old one may have accepted both
    os.kill(workers[0], signal.SIGKILL)

    assert in_the_new_one < 2
    wait_until(lambda: int(gate.get("/active").body) == in_the_new_one)


def test_sessions_of_tls_are_resumed_after_an_upgrade(moongate, authority, site):
    gate = moongate(says("ok"), listen=f"tls = {{ {site.lua} }}")
    context = authority.client_context(version=ssl.TLSVersion.TLSv1_2)
    first = gate.raw(tls=context)
    assert first.get("/").body == b"ok"
    session = first.sock.session

    for _ in range(2):
        gate.upgrade()
        again = gate.raw(tls=context, session=session)
        assert again.get("/").body == b"ok" and again.sock.session_reused


def test_a_unix_socket_is_handed_over_with_its_file(moongate, tmp_path):
    kept, gone = tmp_path / "kept.sock", tmp_path / "gone.sock"
    gate = moongate(f'gate.listen "unix:{kept}"; gate.listen "unix:{gone}"\n' + says("old"))
    inode, old = kept.stat().st_ino, gate.process
    edit(gate, f'gate.listen "unix:{kept}"\n' + says("new"))

    gate.upgrade()

    gate.wait_log(f"does not listen on unix:{gone}")
    assert old.wait(5) == 0
    assert kept.stat().st_ino == inode and not gone.exists()
    gate.address = str(kept)
    assert gate.get("/").body == b"new"
    gate.signal(signal.SIGTERM)
    assert gate.wait_exit() == 0
    assert not kept.exists() and not gate.control_path.exists()


def test_a_refused_upgrade_leaves_the_files_of_unix_sockets(moongate, tmp_path):
    kept = tmp_path / "kept.sock"
    gate = moongate(f'gate.listen "unix:{kept}"\n' + says("old"))
    edit(gate, f'gate.listen "unix:{kept}"; gate.listen "unix:{tmp_path}/no/folder/x.sock"\n' + says("new"))
    gate.expect_error("x.sock")

    refused(gate)

    gate.address = str(kept)
    assert gate.get("/").body == b"old"
    assert len(gate.status()["workers"]) == 1


def test_the_error_log_and_watch_go_on(moongate, tmp_path):
    gate = moongate(says("old"), arguments=["--watch"], error_log="error.log")
    gate.upgrade()

    edit(gate, says("new"))

    wait_until(lambda: gate.get("/").body == b"new")
    wait_until(lambda: "generation 2 is in force" in gate.log(), what="the master tells of it")
    assert gate.log().count("ready: ") == 2


# ---- The old process ends what it has in progress.

def test_a_download_and_a_stream_of_http2_are_brought_to_their_end(moongate, origin):
    server = origin.holds(b"first half", shown=5)
    gate = moongate(f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}')
    old, client, h2 = gate.process, gate.raw(), Http2(gate.address).ready()
    client.send(request("GET", "/"))
    head, stream = client.final_head(), h2.request(get("/"))
    server.wait_seen(2)

    gate.upgrade()
    assert old.poll() is None
    server.go.set()

    assert client.body(head).body == b"first half"
    assert h2.response(stream).body == b"first half"
    h2.close()
    assert old.wait(5) == 0


def stuck_h1(gate, server):
    client = gate.raw()
    client.send(request("GET", "/"))
    return client


def stuck_h2(gate, server):
    client = Http2(gate.address).ready()
    client.request(get("/"))
    return client


def stuck_websocket(gate, server):
    client = gate.raw()
    client.send(request("GET", "/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
    return client


def stuck_tcp(gate, server):
    gate.address = ("127.0.0.1", gate.tcp_port)
    client = gate.raw()
    client.send(request("GET", "/"))
    return client


@pytest.mark.parametrize("end", ["quit", "drain", "upgrade"])
@pytest.mark.parametrize("stuck", [stuck_h1, stuck_h2, stuck_websocket, stuck_tcp])
def test_drain_timeout_ends_what_hangs_on(moongate, origin, stuck, end):
    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" if stuck is stuck_websocket else b"")
        connection.ended()
    server, port = origin.plays(play), free_port()
    gate = moongate(f"""local app = gate.upstream("app", {{ peers = {{ "{server}" }} }})
        gate.listen {{ "127.0.0.1:{port}", tcp = app }}
        gate.route {{ "/*", upstream = app }}""", set="drain_timeout = 0.5")
    gate.tcp_port, old = port, gate.process
    client = stuck(gate, server)
    server.wait_seen(1)
    gate.wait_total("exchanges", 1)

    began = time.monotonic()
    if end == "quit":
        gate.signal(signal.SIGQUIT)
    elif end == "drain":
        assert gate.command("drain") == {"ok": True}
    else:
        gate.upgrade()

    assert old.wait(8) == 0
    assert 0.4 < time.monotonic() - began < 3.4, "not by the master's kill, which comes three seconds later"
    gate.wait_log("drain_timeout is over: 1 connections are cut")
    client.close()
    gate.stopped = gate.stopped or end != "upgrade"


# ---- Sockets that a service manager has bound.

LAUNCHER = """
import os, socket, sys
addresses, command = sys.argv[1].split(","), sys.argv[2:]
made = []
for address in addresses:
    kind, _, where = address.partition("=")
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(where)
    else:
        sock = socket.socket(type=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", int(where)))
    if kind != "udp":
        sock.listen()
    made.append(os.dup2(sock.detach(), 100 + len(made)))
for n, fd in enumerate(made):
    os.dup2(fd, 3 + n, inheritable=True)
os.environ["LISTEN_FDS"] = str(len(made))
os.environ["LISTEN_FDNAMES"] = ":".join("name%d.socket" % n for n in range(len(made)))
os.environ["LISTEN_PID"] = os.environ.get("WRONG_PID") or str(os.getpid())
os.closerange(3 + len(made), 200)
os.execv(command[0], command)
"""


@pytest.fixture
def launcher(tmp_path):
    path = tmp_path / "launcher.py"
    path.write_text(LAUNCHER)
    return lambda *addresses: [sys.executable, str(path), ",".join(addresses)]


def activated(moongate, under, where, script, **options):
    gate = moongate("".join(f'gate.listen "{each}"\n' for each in where) + script, declare_listen=False, under=under,
                    **options)
    gate.address = where[0][5:] if where[0].startswith("unix:") else ("127.0.0.1", int(where[0].split(":")[1]))
    return gate


def test_a_socket_that_a_service_manager_has_bound_is_served(moongate, launcher, tmp_path):
    port, path = free_port(), tmp_path / "lent.sock"
    gate = activated(moongate, launcher(f"tcp={port}", f"unix={path}"), [f"127.0.0.1:{port}", f"unix:{path}"], says("ok"))

    assert {gate.get("/").body for _ in range(5)} == {b"ok"}
    gate.address = str(path)
    assert gate.get("/").body == b"ok"
    assert "descriptor" not in gate.log()

    gate.signal(signal.SIGTERM)
    assert gate.wait_exit() == 0
    assert path.exists(), "the file is the service manager's"


def test_it_is_handed_over_by_an_upgrade_and_its_file_stays_too(moongate, launcher, tmp_path):
    path = tmp_path / "lent.sock"
    gate = activated(moongate, launcher(f"unix={path}"), [f"unix:{path}"], says("ok"))

    gate.upgrade()
    gate.upgrade()

    assert gate.get("/").body == b"ok"
    gate.signal(signal.SIGTERM)
    assert gate.wait_exit() == 0
    assert path.exists()


def test_what_the_script_does_not_listen_on_is_closed_with_a_warning(moongate, launcher):
    ports = [free_port() for _ in range(3)]
    gate = activated(moongate, launcher(*(f"tcp={port}" for port in ports[:2]), f"udp={ports[2]}"),
                     [f"127.0.0.1:{ports[0]}"], says("ok"))

    gate.wait_log(f"the script does not listen on 127.0.0.1:{ports[1]}, so it is closed")
    gate.wait_log(r"\(name2.socket\) was inherited: it is no listening stream socket")
    assert gate.get("/").body == b"ok"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", ports[1]), 1)


def test_an_address_that_was_not_handed_over_is_bound(moongate, launcher):
    lent, own = free_port(), free_port()
    gate = activated(moongate, launcher(f"tcp={lent}"), [f"127.0.0.1:{lent}", f"127.0.0.1:{own}"], says("ok"))

    gate.address = ("127.0.0.1", own)
    assert gate.get("/").body == b"ok"


def test_descriptors_that_are_meant_for_another_process_are_not_taken(tmp_path, launcher):
    port, script = free_port(), tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.listen "127.0.0.1:{port}"\n' + says("ok"))

    told = subprocess.run([*launcher(f"tcp={port}"), BINARY, str(script), "--workers", "1"], timeout=20,
                          env={**os.environ, "WRONG_PID": "1"}, capture_output=True, text=True)

    assert told.returncode == 1 and "in use" in told.stderr


def test_scripts_don_t_see_the_convention_s_variables(moongate, launcher):
    port = free_port()
    gate = activated(moongate, launcher(f"tcp={port}"), [f"127.0.0.1:{port}"], """
        gate.route { "/*", handler = function()
          return 200, tostring(os.getenv "LISTEN_FDS" or os.getenv "LISTEN_PID" or os.getenv "LISTEN_FDNAMES") end }""")

    assert gate.get("/").body == b"nil"
    gate.upgrade()
    assert gate.get("/").body == b"nil"


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed")
def test_systemd_s_own_activation_starts_it_with_the_first_connection(tmp_path):
    port, script, control = free_port(), tmp_path / "gateway.lua", tmp_path / "control.sock"
    script.write_text(f'local gate = require "moongate"\ngate.set {{ access_log = "off" }}\n'
                      f'gate.listen "127.0.0.1:{port}"\n' + says("ok"))
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-E", "ASAN_OPTIONS", "-E",
                                    "LSAN_OPTIONS", BINARY, str(script), "--workers", "1", "--control", str(control)],
                                   stdout=log, stderr=log)
    try:
        wait_until(lambda: b"Listening" in (tmp_path / "log").read_bytes())
        client = Client(("127.0.0.1", port))

        assert client.get("/").body == b"ok"
        assert run("stop", "--control", control).returncode == 0
        assert process.wait(10) == 0
        client.close()
    finally:
        process.kill()
        process.wait()

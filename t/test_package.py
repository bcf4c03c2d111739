"""The Debian package: what is in it, and its life in a Debian that systemd has booted."""
import json
import os
import re
import socket
import subprocess

import pytest

import debian
import moongate

pytestmark = [
    pytest.mark.timeout(700),   # where the Debian is not at hand yet; some twenty seconds where it is
    pytest.mark.skipif(bool(os.environ.get("SANITIZE")), reason="what is packaged is the plain build"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and mounts"),
]

SCRIPT = """local gate = require "moongate"
gate.use(require "headers.request_id" {})
gate.listen ":80"
gate.listen "127.0.0.1:8080"
local function opens(path, mode)
  local file, why = io.open(path, mode)
  if file then file:close() end
  return file and "yes" or why:match("[^:]*$")
end
gate.route { "/", handler = function() return 200, "$WORD" end }
gate.route { "/may", handler = function()
  return 200, { usr = opens("/usr/written", "w"), script = opens("/etc/moongate/gateway.lua", "w"), home = opens("/home/letter"),
    tmp = opens("/tmp/written", "w"), init = opens("/proc/1/status"), own = opens("/etc/moongate/gateway.lua") }
end }
"""


@pytest.fixture(scope="module")
def deb(tmp_path_factory):
    return debian.package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def machine(deb, tmp_path):
    """machine(file, ...): a Debian that is up, with these files in /root."""
    made = []

    def boot(*files):
        made.append(debian.Machine(debian.base(deb), tmp_path / "machine", *files))
        return made[-1]

    with debian.alone_with_machines():
        yield boot
        for each in made:
            each.end()


def install(system, deb):
    return system.run("apt-get", "-qy", "--no-install-recommends", "install", f"/root/{deb.name}", timeout=120)


def of_another_version(deb, directory, version):
    """The same, as it would be if only its version had changed."""
    tree = directory / "tree"
    debian.call("dpkg-deb", "-R", deb, tree, timeout=30)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", f"Version: {version}", control.read_text(), flags=re.M))
    path = directory / f"moongate_{version}.deb"
    debian.call("dpkg-deb", "--root-owner-group", "-b", tree, path, timeout=30)
    return path


# ---- What is in it.

def test_lintian_finds_nothing(deb):
    done = subprocess.run(["lintian", "--allow-root", "--fail-on=error,warning", deb], capture_output=True, text=True, timeout=100)

    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_it_is_the_version_that_the_binary_tells(deb, tmp_path):
    debian.call("dpkg-deb", "-x", deb, tmp_path, timeout=30)

    told = debian.call(tmp_path / "usr/bin/moongate", "--version", timeout=10)

    assert told == f"moongate {debian.field(deb, 'Version')}\n"


def test_the_same_sources_make_the_same_package(deb, tmp_path):
    again = debian.package(tmp_path)

    assert again != deb and again.read_bytes() == deb.read_bytes()


def test_a_socket_of_systemds_is_served_by_the_packaged_binary(deb, tmp_path):
    debian.call("dpkg-deb", "-x", deb, tmp_path, timeout=30)
    port, script = moongate.free_port(), tmp_path / "gateway.lua"
    script.write_text(f"""local gate = require "moongate"
        gate.listen "127.0.0.1:{port}"
        gate.route {{ "/*", handler = function() return 200, "by systemd's socket" end }}""")
    process = subprocess.Popen(["systemd-socket-activate", "-l", f"127.0.0.1:{port}", tmp_path / "usr/bin/moongate", script,
                                "--workers", "1"], stderr=subprocess.PIPE, text=True)
    try:
        assert "Listening on" in process.stderr.readline()      # and only who connects starts it

        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = client.makefile("rb").read()

        assert answer.endswith(b"by systemd's socket")
    finally:
        process.terminate()
        log = process.communicate(timeout=15)[1]
    assert process.returncode == 0, log
    assert "was inherited" not in log, "it is used, not closed"


# ---- Its life.

def test_it_is_installed_serves_reloads_is_upgraded_and_removed_without_a_trace(deb, machine, tmp_path):
    newer = of_another_version(deb, tmp_path, debian.field(deb, "Version") + "+1")
    system = machine(deb, newer)
    system.write("/home/letter", "private")
    users = system.run("getent", "passwd")

    # Installed, it is enabled, runs, and has said so to systemd.
    install(system, deb)
    assert system.curl("http://127.0.0.1:8080/") == "moongate serves\n"
    assert system.run("systemctl", "is-enabled", "moongate.service") == "enabled\n"
    assert system.shows("moongate", "ActiveState") == "active"
    assert re.match(r"Generation 1 serves in \d+ workers", system.shows("moongate", "StatusText"))

    # Its user may bind low ports, and little else.
    pid = system.shows("moongate", "MainPID")
    status = dict(re.findall(r"^(\w+):\s+(\S+)", system.run("cat", f"/proc/{pid}/status"), re.M))
    assert status["Uid"] == system.run("id", "-u", "moongate").strip() != "0"
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (1 << 10, 1 << 10), "CAP_NET_BIND_SERVICE alone"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")

    # A reload is told when it has ended, and one that can't be changes nothing.
    system.write("/etc/moongate/gateway.lua", SCRIPT.replace("$WORD", "second"))
    system.run("systemctl", "reload", "moongate")
    answer = system.curl("http://127.0.0.1/", "-i")
    assert answer.endswith("second") and "x-request-id:" in answer.lower(), "a policy of the package"
    may = json.loads(system.curl("http://127.0.0.1/may"))
    assert may.pop("usr") == may.pop("script") == " Read-only file system"
    assert may.pop("home") != "yes" and may.pop("init") == " No such file or directory"
    assert may == {"tmp": "yes", "own": "yes"}
    assert system.try_to("test", "-e", "/tmp/written").returncode == 1, "/tmp is its own"
    system.write("/etc/moongate/gateway.lua", "gate.listen()")
    assert system.try_to("systemctl", "reload", "moongate").returncode != 0
    assert system.curl("http://127.0.0.1/") == "second"
    assert system.shows("moongate", "ActiveState") == "active"
    assert "gateway.lua:1:" in system.journal()
    system.write("/etc/moongate/gateway.lua", SCRIPT.replace("$WORD", "third"))

    # A newer package hands over to the new binary: no request fails, and systemd knows the new process.
    asker = system.ask_all_the_time(8080)
    install(system, newer)
    moongate.wait_until(lambda: system.try_to("test", "-e", f"/proc/{pid}").returncode == 1, 20, 0.1)
    asked, wrong = asker.finish()
    assert wrong == [] and asked > 20
    assert system.run("dpkg-query", "-W", "-f", "${Version}", "moongate").endswith("+1")
    assert system.curl("http://127.0.0.1/") == "third"
    successor = system.shows("moongate", "MainPID")
    assert successor not in (pid, "0") and system.shows("moongate", "NRestarts") == "0"
    assert re.match(r"Generation 1 serves in \d+ workers", system.shows("moongate", "StatusText"))
    system.run("systemctl", "reload", "moongate")
    assert system.shows("moongate", "StatusText").startswith("Generation 2 serves")

    # Killed, it is started again.
    system.run("sh", "-c", f"kill -9 {successor}")
    moongate.wait_until(lambda: system.shows("moongate", "NRestarts") == "1" and
                        system.shows("moongate", "ActiveState") == "active", 20, 0.1)
    assert system.curl("http://127.0.0.1/") == "third"

    # Stopped, it has ended well; removed, the user's script is left, and purged, nothing.
    system.run("systemctl", "stop", "moongate")
    assert (system.shows("moongate", "Result"), system.shows("moongate", "ExecMainStatus")) == ("success", "0")
    system.run("systemctl", "start", "moongate")
    system.run("apt-get", "-qy", "remove", "moongate")
    assert "third" in system.run("cat", "/etc/moongate/gateway.lua")
    assert system.try_to("systemctl", "is-active", "moongate.service").stdout == "inactive\n"
    system.run("apt-get", "-qy", "purge", "moongate")
    system.run("rm", "/root/moongate.deb", f"/root/{deb.name}", f"/root/{newer.name}")
    assert system.run("find", "/", "-xdev", "-name", "*moongate*") == ""
    assert system.run("getent", "passwd") == users
    assert system.try_to("sh", "-c", "grep -lx moongate /proc/[0-9]*/comm").stdout == ""


def test_systemd_may_hold_the_socket_and_a_restart_refuses_nobody(deb, machine):
    system = machine(deb)
    install(system, deb)
    system.run("systemctl", "disable", "--now", "moongate.service")

    system.run("systemctl", "enable", "--now", "moongate.socket")
    assert system.try_to("systemctl", "is-active", "moongate.service").stdout == "inactive\n"
    assert system.curl("http://127.0.0.1:8080/") == "moongate serves\n"
    assert system.shows("moongate.service", "ActiveState") == "active"
    system.run("systemctl", "reload", "moongate.service")

    first = system.shows("moongate.service", "MainPID")
    asker = system.ask_all_the_time(8080)
    system.run("systemctl", "restart", "moongate.service")
    asked, wrong = asker.finish()

    assert wrong == [] and asked > 10
    assert system.shows("moongate.service", "MainPID") not in (first, "0")
    assert system.curl("http://127.0.0.1:8080/") == "moongate serves\n"
    assert "was inherited" not in system.journal()
    system.run("apt-get", "-qy", "purge", "moongate")
    assert system.try_to("systemctl", "is-active", "moongate.socket").stdout == "inactive\n"

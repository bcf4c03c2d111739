"""moongate.py - runs the built proxy for one test, and asks at the end what it left open."""
import ctypes
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import client
import wire

ROOT = Path(__file__).resolve().parent.parent
BINARY = os.environ.get("MOONGATE_BINARY") or str(
    ROOT / "build" / ("sanitize/moongate" if os.environ.get("SANITIZE") else "moongate"))
READY = re.compile(r"ready: \d+ workers?")
SANITIZED = re.compile(r"ERROR: \w+Sanitizer|runtime error:|LeakSanitizer|Assertion `")
ERROR_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\S+Z error ")

# What must be 0 in every worker once all clients and origins have gone.
LEFT_OPEN = ("connections", "exchanges", "streams", "blocks", "arenas", "tickets", "tasks", "fibers", "requests",
             "sockets", "fetches", "coders", "dials", "lookups")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_until(fact, patience=wire.PATIENCE, every=0.02, what=None):
    """Waits for a fact that nobody announces; gives what fact() gave."""
    deadline = time.monotonic() + patience
    while not (value := fact()):
        assert time.monotonic() < deadline, f"did not come true in {patience} s: {what or fact}"
        time.sleep(every)
    return value


def run(*arguments, cwd=None, timeout=20):
    """The command, to its end: `moongate check FILE`, or a start that must fail."""
    return subprocess.run([BINARY, *map(str, arguments)], cwd=cwd, timeout=timeout, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)


class Successor:
    """A process that an upgrade has started, as subprocess.Popen shows one. Its parent goes, so become_reaper() first."""

    def __init__(self, pid, stderr):
        self.pid, self.stderr, self.returncode = pid, stderr, None

    def poll(self):
        """What it ended with is its parent's to know while that one lives: then a 0 says only that it has ended."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                if not os.path.exists(f"/proc/{self.pid}"):
                    self.returncode = 0
        return self.returncode

    def wait(self, timeout):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("moongate", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)


def become_reaper():
    """Orphans of what this process has started become its children (PR_SET_CHILD_SUBREAPER)."""
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0


class Moongate:
    """A running proxy.

    port, address      where it listens
    get(), request()   one exchange on a connection of its own
    raw()              a connection to speak on by hand (client.Client), closed at the end
    log(), access_log(), status(), worker_pids()
    """

    def __init__(self, directory, script, *, workers=1, listen="", set="", path=None, control=True, arguments=(),
                 nofile=None, level="info", declare_listen=True, environment=None, log_format=None, error_log=None, under=()):
        self.directory, self.clients, self.expected = Path(directory), [], []
        self.access_path, self.control_path = self.directory / "access.log", self.directory / "control.sock"
        self.lines, self.changed, self.stopped = [], threading.Condition(), False
        self.predecessors = []
        self.under = under              # words in front of the command: a tool that it runs under
        self.error_path = self.directory / error_log if error_log else None
        for _ in range(5):
            self.port = free_port()
            where = f"unix:{path}" if path else f"127.0.0.1:{self.port}"
            self.address = str(path) if path else ("127.0.0.1", self.port)
            # All of this is line 1 of the script: what a test passes begins at line 2.
            head = 'local gate = require "moongate"; '
            if "probation" not in set + script:     # most tests of reloads look at what is left at once
                set = ", ".join(filter(None, (set, "probation = 0")))
            set_all = (f'error_log = "{self.error_path}", ' if error_log else "") + set
            named_format = f'log_format = "{log_format}", ' if log_format else ""
            head += f'gate.set {{ access_log = "{self.access_path}", log_flush = 0.02, {named_format}{set_all} }}; '
            if declare_listen:
                head += f'gate.listen {{ "{where}", {listen} }}; '
            self.script = self.directory / "gateway.lua"
            self.script.write_text(head + "\n" + script.replace("$PORT", str(self.port)))
            if self._start(workers, control, arguments, nofile, level, environment):
                return
        raise AssertionError("no free port in five attempts")

    def _start(self, workers, control, arguments, nofile, level, environment):
        command = [*self.under, BINARY, str(self.script)]
        if level:
            command += ["--log", level]
        if workers:
            command += ["--workers", str(workers)]
        if control:
            command += ["--control", str(self.control_path)]
        limits = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))) if nofile else None
        self.process = subprocess.Popen(command + list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, cwd=self.directory, preexec_fn=limits,
                                        start_new_session=True, env={**os.environ, **(environment or {})})
        self.lines, self.ended, self.group = [], False, self.process.pid
        self.reader = threading.Thread(target=self._read_log, args=(self.process.stderr,), daemon=True)
        self.reader.start()
        if self._is_ready():
            # What the script's own declarations hold, and its timers, is not left open: it is there from the start.
            self.from_the_start = self.status()["workers"][0] if control else {}
            return True
        self.kill()
        if "in use" in self.log():
            return False
        raise AssertionError(f"moongate did not start (exit {self.process.returncode}):\n{self.log()}\n"
                             f"{self.script.read_text()}")

    def _is_ready(self):
        """The master says so in the error log, wherever that is."""
        if self.error_path:
            wait_until(lambda: self.process.poll() is not None or "ready: " in self.log())
            return "ready: " in self.log()
        with self.changed:
            self.changed.wait_for(lambda: self.ended or any(READY.search(line) for line in self.lines), 30)
            return any(READY.search(line) for line in self.lines)

    def _read_log(self, pipe):
        for line in pipe:
            with self.changed:
                self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    # ---- The client's side.

    def raw(self, **options):
        made = client.Client(self.address, **options)
        self.clients.append(made)
        return made

    def request(self, method="GET", target="/", *fields, body=None, version="1.1"):
        connection = self.raw()
        answer = connection.request(method, target, *fields, body=body, version=version)
        connection.close()
        return answer

    def get(self, target="/", *fields):
        return self.request("GET", target, *fields)

    def post(self, target="/", *fields, body=b""):
        return self.request("POST", target, *fields, body=body)

    # ---- What it says of itself.

    def log(self):
        with self.changed:
            lines = list(self.lines)
        if self.error_path and self.error_path.exists():
            lines += self.error_path.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines)

    def wait_log(self, text, count=1, patience=wire.PATIENCE):
        """Waits until so many lines of the error log hold the text (a regular expression)."""
        def found():
            return [line for line in self.lines if re.search(text, line)]
        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= count, patience), f"no {text!r} in the log:\n" + \
                "\n".join(self.lines)
            return found()

    def expect_error(self, text):
        """This error, and those like it (a regular expression), are what the test is about."""
        self.expected.append(text)

    def access_text(self, count):
        """The access log once it has so many lines."""
        def lines():
            if not self.access_path.exists():
                return []
            return self.access_path.read_bytes().splitlines()
        return wait_until(lambda: len(lines()) >= count and lines(), what=f"{count} lines in the access log")

    def access_log(self, count=1):
        """The access log's lines as objects, once there are so many."""
        return [json.loads(line) for line in self.access_text(count)]

    def command(self, name, **arguments):
        """One request to the control socket."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(wire.PATIENCE)
            sock.connect(str(self.control_path))
            sock.sendall(json.dumps({"command": name, **arguments}).encode() + b"\n")
            with sock.makefile("rb") as answer:
                return json.loads(answer.readline())

    def status(self):
        return self.command("status")

    def total(self, what):
        return sum(worker[what] for worker in self.status()["workers"])

    def worker_pids(self):
        return [worker["pid"] for worker in self.status()["workers"]]

    def wait_total(self, what, count):
        return wait_until(lambda: self.total(what) == count, what=f"{what} == {count}")

    def upgrade(self):
        """Another process takes the place of this one, which drains; the answer."""
        answer = self.command("upgrade")
        assert "error" not in answer, answer["error"]
        self.follow(answer["pid"])
        return answer

    def follow(self, pid):
        self.predecessors.append(self.process)
        self.process = Successor(pid, self.process.stderr)
        self.from_the_start = wait_until(lambda: self.status().get("workers"))[0]   # not while another asks

    # ---- Its end.

    def signal(self, number):
        self.process.send_signal(number)

    def wait_exit(self, patience=wire.PATIENCE):
        code = self.process.wait(patience)
        self.reader.join(wire.PATIENCE)
        self.stopped = True
        return code

    def kill(self):
        """Leaves nothing behind, whatever happened. The process leads a session of its own."""
        try:
            os.killpg(self.group, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(wire.PATIENCE)
        self.reader.join(wire.PATIENCE)
        self.process.stderr.close()
        self.stopped = True

    def left_open(self):
        open_now = {}
        for worker in self.status()["workers"]:
            for what in LEFT_OPEN:
                at_first = self.from_the_start.get(what, 0) if what in ("arenas", "tasks", "tickets", "fibers") else 0
                if worker[what] > at_first:
                    open_now[f"worker {worker['number']}: {what}"] = worker[what]
        return open_now

    def close_clients(self):
        for each in self.clients:
            each.close()

    def finish(self):
        """Everybody has left: is anything still open, does it end well, and what does the log say?"""
        problems = []
        for each in self.predecessors:
            code = each.wait(wire.PATIENCE)
            if code != 0:
                problems.append(f"exit status {code} of process {each.pid} after an upgrade")
        if not self.stopped:
            deadline = time.monotonic() + 3
            while (left := self.left_open()) and time.monotonic() < deadline:
                time.sleep(0.02)
            if left:
                problems.append(f"left open: {left}")
            self.signal(signal.SIGTERM)
            try:
                code = self.wait_exit()
                if code != 0:
                    problems.append(f"exit status {code} after TERM")
            except subprocess.TimeoutExpired:
                problems.append("does not end after TERM")
        self.kill()
        for line in self.log().splitlines():
            if SANITIZED.search(line):
                problems.append(self.log())
                break
            if ERROR_LINE.match(line) and not any(re.search(text, line) for text in self.expected):
                problems.append(f"unexpected in the log: {line}")
        assert not problems, "\n".join(problems)

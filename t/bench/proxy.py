"""proxy.py - a peer of the benchmark as a running process: its start, its end, and what it has used."""
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
IP = os.environ.get("BENCH_IP", "127.0.0.77")
BASE_PORT = int(os.environ.get("BENCH_PORT", "18000"))
ORIGIN, REDIS, ORIGIN_H2 = (IP, BASE_PORT + 900), (IP, BASE_PORT + 901), (IP, BASE_PORT + 902)
PROXY_CPU, LOAD_CPU = "0", "1"


def on_cpu(cpu, *command):
    return ["taskset", "-c", cpu, *map(str, command)]


def is_open(address):
    try:
        socket.create_connection(address, 1).close()
        return True
    except OSError:
        return False


def answers(address):
    """Does it answer 200? Then its workers run and its way to the origin is open."""
    try:
        with socket.create_connection(address, 1) as sock:
            sock.settimeout(1)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: bench.local\r\nX-Client: a\r\nConnection: close\r\n\r\n")
            return sock.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def wait_until(fact, process, what, patience=30):
    deadline = time.monotonic() + patience
    while not fact():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{what} did not start")
        time.sleep(0.01)


class Proxy:
    """The proxy that peers/NAME/run execs in the foreground."""

    def __init__(self, name, number, directory, wrap=(), **environment):
        self.name, self.port = name, BASE_PORT + number
        self.directory = Path(directory) / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "log"
        environment = {**os.environ, **environment, "IP": IP, "PORT": str(self.port), "RUN": str(self.directory),
                       "WORKERS": "1", "ORIGIN": "%s:%d" % ORIGIN, "ORIGIN_H2": "%s:%d" % ORIGIN_H2, "REDIS": "%s:%d" % REDIS}
        command = HERE / "peers" / name / "run"
        if not command.exists():
            raise SystemExit(f"no such peer: {name}")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(on_cpu(PROXY_CPU, *wrap, command), env=environment, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: answers((IP, self.port)), self.process, name)
        except SystemExit as problem:
            self.stop()
            raise SystemExit(f"{problem}:\n{self.log.read_text(errors='replace')[-2000:]}")

    def pids(self):
        """The process and its descendants."""
        children = {}
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                try:
                    parent = int((directory / "stat").read_text().rsplit(")", 1)[1].split()[1])
                except OSError:
                    continue
                children.setdefault(parent, []).append(int(directory.name))
        found, to_see = [], [self.process.pid]
        while to_see:
            found.append(to_see.pop())
            to_see += children.get(found[-1], [])
        return found

    def cpu_ns(self):
        """Time on a processor of all its threads, by the scheduler's own account: exact, where ticks are sampled."""
        total = 0
        for pid in self.pids():
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    total += int(thread.read_text().split()[0])
                except OSError:
                    pass                    # it has just ended
        return total

    def memory(self):
        """Bytes, pages shared with others in proportion."""
        total = 0
        for pid in self.pids():
            match = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            total += int(match.group(1)) * 1024
        return total

    def stop(self):
        """Politely, so that a tool around it can write its report; then for good."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Helper:
    """The origin, or Redis: what stands behind the proxies."""

    def __init__(self, address, *command):
        if is_open(address):
            raise SystemExit("%s:%d is in use: set BENCH_PORT" % address)
        self.process = subprocess.Popen(on_cpu(LOAD_CPU, *command), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: is_open(address), self.process, command[0])

    def stop(self):
        self.process.terminate()
        self.process.wait()

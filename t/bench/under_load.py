"""under_load.py - the load beside which reloads, upgrades and deaths of workers are measured."""
import socket
import subprocess
import threading

import proxy
from proxy import IP, LOAD_CPU, on_cpu

BUILD = proxy.HERE.parent.parent / "build" / "bench"


class NewConnections(threading.Thread):
    """One request on each connection, one after another."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.count, self.failures, self.over = port, 0, [], False

    def run(self):
        while not self.over:
            try:
                with socket.create_connection((IP, self.port), 10) as sock:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: bench.local\r\nX-Client: a\r\nConnection: close\r\n\r\n")
                    answer = b"".join(iter(lambda: sock.recv(65536), b""))
                head, _, body = answer.partition(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200") or len(body) != 100:
                    self.failures.append(answer[:80])
            except OSError as problem:
                self.failures.append(problem)
            self.count += 1


def load(running, seconds, connections=64):
    """Kept connections that send what they can; each goes on with a new one when it is told that it was the last."""
    return subprocess.Popen(on_cpu(LOAD_CPU, BUILD / "load", IP, running.port, "-c", connections, "-d", seconds),
                            stdout=subprocess.PIPE, text=True)


def print_table(*heads):
    print("|", " | ".join(heads), "|")
    print("|" + "---|" * len(heads), flush=True)

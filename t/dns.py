"""dns.py - a name server of the test's own: a real dnsmasq, and one that lies."""
import os
import shutil
import socket
import subprocess
import threading

from moongate import free_port

DNSMASQ = shutil.which("dnsmasq", path=os.environ.get("PATH", "") + ":/usr/sbin")


class Dns:
    """A dnsmasq; what it answers holds for `ttl` seconds."""

    def __init__(self, directory):
        self.process = None
        self.port = free_port()
        self.directory = directory
        self.asked = []         # lines of its log

    def answer(self, *addresses, name="app.test"):
        self.serve(*(f"--host-record={name},{address},1" for address in addresses))

    def serve(self, *options, ttl=1):
        """Starts it anew with these options."""
        self.stop()
        self.process = subprocess.Popen(
            [DNSMASQ, "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--bind-interfaces",
             "--listen-address=127.0.0.1", f"--port={self.port}", f"--local-ttl={ttl}", "--user=root", "--log-queries=extra",
             f"--pid-file={self.directory}/dnsmasq.pid", "--log-facility=-", "--local=/test/", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "started" in line:
                break
        else:
            raise AssertionError("dnsmasq did not start")
        threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True).start()

    def _read(self, pipe):
        self.asked.extend(pipe)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(5)
            self.process = None


class Liar:
    """A name server that gives each question to play(bytes), and sends what that returns; None: nothing."""

    def __init__(self, play, port=0):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.play, self.seen = play, threading.Semaphore(0)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            question, sender = self.socket.recvfrom(2048)
            if not question:
                return
            reply = self.play(question)
            if reply is not None:
                self.socket.sendto(reply, sender)
            self.seen.release()

    def close(self):
        if self.thread.is_alive():
            self.socket.sendto(b"", self.socket.getsockname())
            self.thread.join(5)
        self.socket.close()

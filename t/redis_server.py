"""redis_server.py - a redis-server of a test's own."""
import socket
import subprocess

from moongate import free_port


class RedisServer:
    """One on a free port of loopback, in this directory, with more options. It can be stopped, and started again."""

    def __init__(self, directory, *options, port=None):
        self.directory, self.options, self.port = directory, options, port or free_port()
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.directory, *self.options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert any("Ready to accept" in line for line in self.process.stdout)

    def command(self, *words):
        """A command's reply, as it comes, up to 64 KiB."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
            sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
            return sock.recv(65536)

    def hang_up(self):
        """All its clients, such as the connections that workers keep, are cut."""
        assert self.command("CLIENT", "KILL", "TYPE", "normal").startswith(b":")

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.returncode is None:
            self.stop()

    def __str__(self):
        return f"127.0.0.1:{self.port}"

"""Bodies larger than memory, and readers slower than writers: nothing is buffered unless asked."""
import os
import threading
import time

import pytest

from client import request
from moongate import wait_until

SANITIZE = bool(os.environ.get("SANITIZE"))
BIG = (256 << 20) if SANITIZE else (4 << 30)
ROOF = 64 << 20
PIECE = memoryview(bytearray(os.urandom(1 << 20)))


def peak(pid):
    """The most memory that a process has ever held resident, bytes."""
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def assert_small(gate):
    used = peak(gate.worker_pids()[0])
    assert SANITIZE or used < ROOF, f"{used >> 20} MiB"


def pour(sock, count):
    """Sends so many bytes."""
    while count:
        piece = PIECE[:min(count, len(PIECE))]
        sock.sendall(piece)
        count -= len(piece)


def drain(wire, count, rest=None):
    """Reads so many bytes; rest(n) is called for each read."""
    count -= len(wire.buffer)
    wire.buffer = b""
    space = bytearray(1 << 20)
    while count > 0:
        n = wire.sock.recv_into(space, min(count, len(space)))
        assert n, f"{count} bytes are missing"
        count -= n
        if rest:
            rest(n)
    return count == 0


def pours(origin, count):
    def script(connection):
        if connection.request():
            connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n")
            pour(connection.sock, count)
    return origin.plays(script)


def drains(origin, count):
    def script(connection):
        if connection.head():
            done = drain(connection, count)
            connection.answer(200, b"whole" if done else b"not whole")
    return origin.plays(script)


def test_a_download_of_4_gib_needs_little_memory(proxy, origin):
    gate = proxy(pours(origin, BIG))
    client = gate.raw()
    since = [0]

    def now_and_then_slow(n):
        since[0] += n
        if since[0] > 256 << 20:
            since[0] = 0
            time.sleep(0.05)

    client.send(request("GET", "/"))
    head = client.final_head()

    assert head["Content-Length"] == str(BIG)
    assert drain(client, BIG, now_and_then_slow)
    assert_small(gate)


def test_an_upload_of_4_gib_needs_little_memory(proxy, origin):
    gate = proxy(drains(origin, BIG))
    client = gate.raw()

    client.send(request("POST", "/", f"Content-Length: {BIG}"))
    pour(client.sock, BIG)

    assert client.response().body == b"whole"
    assert_small(gate)


def test_a_chunked_download_arrives_byte_for_byte(proxy, origin):
    body = os.urandom(3_000_001)

    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        at, size = 0, 1
        while at < len(body):
            piece = body[at:at + size]
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            at, size = at + size, size * 3 % 99991 + 1
        connection.send(b"0\r\n\r\n")

    assert proxy(origin.plays(script)).get("/").body == body


def test_a_chunked_upload_arrives_byte_for_byte(proxy, origin):
    body = os.urandom(3_000_001)
    server = origin.answers(lambda r: (200, r.body, ()))
    client = proxy(server).raw()
    answer = []
    reader = threading.Thread(target=lambda: answer.append(client.response()))

    client.send(request("POST", "/", "Transfer-Encoding: chunked"))
    reader.start()
    at, size = 0, 1
    while at < len(body):
        piece = body[at:at + size]
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        at, size = at + size, size * 3 % 99991 + 1
    client.send(b"0\r\n\r\n")
    reader.join(10)

    assert server.last.body == body
    assert answer[0].body == body


class Counter:
    def __init__(self):
        self.bytes = 0

    def still(self, seconds=0.4):
        """Waits until nothing has been added for so long."""
        last = [self.bytes, time.monotonic()]

        def unmoved():
            if self.bytes != last[0]:
                last[:] = [self.bytes, time.monotonic()]
            return self.bytes and time.monotonic() - last[1] > seconds
        wait_until(unmoved)
        return self.bytes


def test_an_origin_is_held_back_by_a_client_that_does_not_read(proxy, origin):
    total, sent = 200 << 20, Counter()

    def script(connection):
        connection.request()
        connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")
        while sent.bytes < total:
            sent.bytes += connection.sock.send(PIECE[:min(65536, total - sent.bytes)])
    gate = proxy(origin.plays(script))
    client = gate.raw(receive_buffer=65536)

    client.send(request("GET", "/"))
    client.final_head()
    held_at = sent.still()

    assert held_at < 40 << 20, f"{held_at >> 20} MiB were taken from the origin"
    assert_small(gate)
    assert drain(client, total)


def test_a_client_is_held_back_by_an_origin_that_does_not_read(proxy, origin):
    total, sent, go = 200 << 20, Counter(), threading.Event()

    def script(connection):
        connection.head()
        go.wait(20)
        drain(connection, total)
        connection.answer(200, b"whole")
    gate = proxy(origin.plays(script))
    client = gate.raw()
    client.send(request("POST", "/", f"Content-Length: {total}"))

    def work():
        while sent.bytes < total:
            sent.bytes += client.sock.send(PIECE[:min(65536, total - sent.bytes)])
    writer = threading.Thread(target=work, daemon=True)
    writer.start()
    held_at = sent.still()
    go.set()
    writer.join(20)

    assert held_at < 40 << 20, f"{held_at >> 20} MiB were taken from the client"
    assert client.response().body == b"whole"
    assert_small(gate)


def test_many_slow_readers_need_little_memory(proxy, origin):
    total = 20 << 20
    gate = proxy(pours(origin, total), upstream="keepalive = 0")
    clients = [gate.raw(receive_buffer=4096) for _ in range(20)]

    for client in clients:
        client.send(request("GET", "/"))
        client.final_head()
    wait_until(lambda: gate.total("exchanges") == 20)
    blocks = gate.total("blocks")

    assert_small(gate)
    assert blocks < 20 * 40
    for client in clients[:3]:
        assert drain(client, total)


@pytest.mark.parametrize("who", ["client", "origin"])
def test_both_directions_at_once_do_not_lock_each_other(proxy, origin, who):
    """An origin that answers while it reads: both bodies are larger than all buffers."""
    total = 60 << 20
    taken = threading.Event()

    def script(connection):
        connection.head()
        connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")
        pusher = threading.Thread(target=pour, args=(connection.sock, total))
        pusher.start()
        drain(connection, total)
        taken.set()
        pusher.join(20)
    gate = proxy(origin.plays(script))
    client = gate.raw()
    client.send(request("POST", "/", f"Content-Length: {total}"))
    writer = threading.Thread(target=pour, args=(client.sock, total), daemon=True)
    writer.start()
    if who == "client":
        time.sleep(0.3)                 # all buffers between the two fill up

    client.final_head()

    assert drain(client, total)
    writer.join(20)
    assert not writer.is_alive()
    assert taken.wait(20)

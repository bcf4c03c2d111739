"""Every limit and every timeout: its status, and what becomes of the connection."""
import os
import socket
import threading
import time

import pytest

from client import Client, chunked, request
from moongate import wait_until

HANDLER = 'gate.route { "/*", handler = function(req) return 200, "ok" end }'


def took(work):
    began = time.monotonic()
    work()
    return time.monotonic() - began


def ticks(pid):
    """CPU seconds that a process has used."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- Sizes.

def test_a_head_over_max_head_size_gets_431(moongate):
    gate = moongate(HANDLER, listen='max_head_size = "2K"')

    fits, over = gate.raw().get("/", "X-A: " + "a" * 1800), gate.raw().get("/", "X-A: " + "a" * 2100)

    assert (fits.status, over.status) == (200, 431)


def test_more_fields_than_max_fields_get_431(moongate):
    gate = moongate(HANDLER, listen="max_fields = 10")

    fits, over = gate.raw().get("/", *["X-A: a"] * 9), gate.raw().get("/", *["X-A: a"] * 10)

    assert (fits.status, over.status) == (200, 431)


def test_a_target_over_max_target_size_gets_414(moongate):
    gate = moongate(HANDLER, listen='max_target_size = "1K"')

    fits, over = gate.raw().get("/" + "a" * 1023), gate.raw().get("/" + "a" * 1024)

    assert (fits.status, over.status) == (200, 414)


def test_gate_set_bounds_all_listeners(moongate):
    gate = moongate(HANDLER, set='max_target_size = "1K"')

    assert gate.raw().get("/" + "a" * 2000).status == 414


def test_a_length_over_max_body_size_gets_413_at_once(proxy, origin):
    server = origin.echoes()
    client = proxy(server, listen='max_body_size = "1K"').raw()

    client.send(request("POST", "/", "Content-Length: 1025"))

    assert client.response().status == 413
    assert server.seen == 0


def test_a_body_of_max_body_size_passes(proxy, origin):
    server = origin.echoes()

    assert proxy(server, listen='max_body_size = "1K"').post("/", body=b"x" * 1024).body == b"x" * 1024


def test_a_chunked_body_over_max_body_size_gets_413(proxy, origin):
    server = origin.echoes()
    client = proxy(server, listen='max_body_size = "1K"').raw()

    client.send(request("POST", "/", "Transfer-Encoding: chunked"), chunked(b"x" * 1000, b"y" * 25))

    assert client.response().status == 413
    assert not any(r.whole for r in server.requests)


def test_a_route_may_have_its_own_max_body_size(moongate, origin):
    server = origin.echoes()
    gate = moongate(f"""local app = gate.upstream("app", {{ peers = {{ "{server}" }} }})
        gate.route {{ "/small/*", upstream = app, max_body_size = 10 }}
        gate.route {{ "/*", upstream = app }}""")

    assert gate.post("/small/", body=b"x" * 11).status == 413
    assert gate.post("/large/", body=b"x" * 11).body == b"x" * 11


def test_text_over_max_text_size_is_nil_and_a_reason(moongate):
    gate = moongate("""gate.route { "/*", handler = function(req)
        local text, reason = req:text()
        if not text then return 413, reason end
        return 200, text end }""", set="max_text_size = 100")

    fits, over = gate.post("/", body=b"x" * 100), gate.post("/", body=b"x" * 101)

    assert (fits.status, fits.body, over.status) == (200, b"x" * 100, 413)


def test_a_response_head_over_the_upstream_s_max_head_size_gets_502(proxy, origin):
    server = origin.answers(200, b"ok", ["X-A: " + "a" * 3000])

    assert proxy(server, upstream='max_head_size = "2K"').get("/").status == 502


def test_connections_over_max_connections_are_not_served(moongate):
    gate = moongate(HANDLER, listen="max_connections = 3")
    held = [gate.raw() for _ in range(3)]
    assert [c.get("/").status for c in held] == [200] * 3

    extra = gate.raw()
    extra.send(request("GET", "/"))
    try:
        refused = extra.ended(0.5)
        assert refused == b"" or refused.startswith(b"HTTP/1.1 503")
    except TimeoutError:
        pass                                    # it may wait for a place instead
    extra.close()
    held.pop().close()

    wait_until(lambda: served(gate))


def served(gate):
    try:
        return gate.get("/").status == 200
    except OSError:
        return False


def test_a_connection_closes_after_keepalive_requests(moongate):
    gate = moongate(HANDLER, listen="keepalive_requests = 3")
    client = gate.raw()

    answers = [client.get("/") for _ in range(3)]

    assert [a["Connection"] for a in answers] == [None, None, "close"]
    assert client.ended() == b""


# ---- Time.

def test_a_head_that_does_not_come_gets_408(moongate):
    client = moongate(HANDLER, listen="head_timeout = 0.3").raw()

    client.send(b"GET / HTTP/1.1\r\nHost: exa")
    answer = client.response()

    assert answer.status == 408
    assert client.ended() == b""


def test_a_head_that_drips_gets_408_too(moongate):
    client = moongate(HANDLER, listen="head_timeout = 0.5").raw()
    began = time.monotonic()

    client.send(b"GET / HTTP/1.1\r\nHost: example.test\r\nX-A: ")
    while client.silent(0.05) and time.monotonic() - began < 5:
        client.send(b"a")

    assert client.response().status == 408
    assert time.monotonic() - began < 2


def test_a_new_connection_that_says_nothing_is_closed(moongate):
    client = moongate(HANDLER, listen="head_timeout = 0.3, idle_timeout = 0.3").raw()

    said = client.ended(3)

    assert said == b"" or said.startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed_without_a_word(moongate):
    client = moongate(HANDLER, listen="idle_timeout = 0.3").raw()
    client.get("/")

    assert client.ended(3) == b""


def test_an_active_connection_outlives_its_idle_timeout(moongate):
    client = moongate(HANDLER, listen="idle_timeout = 0.4").raw()

    for _ in range(8):
        assert client.silent(0.1)
        assert client.get("/").status == 200


def test_a_request_body_that_stalls_gets_408(proxy, origin):
    server = origin.echoes()
    client = proxy(server, listen="body_timeout = 0.3").raw()

    client.send(request("POST", "/", "Content-Length: 10"), b"hello")
    answer = client.response()

    assert answer.status == 408
    assert client.ended() == b""
    assert not any(r.whole for r in server.requests)


def test_a_request_body_that_is_slow_but_moves_passes(proxy, origin):
    server = origin.echoes()
    client = proxy(server, listen="body_timeout = 0.4").raw()

    client.send(request("POST", "/", "Content-Length: 8"))
    for byte in b"complete":
        assert client.silent(0.1)
        client.send(bytes([byte]))

    assert client.response().body == b"complete"


def test_a_reader_that_does_not_read_is_cut_after_send_timeout(proxy, origin):
    gone = threading.Event()

    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                connection.send(b"x" * 65536)
        except OSError:
            gone.set()
    server = origin.plays(script)
    gate = proxy(server, listen="send_timeout = 0.5")
    client = gate.raw(receive_buffer=4096)

    client.send(request("GET", "/"))

    assert gone.wait(8)
    gate.wait_total("connections", 0)


def test_a_reader_that_reads_slowly_is_served(proxy, origin):
    server = origin.answers(200, b"x" * 4_000_000)
    client = proxy(server, listen="send_timeout = 1").raw(receive_buffer=4096)

    client.send(request("GET", "/"))
    head = client.final_head()
    got = 0
    while got < 4_000_000:
        got += len(client.exactly(min(200_000, 4_000_000 - got)))
        time.sleep(0.05)

    assert (head.status, got) == (200, 4_000_000)


def test_an_upstream_that_does_not_take_the_connection_gives_504(proxy, origin):
    gate = proxy(origin.blackhole(), upstream="connect_timeout = 0.3, retry = { attempts = 1 }")

    assert took(lambda: check(gate.get("/"), 504)) < 2


def check(answer, status):
    assert answer.status == status


def test_an_upstream_that_hangs_gives_504(proxy, origin):
    server = origin.hangs()
    gate = proxy(server, upstream="response_timeout = 0.3, retry = { attempts = 1 }")

    assert took(lambda: check(gate.get("/"), 504)) < 2
    assert server.seen == 1


def test_an_interim_answer_does_not_stop_the_response_timeout(proxy, origin):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 O")
        connection.ended()
    gate = proxy(origin.plays(script), upstream="response_timeout = 0.3, retry = { attempts = 1 }")

    assert took(lambda: check(gate.get("/"), 504)) < 3


def test_an_answer_that_stalls_is_cut_after_read_timeout(proxy, origin):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        connection.ended()
    client = proxy(origin.plays(script), upstream="read_timeout = 0.3").raw()

    client.send(request("GET", "/"))

    assert took(client.cut_response) < 3


def test_an_answer_that_is_slow_but_moves_outlives_read_timeout(proxy, origin):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for byte in b"complete":
            assert connection.silent(0.1)
            connection.send(bytes([byte]))
    gate = proxy(origin.plays(script), upstream="read_timeout = 0.4")

    assert gate.get("/").body == b"complete"


def test_an_upstream_s_timeout_bounds_a_whole_attempt(proxy, origin):
    def script(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while True:
                connection.send(b"x")
                time.sleep(0.05)
        except OSError:
            pass
    client = proxy(origin.plays(script), upstream="timeout = 0.5").raw()

    client.send(request("GET", "/"))

    assert took(client.cut_response) < 3


def test_an_upstream_s_timeout_before_the_head_gives_504(proxy, origin):
    gate = proxy(origin.hangs(), upstream="timeout = 0.3, retry = { attempts = 1 }")

    assert took(lambda: check(gate.get("/"), 504)) < 2


def test_an_origin_that_does_not_read_is_given_up_after_its_send_timeout(proxy, origin):
    go = threading.Event()

    def script(connection):
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.head()
        go.wait(8)
    server = origin.plays(script)
    gate = proxy(server, upstream="send_timeout = 0.5, retry = { attempts = 1 }")
    client = gate.raw()

    def pour():
        try:
            for _ in range(1500):
                client.send(b"x" * 65536)
        except OSError:
            pass                                    # it was cut

    client.send(request("POST", "/", "Content-Length: 100000000"))
    threading.Thread(target=pour, daemon=True).start()
    began = time.monotonic()
    try:
        assert client.response().status in (502, 504)
    except ConnectionResetError:
        pass
    go.set()

    assert time.monotonic() - began < 5


def test_timeouts_of_zero_are_never(moongate):
    client = moongate(HANDLER, listen="idle_timeout = 0, head_timeout = 0").raw()
    client.get("/")

    assert client.silent(0.5)
    assert client.get("/").status == 200


# ---- Waiting costs nothing.

def waits_for_an_origin(gate, origin, client):
    client.send(request("GET", "/hang"))


def waits_half_closed(gate, origin, client):
    client.send(request("GET", "/hang"))
    client.shutdown()


def waits_for_a_body(gate, origin, client):
    client.send(request("POST", "/hang", "Content-Length: 10"), b"half")


def waits_with_more_in_the_pipe(gate, origin, client):
    client.send(request("GET", "/hang") * 50)


def waits_for_a_reader(gate, origin, client):
    client.send(request("GET", "/big"))


def waits_for_a_reader_whose_origin_has_closed(gate, origin, client):
    client.send(request("GET", "/big-close"))


def waits_in_a_hook(gate, origin, client):
    client.send(request("GET", "/sleep"))
    client.shutdown()


def waits_in_a_tunnel_half_closed(gate, origin, client):
    client.send(request("GET", "/tunnel", "Connection: Upgrade", "Upgrade: x"))
    assert client.head().status == 101
    client.shutdown()


def waits_after_a_refusal(gate, origin, client):
    client.send(b"nonsense\r\n\r\n")
    client.response()


WAITS = [waits_for_an_origin, waits_half_closed, waits_for_a_body, waits_with_more_in_the_pipe, waits_for_a_reader,
         waits_for_a_reader_whose_origin_has_closed, waits_in_a_hook, waits_in_a_tunnel_half_closed,
         waits_after_a_refusal]


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_waiting_takes_no_cpu(moongate, origin, wait):
    go = threading.Event()

    def script(connection):
        asked = connection.head()
        if asked.target == "/tunnel":
            connection.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        elif asked.target.startswith("/big"):
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", b"x" * 3_000_000)
            if asked.target == "/big-close":
                return
        go.wait(8)
    server = origin.plays(script)
    gate = moongate(f"""gate.route {{ "/sleep", handler = function() gate.sleep(5) return 200 end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")
    pid = gate.worker_pids()[0]
    client = gate.raw(receive_buffer=4096)

    wait(gate, server, client)
    time.sleep(0.1)                     # what is to be done at first
    before = ticks(pid)
    time.sleep(0.5)
    used = ticks(pid) - before
    go.set()

    assert used <= 0.05, f"{used} s of CPU in half a second of waiting"


# ---- File descriptors.

def test_service_goes_on_when_descriptors_run_out(moongate):
    gate = moongate(HANDLER, nofile=64)
    pid = gate.worker_pids()[0]
    held = []
    for _ in range(100):
        held.append(Client(gate.address))
    gate.clients += held

    first = held[0].get("/")
    before = ticks(pid)
    assert held[0].silent(0.5)
    used = ticks(pid) - before
    assert first.status == 200
    assert used < 0.2, f"{used} s of CPU in half a second of waiting"

    for client in held:
        client.close()
    wait_until(lambda: served(gate))
    assert len(gate.wait_log(r"descriptors|[Tt]oo many open files|EMFILE")) <= 2


def test_an_upstream_without_descriptors_left_gives_an_answer(proxy, origin):
    server = origin.answers(200, b"ok")
    gate = proxy(server, nofile=40, upstream="keepalive = 0")
    held = [Client(gate.address) for _ in range(60)]
    gate.clients += held

    held[0].send(request("GET", "/"))
    status = held[0].response().status

    assert status in (200, 502, 503)
    for client in held:
        client.close()
    wait_until(lambda: served(gate))


@pytest.mark.parametrize("how", ["close", "reset"])
def test_many_connections_that_come_and_go_leave_nothing(moongate, how):
    gate = moongate(HANDLER)

    for i in range(300):
        client = Client(gate.address)
        if i % 2:
            client.send(b"GET / HTTP/1.1\r\nHo")
        getattr(client, how)()

    assert gate.get("/").status == 200

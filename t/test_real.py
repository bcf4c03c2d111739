"""Between real programs: nginx is the origin, curl and wrk are the clients."""
import gzip
import os
import random
import re
import signal
import socket
import subprocess
import threading

import pytest

from moongate import free_port, wait_until

SIZES = {"none": 0, "one": 1, "middle": 100_000, "large": 20_000_000}
PAGE = b"<p>the door in the wall, once more</p>\n" * 500

CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
events {{ worker_connections 512; }}
http {{
    access_log {home}/access.log;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    types {{ text/html html; }}
    default_type application/octet-stream;
    client_max_body_size 0;
    keepalive_requests 1000000;
    gzip on;
    gzip_proxied any;
    gzip_http_version 1.0;
    server {{
        listen 127.0.0.1:{port};
        root {home}/www;
        add_header X-Connection $connection always;
        add_header X-Pid $pid always;
        location /up/ {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


class Nginx:
    """An nginx on a port that stays its own when it is stopped and started again."""

    def __init__(self, home):
        self.home, self.port, self.process = home, free_port(), None
        self.root = home / "www"
        self.root.mkdir(parents=True)
        self.config = home / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        self.config.write_text(CONFIG.format(home=home, port=self.port, user=user))
        (self.root / "page.html").write_bytes(PAGE)

    def __str__(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            ["/usr/sbin/nginx", "-p", self.home, "-c", self.config, "-e", self.home / "error.log"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._accepts, what="nginx accepts")
        return self

    def _accepts(self):
        assert self.process.poll() is None, (self.home / "error.log").read_text()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        """At once, as TERM does; its worker ends with it."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)

    def restart(self):
        self.stop()
        self.start()

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def file(self, name, size):
        """A file of random bytes, the same in each run."""
        data = random.Random(size).randbytes(size)
        (self.root / name).write_bytes(data)
        return data


@pytest.fixture
def nginx(tmp_path):
    made = []

    def start():
        made.append(Nginx(tmp_path / f"nginx{len(made)}"))
        return made[-1].start()

    yield start
    for each in made:
        each.stop()


def curl(*arguments, stdin=None):
    """What curl wrote to its output; a failure of curl's is one of the test."""
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(["curl", "-q", "-sS", "--noproxy", "*", "--max-time", "20", *map(str, arguments)], timeout=30,
                          capture_output=True, **given)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def head_and_body(output):
    head, _, body = output.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), fields, body


def url(gate, path):
    return f"http://127.0.0.1:{gate.port}{path}"


# ---- Down: files, ranges, conditions, codings.

def test_files_of_all_sizes_arrive_to_the_byte_over_one_connection(proxy, nginx, tmp_path):
    server = nginx()
    files = {name: server.file(name, size) for name, size in SIZES.items()}
    gate = proxy(server)

    connects = curl("-w", "%{num_connects}\n", "--output-dir", tmp_path, "--remote-name-all",
                    *(url(gate, f"/{name}") for name in files))

    assert sum(map(int, connects.split())) == 1
    for name, data in files.items():
        assert (tmp_path / name).read_bytes() == data, name


def test_many_urls_take_one_connection_on_either_side(proxy, nginx):
    gate = proxy(nginx())

    told = curl("-o", "/dev/null", "-w", "%{num_connects} %{http_code} %header{x-connection}\n",
                url(gate, "/page.html?[1-50]")).decode().splitlines()

    connects, statuses, connections = zip(*(line.split() for line in told))
    assert statuses == ("200",) * 50
    assert sum(map(int, connects)) == 1
    assert len(set(connections)) == 1


@pytest.mark.parametrize("asked, start, end", [("0-0", 0, 1), ("1000-50999", 1000, 51000), ("99990-", 99990, 100000),
                                               ("-7", 99993, 100000)])
def test_a_range_passes(proxy, nginx, asked, start, end):
    server = nginx()
    data = server.file("middle", 100_000)

    status, fields, body = head_and_body(curl("-i", "-r", asked, url(proxy(server), "/middle")))

    assert (status, body) == (206, data[start:end])
    assert fields["content-range"] == f"bytes {start}-{end - 1}/100000"


def test_a_page_that_did_not_change_is_a_304(proxy, nginx):
    target = url(proxy(nginx()), "/page.html")
    tag = head_and_body(curl("-i", target))[1]["etag"]

    same, _, nothing = head_and_body(curl("-i", "-H", f"If-None-Match: {tag}", target))
    other, _, page = head_and_body(curl("-i", "-H", 'If-None-Match: "other"', target))

    assert (same, nothing) == (304, b"")
    assert (other, page) == (200, PAGE)


def test_head_tells_the_length_and_the_connection_serves_on(proxy, nginx):
    server = nginx()
    server.file("large", 20_000_000)
    target = url(proxy(server), "/large")

    told = curl("-I", "-w", "%{num_connects}\n", target, target)

    assert told.lower().count(b"content-length: 20000000\r\n") == 2
    assert re.findall(rb"^\d$", told, re.M) == [b"1", b"0"]


def test_what_nginx_compressed_passes_untouched(proxy, nginx):
    server = nginx()
    gate = proxy(server)

    def compressed(target):
        return head_and_body(curl("-i", "--raw", "-H", "Accept-Encoding: gzip", "--http1.0", target))

    straight, through = compressed(f"http://{server}/page.html"), compressed(url(gate, "/page.html"))

    assert through[1]["content-encoding"] == "gzip"
    assert through[2] == straight[2] and gzip.decompress(through[2]) == PAGE


def test_a_chunked_response_arrives_whole(proxy, nginx):
    gate = proxy(nginx())

    status, fields, body = head_and_body(curl("-i", "--compressed", url(gate, "/page.html")))

    assert (status, fields["transfer-encoding"], body) == (200, "chunked", PAGE)


def test_a_policy_that_takes_accept_encoding_away_gets_it_plain(proxy, nginx):
    gate = proxy(nginx(), route='policies = { { access = function(req) req.headers["accept-encoding"] = nil end } }')

    status, fields, body = head_and_body(curl("-i", "-H", "Accept-Encoding: gzip", url(gate, "/page.html")))

    assert (status, body) == (200, PAGE)
    assert "content-encoding" not in fields


def test_words_of_a_page_are_replaced(proxy, nginx):
    gate = proxy(nginx(), route='policies = { { response = function(_, res) res:replace("door", "moon gate") end } }')

    status, fields, body = head_and_body(curl("-i", url(gate, "/page.html")))

    assert (status, body) == (200, PAGE.replace(b"door", b"moon gate"))
    assert fields.get("content-length", str(len(body))) == str(len(body))


def test_a_client_of_http_1_0_gets_no_chunks(proxy, nginx):
    server = nginx()
    gate = proxy(server)

    plain = head_and_body(curl("-i", "--raw", "--http1.0", url(gate, "/page.html")))
    coded = head_and_body(curl("-i", "--raw", "--http1.0", "-H", "Accept-Encoding: gzip", url(gate, "/page.html")))

    assert (plain[0], plain[2]) == (200, PAGE)
    assert "transfer-encoding" not in coded[1]
    assert gzip.decompress(coded[2]) == PAGE


# ---- Up.

def test_a_chunked_upload_is_stored_to_the_byte(proxy, nginx):
    server = nginx()
    data = random.Random(1).randbytes(300_000)

    status, _, _ = head_and_body(curl("-i", "-T", "-", "-H", "Expect:", url(proxy(server), "/up/stored"), stdin=data))

    assert status == 201
    assert (server.root / "up" / "stored").read_bytes() == data


def test_an_upload_that_expects_100_is_told_to_go_on(proxy, nginx, tmp_path):
    server = nginx()
    data = random.Random(2).randbytes(5_000_000)
    (tmp_path / "data").write_bytes(data)

    # curl would go on without a 100, after a second; here it would wait for longer than it may last.
    told = curl("-i", "-T", tmp_path / "data", "-H", "Expect: 100-continue", "--expect100-timeout", "60",
                url(proxy(server), "/up/stored"))

    assert re.findall(rb"HTTP/1\.1 (\d+)", told) == [b"100", b"201"]
    assert (server.root / "up" / "stored").read_bytes() == data


def test_a_handler_reads_uploads_of_both_kinds(moongate, tmp_path):
    gate = moongate("""gate.route { "/*", handler = function(req)
        local n = 0
        for chunk in req:chunks() do n = n + #chunk end
        return 200, tostring(n)
    end }""")
    (tmp_path / "data").write_bytes(bytes(5_000_000))

    known = curl("-T", tmp_path / "data", "-H", "Expect: 100-continue", "--expect100-timeout", "60", url(gate, "/"))
    chunked = curl("-T", "-", "-H", "Expect:", url(gate, "/x"), stdin=bytes(300_000))

    assert (known, chunked) == (b"5000000", b"300000")


# ---- An origin that comes and goes.

def test_a_client_never_sees_that_nginx_was_restarted(proxy, nginx):
    server = nginx()
    client = proxy(server).raw()
    pids = set()

    for _ in range(4):
        for _ in range(3):
            reply = client.get("/page.html")
            assert (reply.status, reply.body) == (200, PAGE)
            pids.add(reply["X-Pid"])
        server.restart()

    assert len(pids) == 4


def load(gate, each, then=lambda done: None):
    """4 clients ask so many times each; then(done) is called after each answer to the first. Gives the statuses."""
    answers = []

    def ask(client, first):
        for done in range(1, each + 1):
            try:
                reply = client.get("/page.html")
                answers.append(reply.status if reply.body == PAGE else f"{reply.status} {len(reply.body)} bytes")
            except Exception as problem:        # told with the statuses: each answer counts
                answers.append(repr(problem))
                return
            if first:
                then(done)

    threads = [threading.Thread(target=ask, args=(gate.raw(), i == 0)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_no_request_fails_while_nginx_reloads_under_load(proxy, nginx):
    server = nginx()
    gate = proxy(server)

    answers = load(gate, 100, lambda done: done % 20 == 0 and server.reload())

    assert answers == [200] * 400


def test_no_request_fails_when_one_of_two_is_stopped_under_load(moongate, nginx):
    a, b = nginx(), nginx()
    gate = moongate(f"""gate.route {{ "/*", upstream = gate.upstream("app", {{ balance = "round_robin",
        peers = {{ "{a}", "{b}" }} }}) }}""")

    answers = load(gate, 50, lambda done: done == 10 and a.stop())

    assert answers == [200] * 200
    for server in a, b:
        assert "GET /page.html" in (server.home / "access.log").read_text(), "both had a share"


def test_without_nginx_it_is_a_502_and_then_200_again(proxy, nginx):
    server = nginx()
    client = proxy(server).raw()

    before = client.get("/page.html").status
    server.stop()
    without = client.get("/page.html").status
    server.start()
    wait_until(lambda: client.get("/page.html").status == 200, what="a 200 again")

    assert (before, without) == (200, 502)


# ---- A load, and other ways in.

def test_wrk_meets_no_error(proxy, nginx):
    gate = proxy(nginx())

    told = subprocess.run(["wrk", "-t", "1", "-c", "32", "-d", "1s", url(gate, "/page.html")], timeout=30,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout

    assert int(re.search(r"(\d+) requests in", told)[1]) > 100
    assert "Socket errors" not in told and "Non-2xx" not in told, told


def test_curl_comes_in_through_a_unix_socket(proxy, nginx, tmp_path):
    path = tmp_path / "front.sock"
    proxy(nginx(), path=path)

    assert curl("--unix-socket", path, "http://any.example/page.html") == PAGE


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_curl_comes_in_over_ipv6(proxy, nginx):
    gate = proxy(nginx(), before='gate.listen "[::1]:$PORT"')

    assert curl("-g", f"http://[::1]:{gate.port}/page.html") == PAGE

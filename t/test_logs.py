"""The access log and the error log: what stands in a line, and that nobody can forge one."""
import json
import re
import signal
import socket

import pytest

from client import request
from moongate import wait_until

HANDLER = 'gate.route { "/*", handler = function(req) return 200, "hello" end }'
ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
CLF_TIME = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


# ---- The access log.

def test_every_exchange_is_a_line_of_json(proxy, origin):
    server = origin.answers(201, b"12345")
    gate = proxy(server)

    gate.request("POST", "/a/b?c=d", "Host: example.test", body=b"123")
    line, = gate.access_log()

    assert re.fullmatch(ISO, line["time"])
    assert re.fullmatch("[0-9a-f]{16}", line["id"])
    assert (line["method"], line["host"], line["path"], line["status"]) == ("POST", "example.test", "/a/b", 201)
    assert line["query"] == "c=d"
    assert line["client"] == "127.0.0.1"
    assert (line["bytes_in"], line["bytes_out"]) == (3, 5)
    assert 0 <= line["duration"] < 5
    assert (line["upstream"], line["peer"], line["tries"]) == ("app", str(server), 1)


def test_lines_come_in_the_order_of_their_ends_one_each(moongate):
    gate = moongate(HANDLER)
    client = gate.raw()

    for i in range(50):
        client.get(f"/{i}")

    assert [line["path"] for line in gate.access_log(50)] == [f"/{i}" for i in range(50)]


def test_log_fields_choose_what_stands_in_a_line(moongate):
    gate = moongate(HANDLER, set='log_fields = { "status", "path" }')

    gate.get("/x")

    assert gate.access_log() == [{"status": 200, "path": "/x"}]


def test_an_unknown_log_field_is_a_mistake_of_the_script(moongate):
    with pytest.raises(AssertionError, match="log_fields.*statsu"):
        moongate(HANDLER, set='log_fields = { "statsu" }')


def test_the_common_format(moongate):
    gate = moongate(HANDLER, log_format="common")

    gate.get("/x?y=z")

    assert re.fullmatch(rf'127\.0\.0\.1 - - {CLF_TIME} "GET /x\?y=z HTTP/1\.1" 200 5', gate.access_text(1)[0].decode())


def test_the_combined_format(moongate):
    gate = moongate(HANDLER, log_format="combined")

    gate.get("/x", "Referer: http://a.test/", "User-Agent: test/1.0")
    gate.get("/y")

    first, second = (line.decode() for line in gate.access_text(2))
    assert re.fullmatch(rf'127\.0\.0\.1 - - {CLF_TIME} "GET /x HTTP/1\.1" 200 5 "http://a\.test/" "test/1\.0"', first)
    assert second.endswith('"GET /y HTTP/1.1" 200 5 "-" "-"')


HOSTILE = b'a"b\\c\xff\xc3\xa9\t{}'


def test_hostile_bytes_stay_inside_their_json_string(moongate):
    gate = moongate(HANDLER)
    client = gate.raw()

    client.send(b"GET /%00%0a%22%5c%ff?%0d=' HTTP/1.1\r\nHost: example.test\r\nUser-Agent: " + HOSTILE +
                b"\r\nReferer: " + HOSTILE + b"\r\n\r\n")
    client.response()
    raw = gate.access_text(1)

    assert len(raw) == 1
    line = json.loads(raw[0].decode("utf-8"))
    assert line["status"] == 200
    assert not re.search(rb"[\x00-\x1f\x7f]", raw[0])


@pytest.mark.parametrize("log_format", ["json", "combined"])
@pytest.mark.parametrize("byte", [b"a", b'"', b"\xff"])
def test_long_values_leave_the_line_whole(moongate, byte, log_format):
    gate = moongate(HANDLER, log_format=log_format)
    client = gate.raw()

    client.send(b"GET /" + b"p" * 3900 + b"?" + b"q" * 3900 + b" HTTP/1.1\r\nHost: " + b"h" * 250 + b"\r\nUser-Agent: " +
                byte * 8000 + b"\r\nReferer: " + byte * 8000 + b"\r\n\r\n")
    client.response()
    client.get("/after")
    first, second = gate.access_text(2)

    assert b"/after" in second
    assert first.startswith(b'127.0.0.1 - - [') and first.count(b'"') == 6 if log_format == "combined" else json.loads(first)


def test_hostile_bytes_stay_inside_their_quotes_in_the_combined_format(moongate):
    gate = moongate(HANDLER, log_format="combined")
    client = gate.raw()

    client.send(b"GET / HTTP/1.1\r\nHost: example.test\r\nUser-Agent: " + HOSTILE + b"\r\n\r\n")
    client.response()
    raw = gate.access_text(1)

    assert len(raw) == 1
    assert rb'\x22b\x5cc\xff\xc3\xa9\x09{}"' in raw[0] or rb'a\"b\\c\xff\xc3\xa9' in raw[0]
    assert re.fullmatch(rb"[\x20-\x7e]*", raw[0])


@pytest.mark.parametrize("sent, status", [(b"GET / HTTP/1.1\r\n\r\n", 400), (b"garbage\r\n\r\n", 400),
                                          (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414)])
def test_a_request_that_was_refused_is_logged_too(moongate, sent, status):
    gate = moongate(HANDLER)
    client = gate.raw()

    client.send(sent)
    client.response()

    assert [line["status"] for line in gate.access_log(1)] == [status]


def test_an_exchange_whose_client_left_is_logged(proxy, origin):
    server = origin.hangs()
    gate = proxy(server)
    client = gate.raw()

    client.send(request("GET", "/left"))
    server.wait_seen(1)
    client.reset()

    assert gate.access_log(1)[0]["path"] == "/left"


def test_a_failed_try_is_counted_in_the_line(moongate, origin):
    live = origin.answers()
    gate = moongate(f"""gate.route {{ "/*", upstream = gate.upstream("app", {{
        peers = {{ "{origin.refuses()}", "{live}" }} }}) }}""")

    gate.get("/")
    gate.get("/")

    tries = [line["tries"] for line in gate.access_log(2)]
    assert max(tries) == 2, "the second try of one of them"


def test_the_access_log_may_be_off(moongate):
    gate = moongate(HANDLER, set='access_log = "off"')

    gate.get("/")
    gate.wait_total("connections", 0)

    assert not gate.access_path.exists()


def test_the_access_log_may_go_to_stderr(moongate):
    gate = moongate(HANDLER, set='access_log = "stderr"')

    gate.get("/to-stderr")

    assert json.loads(gate.wait_log("/to-stderr")[0])["status"] == 200


def test_usr1_opens_the_logs_anew(moongate):
    gate = moongate(HANDLER, workers=2, error_log="error.log")
    gate.get("/before")
    gate.access_log(1)
    old_access, old_error = gate.access_path.with_suffix(".1"), gate.error_path.with_suffix(".1")

    gate.access_path.rename(old_access)
    gate.error_path.rename(old_error)
    gate.signal(signal.SIGUSR1)
    wait_until(lambda: gate.access_path.exists() and gate.error_path.exists())

    def after():
        gate.get("/after")
        return gate.access_path.read_bytes().count(b"/after") >= 4
    wait_until(after)
    assert b"/before" in old_access.read_bytes()
    assert b"/before" not in gate.access_path.read_bytes()


def test_nothing_is_lost_at_the_end(moongate):
    gate = moongate(HANDLER, set="log_flush = 60")

    for _ in range(5):
        gate.get("/")
    gate.signal(signal.SIGTERM)
    gate.wait_exit()

    assert len(gate.access_log(5)) == 5


def test_the_access_log_may_go_to_syslog(moongate, tmp_path):
    path = tmp_path / "syslog"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        daemon.settimeout(5)
        gate = moongate(HANDLER, set=f'access_log = "syslog:{path}"')

        gate.get("/one")
        gate.get("/two")
        said = [daemon.recv(65536) for _ in range(2)]

    for datagram, target in zip(said, ["/one", "/two"]):
        head = re.match(rb"<(\d+)>[^{]*moongate[^{]*: ?(?={)", datagram)
        assert head, datagram
        assert json.loads(datagram[head.end():])["path"] == target


def test_a_syslog_that_comes_back_is_used_again(moongate, tmp_path):
    path = tmp_path / "syslog"
    first = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.bind(str(path))
    gate = moongate(HANDLER, set=f'access_log = "syslog:{path}"')
    gate.expect_error("syslog")
    first.close()
    path.unlink()
    gate.get("/lost")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(str(path))
        second.settimeout(0.05)

        def arrives():
            gate.get("/found")
            try:
                return b"/found" in second.recv(65536)
            except TimeoutError:
                return False
        wait_until(arrives)


def test_a_syslog_that_is_gone_stops_nothing(moongate, tmp_path):
    path = tmp_path / "syslog"
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    daemon.bind(str(path))
    gate = moongate(HANDLER, set=f'access_log = "syslog:{path}"')
    gate.expect_error("syslog")
    daemon.close()
    path.unlink()

    assert [gate.get("/").status for _ in range(5)] == [200] * 5


def test_a_full_disk_stops_nothing(moongate):
    gate = moongate(HANDLER, set='access_log = "/dev/full"')
    gate.expect_error("/dev/full|access log")

    assert [gate.get("/").status for _ in range(50)] == [200] * 50


# ---- The error log.

def test_an_error_in_a_hook_is_logged_with_file_line_and_exchange(moongate):
    gate = moongate("""
        local function deeper(req)
          error("the hook broke")
        end
        gate.route { "/*", handler = function() return 200 end,
          policies = { { access = function(req) deeper(req) end } } }""")
    gate.expect_error("the hook broke")

    assert gate.get("/").status == 500
    first = gate.wait_log("the hook broke")[0]
    exchange = gate.access_log(1)[0]["id"]

    assert "gateway.lua:4" in first
    assert exchange in gate.log()
    gate.wait_log(r"gateway\.lua:7")                # the traceback names the caller too


def test_an_error_that_is_no_string_is_logged_all_the_same(moongate):
    gate = moongate("""gate.route { "/*", handler = function() error({ code = 7 }) end }
        gate.route { "/nil", handler = function() error(nil) end }""")
    gate.expect_error("gateway|error")

    assert (gate.get("/").status, gate.get("/nil").status) == (500, 500)
    assert gate.get("/").status == 500


@pytest.mark.parametrize("level", ["info", "warn", "error"])
def test_a_script_may_log_at_every_level(moongate, level):
    gate = moongate(f"""gate.route {{ "/*", handler = function(req)
        gate.log.{level}("saw " .. req.path) return 200 end }}""")
    gate.expect_error("saw /x")

    gate.get("/x")

    assert re.match(rf"{ISO} {level} \[worker 0\] .*saw /x", gate.wait_log("saw /x")[0])


def test_lines_below_the_level_are_not_written(moongate):
    gate = moongate("""gate.route { "/*", handler = function(req)
        gate.log.debug("a secret detail") gate.log.warn("a warning") return 200 end }""")

    gate.get("/")
    gate.wait_log("a warning")

    assert "a secret detail" not in gate.log()


def test_a_line_end_in_a_logged_text_cannot_forge_a_line(moongate):
    gate = moongate("""gate.route { "/*", handler = function(req)
        gate.log.warn("one\\n2026-01-01T00:00:00.000Z error [master] forged") return 200 end }""")

    gate.get("/")
    gate.wait_log("one")

    assert not [line for line in gate.log().splitlines() if re.match(ISO + r" error \[master\] forged", line)]


def test_what_went_wrong_with_a_peer_is_logged_with_the_peer(proxy, origin):
    address = origin.refuses()
    gate = proxy(address)

    assert gate.get("/").status == 502
    assert re.search("refused", gate.wait_log(re.escape(address))[0])

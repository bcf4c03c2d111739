"""Reload: all workers take the new script, or none does, and nothing that is under way is lost."""
import os
import signal
import socket
import ssl
import threading
import time

import pytest

from client import request
from h2wire import Http2, get
from load import Load
from moongate import free_port, run, wait_until


def says(word):
    return f'gate.route {{ "/*", handler = function() return 200, "{word}" end }}'


def edit(gate, script):
    """Another script, below the line that the fixture has written; at once, since a new worker may read it any time."""
    head, other = gate.script.read_text().split("\n", 1)[0], gate.script.with_suffix(".new")
    other.write_text(head + "\n" + script)
    other.replace(gate.script)


def reload(gate, script=None):
    """The answer of a reload that goes well."""
    if script is not None:
        edit(gate, script)
    answer = gate.command("reload")
    assert "error" not in answer, answer["error"]
    return answer


def refused(gate, script):
    """Why a reload changes nothing."""
    edit(gate, script)
    gate.expect_error("nothing has changed")
    return gate.command("reload")["error"]


def generations(gate):
    return [g["number"] for worker in gate.status()["workers"] for g in worker["generations"]]


# ---- What a reload does.

def test_every_worker_takes_the_new_script(moongate):
    gate = moongate(says("old"), workers=3)

    answer = reload(gate, says("new"))

    assert {gate.get("/").body for _ in range(20)} == {b"new"}
    assert (answer["generation"], answer["workers"]) == (2, 3)
    wait_until(lambda: generations(gate) == [2, 2, 2])


def test_the_command_prints_what_has_changed(moongate, origin):
    server = origin.answers()
    gate = moongate(f"""
        gate.upstream("gone", {{ peers = {{ "{server}" }} }})
        gate.upstream("kept", {{ peers = {{ "{server}" }} }})
        local users = gate.upstream("users", {{ peers = {{ "{server}" }} }})
        gate.use {{ name = "stamp", response = function(req, res) res.headers["x-stamp"] = "1" end }}
        gate.route {{ "/a", upstream = users }}
        gate.route {{ "/b", methods = {{ "GET" }}, handler = function() return 200, "b" end }}
        gate.route {{ "/c", handler = function() return 200, "c" end }}""")
    port = free_port()
    edit(gate, f"""
        gate.listen "127.0.0.1:{port}"
        gate.upstream("kept", {{ peers = {{ "{server}" }} }})
        local users = gate.upstream("users", {{ peers = {{ {{ "{server}", weight = 2 }} }} }})
        gate.use {{ name = "stamp", response = function(req, res) res.headers["x-stamp"] = "2" end }}

        gate.route {{ "/c", handler = function() return 200, "c" end }}
        gate.route {{ "/b", methods = {{ "GET" }}, handler = function() return 200, "another" end }}
        gate.route {{ "/d", upstream = users }}""")

    told = run("reload", "--control", gate.control_path)

    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("generation 2 is in force in 1 worker after ")
    assert lines[1:] == [f"listeners added: 127.0.0.1:{port}", "routes added: /d", "routes removed: /a",
                         "routes changed: GET /b", "upstreams removed: gone", "upstreams changed: users",
                         "policies changed: stamp"]


def test_a_policy_whose_options_differ_has_changed_and_one_that_moved_has_not(moongate):
    script = """
        local function limit(rate) return { access = function() if rate > 5 then return 429 end end } end
        gate.route { "/*", policies = { limit(%d) }, handler = function() return 200 end }"""
    gate = moongate(script % 1)

    moved = reload(gate, "\n\n" + script % 1)
    changed = reload(gate, "\n\n" + script % 9)

    assert moved["text"] == "nothing that is declared has changed"
    assert changed["changes"]["routes"]["changed"] == ["/*"]
    assert len(changed["changes"]["policies"]["changed"]) == 1


def test_hup_reloads_and_the_log_tells_of_it(moongate):
    gate = moongate(says("old"))
    edit(gate, says("new"))

    gate.signal(signal.SIGHUP)

    gate.wait_log("generation 2 is in force in 1 worker .*routes changed: /\\*")
    assert gate.get("/").body == b"new"


def test_the_error_log_goes_where_the_script_in_force_says(moongate, tmp_path):
    log = tmp_path / "other.log"
    tells = 'gate.route { "/*", handler = function(req) gate.log.info(req.path) return 200 end }'
    gate = moongate(tells)

    reload(gate, f'gate.set {{ error_log = "{log}" }}\n' + tells)
    gate.get("/to-the-file")
    reload(gate, tells)
    gate.get("/to-stderr")

    gate.wait_log("generation 3 is in force")
    gate.wait_log("/to-stderr")
    written = log.read_text()
    assert "generation 2 is in force" in written and "/to-the-file" in written
    assert "generation 3" not in written and "/to-stderr" not in written
    assert "/to-the-file" not in gate.log()


# ---- What a reload refuses.

def test_a_script_that_fails_changes_nothing_and_its_traceback_is_told(moongate):
    gate = moongate(says("old"), workers=2)
    edit(gate, says("new") + "\nlocal function broken() local x = nil + 1 end\nbroken()")
    gate.expect_error("nothing has changed")

    told = run("reload", "--control", gate.control_path)

    assert told.returncode == 1
    assert "gateway.lua:3: attempt to perform arithmetic on a nil value" in told.stderr
    assert "in function 'broken'" in told.stderr
    assert {gate.get("/").body for _ in range(10)} == {b"old"}
    wait_until(lambda: generations(gate) == [1, 1])


def test_an_error_log_that_cant_be_written_changes_nothing_and_binds_nothing(moongate, tmp_path):
    gate, port = moongate(says("old")), free_port()

    why = refused(gate, f"""gate.set {{ error_log = "{tmp_path}/nowhere/error.log" }}
        gate.listen "127.0.0.1:{port}"\n""" + says("new"))

    assert f"error_log {tmp_path}/nowhere/error.log: No such file or directory" in why
    assert gate.get("/").body == b"old" and generations(gate) == [1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_a_mistake_in_a_declaration_is_told_with_its_line(moongate):
    gate = moongate(says("old"))

    problem = refused(gate, 'gate.route { "/*", handlr = function() end }')

    assert problem.startswith(str(gate.script) + ":2: ") and "handler" in problem
    assert gate.get("/").body == b"old"


def test_an_init_hook_that_throws_refuses_the_reload_with_its_traceback(moongate):
    gate = moongate(says("old"), workers=2)

    problem = refused(gate, """gate.use { name = "warm", init = function() error "no table" end }\n""" + says("new"))

    assert "init of policy warm" in problem and "gateway.lua:2: no table" in problem
    assert gate.get("/").body == b"old"
    wait_until(lambda: generations(gate) == [1, 1])


def test_one_worker_that_can_t_prepare_stops_all(moongate, tmp_path):
    gate = moongate(says("old"), workers=3)

    problem = refused(gate, f"""
        local file = io.open("{tmp_path}/loads", "a")
        file:write "x"
        file:close()
        if #io.open("{tmp_path}/loads"):read "*a" == 3 then error "the third" end
""" + says("new"))

    assert "the third" in problem
    assert {gate.get("/").body for _ in range(20)} == {b"old"}
    wait_until(lambda: generations(gate) == [1, 1, 1])


def test_an_address_in_use_refuses_the_reload(moongate):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, other = taken.getsockname()[1], free_port()
        gate = moongate(says("old"), workers=2)

        problem = refused(gate, f'gate.listen "127.0.0.1:{other}"; gate.listen "127.0.0.1:{port}"\n' + says("new"))

    assert f"127.0.0.1:{port}" in problem and "in use" in problem
    assert gate.get("/").body == b"old"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", other), 1)


def test_a_script_can_be_reloaded_after_it_was_mended(moongate):
    gate = moongate(says("old"))
    refused(gate, "nonsense nonsense")

    reload(gate, says("mended"))

    assert gate.get("/").body == b"mended"


def waiting_init(origin, word):
    server = origin.hangs()
    script = f'gate.use {{ init = function() gate.fetch "http://{server}/" end }}\n' + says(word)
    return server, script


def test_a_second_reload_is_refused_while_one_is_under_way(moongate, origin):
    server, script = waiting_init(origin, "new")
    gate = moongate(says("old"))
    edit(gate, script)
    first = threading.Thread(target=lambda: gate.command("reload"))
    first.start()
    server.wait_seen(1)

    assert "another reload is under way" in gate.command("reload")["error"]
    assert gate.get("/").body == b"old"

    origin.close()
    first.join(10)
    assert gate.get("/").body == b"new"


def test_a_worker_that_dies_while_it_prepares_ends_the_reload_for_all(moongate, origin):
    server, script = waiting_init(origin, "new")
    gate = moongate(says("old"), workers=2)
    old = gate.worker_pids()
    edit(gate, script)
    gate.expect_error("nothing has changed")
    answers = []
    first = threading.Thread(target=lambda: answers.append(gate.command("reload")))
    first.start()
    server.wait_seen(1)

    os.kill(old[0], signal.SIGKILL)
    edit(gate, says("old"))
    first.join(10)

    assert "worker 0 died while it was preparing" in answers[0]["error"]
    wait_until(lambda: len(set(gate.worker_pids()) | {old[1]}) == 2 and len(gate.worker_pids()) == 2)
    assert {gate.get("/").body for _ in range(10)} == {b"old"}


def test_a_worker_that_died_comes_back_and_takes_part_in_the_next_reload(moongate):
    gate = moongate(says("old"), workers=2)

    os.kill(gate.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: len(gate.worker_pids()) == 2)
    reload(gate, says("new"))

    assert {gate.get("/").body for _ in range(20)} == {b"new"}


# ---- What lives through it.

def test_an_exchange_keeps_its_generation_and_its_connection_takes_the_new_one(moongate, origin):
    server = origin.holds()

    def script(word):
        return f"""gate.use {{ response = function(req, res) res.headers["x-word"] = "{word}" end }}
            gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}"""
    gate = moongate(script("old"))
    client = gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)

    reload(gate, script("new"))
    assert sorted(generations(gate)) == [1, 2]
    server.go.set()

    assert client.response()["x-word"] == "old"
    assert client.get("/")["x-word"] == "new"
    wait_until(lambda: generations(gate) == [2], what="the old generation is freed")
    assert len(server.connections) == 1, "the kept connection to the origin is used on"


def test_a_download_and_an_upload_go_on(moongate, origin):
    go = threading.Event()

    def play(connection):
        asked = connection.head()
        if asked.method == "GET":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
            go.wait(10)
            connection.send(b" half")
        else:
            connection.body(asked)
            connection.answer(200, asked.body)
    server = origin.plays(play)
    script = f'gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}'
    gate = moongate(script)
    down, up = gate.raw(), gate.raw()
    down.send(request("GET", "/"))
    head = down.final_head()
    up.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    server.wait_seen(2)

    reload(gate, script)
    reload(gate, says("elsewhere"))
    go.set()
    up.send(b"def")

    assert down.body(head).body == b"first half"
    assert up.response().body == b"abcdef"


def test_a_tunnel_lives_on_when_drain_timeout_is_over(moongate, origin):
    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        while connection.more():
            connection.send(connection._take(len(connection.buffer)).upper())
    server = origin.plays(play)
    gate = moongate(f"""gate.use {{ access = function() end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""",
                    set="drain_timeout = 0.2")
    client = gate.raw()
    client.send(request("GET", "/", "Connection: Upgrade", "Upgrade: x"))
    assert client.head().status == 101

    reload(gate, says("new"))
    gate.wait_log("generation 1: drain_timeout is over")
    client.send(b"still there")

    assert client.exactly(11) == b"STILL THERE"
    assert [g["memory"] for g in gate.status()["workers"][0]["generations"] if g["number"] == 1] == [0]


def test_a_hook_that_waits_past_drain_timeout_is_ended_with_500(moongate, origin):
    server = origin.hangs()
    gate = moongate(f"""gate.route {{ "/*", handler = function()
          gate.fetch "http://{server}/"
          return 200, "never"
        end }}""", set="drain_timeout = 0.2")
    client = gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)

    reload(gate, says("new"))

    assert client.response().status == 500
    assert client.get("/").body == b"new"
    wait_until(lambda: generations(gate) == [2])


def test_requests_are_answered_while_a_long_script_is_loaded(moongate, tmp_path):
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    gate = moongate(says("old"))
    edit(gate, f"""
        io.open("{begun}", "w"):close()
        local n = 0
        for i = 1, 3e7 do n = n + i % 7 end
        io.open("{ended}", "w"):close()
        {says("new")}""")
    reloading = threading.Thread(target=gate.command, args=["reload"])
    reloading.start()
    wait_until(begun.exists)

    answers = [(gate.get("/").body, ended.exists()) for _ in range(20)]

    reloading.join()
    assert answers == [(b"old", False)] * 20
    assert gate.get("/").body == b"new"


def test_a_script_is_loaded_whole_whatever_runs_in_it(moongate, tmp_path):
    """Being interrupted must not be seen: not in a coroutine, nor where Lua was called by C."""
    (tmp_path / "long.lua").write_text("local n = 0 for i = 1, 1e6 do n = n + 1 end return n")
    gate = moongate(says("old"))

    reload(gate, f"""
        package.path = "{tmp_path}/?.lua;" .. package.path
        local function long() local n = 0 for i = 1, 1e6 do n = n + 1 end return n end
        local sum = long() + require "long"
        sum = sum + coroutine.wrap(function() coroutine.yield(long()) end)()
        string.gsub("x", "x", function() sum = sum + long() end)
        table.sort({{ 2, 1 }}, function(a, b) sum = sum + long() return a < b end)
        sum = sum + select(2, pcall(long)) + setmetatable({{}}, {{ __index = long }}).x
        gate.route {{ "/*", handler = function() return 200, tostring(sum > 6.9e6) end }}""")

    assert gate.get("/").body == b"true"


def test_shared_dictionaries_and_peers_counts_outlive_a_reload(moongate, origin):
    server = origin.answers()
    script = f"""local seen = gate.shared("seen", "64K")
        local app = gate.upstream("app", {{ peers = {{ "{server}" }} }})
        gate.route {{ "/origin", upstream = app }}
        gate.route {{ "/*", handler = function()
          return 200, seen:incr("n", 1, 0) .. " " .. (app.peers[1].latency > 0 and "known" or "unknown")
        end }}"""
    gate = moongate(script)
    gate.get("/origin")
    assert gate.get("/").body == b"1 known"

    reload(gate, script)

    assert gate.get("/").body == b"2 known"


def test_timers_of_the_old_script_end(moongate):
    script = """local ticks = gate.shared("ticks", "64K")
        local timer = gate.every(0.02, function() ticks:incr("%s", 1, 0) end)
        gate.route { "/stop", handler = function() timer:stop() return 200 end }
        gate.route { "/:name", handler = function(req) return 200, tostring(ticks:get(req.params.name) or 0) end }"""
    gate = moongate(script % "old")
    wait_until(lambda: int(gate.get("/old").body) > 1)

    reload(gate, script % "new")
    last = gate.get("/old").body
    wait_until(lambda: int(gate.get("/new").body) > 5)

    assert gate.get("/old").body == last
    gate.get("/stop")


def test_exit_hooks_run_when_the_last_exchange_has_ended(moongate, origin):
    server = origin.holds()
    gate = moongate(f"""gate.use {{ exit = function() gate.log.info "the end" end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")
    client = gate.raw()
    client.send(request("GET", "/"))
    server.wait_seen(1)

    reload(gate, says("new"))
    assert "the end" not in gate.log()
    server.go.set()

    assert client.response().body == b"ok"
    gate.wait_log("the end")


# ---- Listeners, workers, settings.

def test_a_listener_that_is_added_takes_connections_and_one_that_is_removed_keeps_its_open_ones(moongate):
    first, second = free_port(), free_port()
    gate = moongate(f'gate.listen "127.0.0.1:{first}"\n' + says("old"), workers=2)
    gate.address = ("127.0.0.1", first)
    client = gate.raw()
    assert client.get("/").body == b"old"

    reload(gate, f'gate.listen "127.0.0.1:{second}"\n' + says("new"))

    assert client.get("/").body == b"new"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", first), 1)
    gate.address = ("127.0.0.1", second)
    assert {gate.get("/").body for _ in range(10)} == {b"new"}


def test_a_unix_socket_stays_or_goes_with_its_listener(moongate, tmp_path):
    kept, gone = tmp_path / "kept.sock", tmp_path / "gone.sock"
    gate = moongate(f'gate.listen "unix:{kept}"; gate.listen "unix:{gone}"\n' + says("old"))
    before = kept.stat().st_ino

    reload(gate, f'gate.listen "unix:{kept}"\n' + says("new"))

    assert kept.stat().st_ino == before
    assert not gone.exists()
    gate.address = str(kept)
    assert gate.get("/").body == b"new"


def test_a_listener_s_new_limits_count_for_new_connections(moongate):
    port = free_port()

    def script(size):
        return f'gate.listen {{ "127.0.0.1:{port}", max_target_size = {size} }}\n' + says("ok")
    gate = moongate(script(1000))
    gate.address = ("127.0.0.1", port)
    old = gate.raw()
    assert old.get("/" + "a" * 500).status == 200

    reload(gate, script(100))

    assert old.get("/" + "a" * 500).status == 200, "a connection keeps what it began with"
    assert gate.get("/" + "a" * 500).status == 414


def test_the_number_of_workers_follows_the_script(moongate):
    gate = moongate("gate.set { workers = 1 }\n" + says("one"), workers=None)
    client = gate.raw()
    assert client.get("/").body == b"one"

    reload(gate, "gate.set { workers = 3 }\n" + says("three"))
    wait_until(lambda: len(gate.worker_pids()) == 3)
    assert {gate.get("/").body for _ in range(10)} == {b"three"}

    reload(gate, "gate.set { workers = 1 }\n" + says("again"))
    wait_until(lambda: len(gate.worker_pids()) == 1)
    assert gate.get("/").body == b"again"
    assert client.get("/").body == b"again", "worker 0 has stayed"


def test_the_access_log_goes_where_the_new_script_says(moongate, tmp_path):
    gate = moongate(says("old"))
    gate.get("/one")
    gate.access_log(1)

    reload(gate, f'gate.set {{ access_log = "{tmp_path}/second.log" }}\n' + says("new"))
    gate.get("/two")

    second = wait_until(lambda: (tmp_path / "second.log").exists() and (tmp_path / "second.log").read_text())
    assert "/two" in second and len(gate.access_log(1)) == 1


# ---- Many of them.

def test_hundred_reloads_lose_nothing_and_hold_no_memory(moongate, origin):
    server = origin.answers(200, b"x" * 1000)
    script = f"""gate.use {{ access = function(req) req.headers["x-seen"] = "1" end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}"""
    gate = moongate(script, workers=2)
    load = Load(gate, expected=b"x" * 1000)

    for n in range(100):
        reload(gate)
    counts = load.stop()

    assert min(counts.values()) > 50, counts
    wait_until(lambda: generations(gate) == [101, 101])


# ---- --watch.

def replace(path, text):
    """As editors do it: another file in its place."""
    beside = path.with_name("." + path.name + ".swp")
    beside.write_text(text)
    beside.rename(path)


def test_watch_reloads_when_the_script_or_a_file_it_required_changes(moongate, tmp_path):
    module = tmp_path / "words.lua"
    module.write_text('return "first"')
    gate = moongate('local word = require "words"\ngate.route { "/*", handler = function() return 200, word end }',
                    arguments=["--watch"])
    assert gate.get("/").body == b"first"

    module.write_text('return "second"')
    gate.wait_log("generation 2 is in force")
    assert gate.get("/").body == b"second"

    replace(module, 'return "third"')
    gate.wait_log("generation 3 is in force")
    assert gate.get("/").body == b"third"

    edit(gate, says("fourth"))
    gate.wait_log("generation 4 is in force")
    assert gate.get("/").body == b"fourth"


def test_watch_takes_a_burst_of_writes_as_one_change(moongate):
    gate = moongate(says("old"), arguments=["--watch"])

    times = []
    for n in range(20):
        edit(gate, says(f"edit {n}"))
        times.append(time.monotonic())
    pauses = sum(after - before > 0.05 for before, after in zip(times, times[1:]))      # a busy machine's, not ours

    wait_until(lambda: gate.get("/").body == b"edit 19")
    assert gate.status()["generation"] <= 2 + pauses


def test_watch_sees_the_mend_of_a_file_that_was_never_loaded(moongate, tmp_path):
    gate = moongate(says("old"), arguments=["--watch"])
    gate.expect_error("nothing has changed")
    (tmp_path / "fresh.lua").write_text("nonsense nonsense")
    edit(gate, 'require "fresh"\n' + says("new"))
    gate.wait_log("nothing has changed.*fresh.lua")
    assert gate.get("/").body == b"old"

    (tmp_path / "fresh.lua").write_text("return true")
    gate.wait_log("generation 2 is in force")

    assert gate.get("/").body == b"new"


# ---- TLS and HTTP/2.

def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(moongate, authority, tmp_path):
    first, second = authority.issue("first.test"), authority.issue("second.test")
    port, cert, key = free_port(), tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(certificate):
        cert.write_bytes(open(certificate.cert, "rb").read())
        key.write_bytes(open(certificate.key, "rb").read())
    install(first)
    gate = moongate(f'gate.listen {{ "127.0.0.1:{port}", tls = {{ cert = "{cert}", key = "{key}" }} }}\n' + says("ok"))
    gate.address = ("127.0.0.1", port)
    old = gate.raw(tls=authority.client_context(), name="first.test")
    assert old.get("/").body == b"ok"

    install(second)
    answer = reload(gate)

    assert answer["changes"]["listeners"]["changed"] == [f"127.0.0.1:{port}"]
    assert gate.raw(tls=authority.client_context(), name="second.test").get("/").body == b"ok"
    assert old.get("/").body == b"ok"


def test_a_certificate_that_can_t_be_read_refuses_the_reload(moongate, authority, tmp_path):
    site = authority.issue("first.test")
    port, cert = free_port(), tmp_path / "cert.pem"
    cert.write_bytes(open(site.cert, "rb").read())
    script = f'gate.listen {{ "127.0.0.1:{port}", tls = {{ cert = "{cert}", key = "{site.key}" }} }}\n' + says("ok")
    gate = moongate(script)

    cert.write_text("nonsense")
    problem = refused(gate, script)

    assert "gateway.lua:2" in problem and str(cert) in problem
    gate.address = ("127.0.0.1", port)
    assert gate.raw(tls=authority.client_context(), name="first.test").get("/").body == b"ok"


def test_sessions_of_tls_are_resumed_after_a_reload(moongate, authority, site):
    gate = moongate(says("ok"), listen=f"tls = {{ {site.lua} }}")
    context = authority.client_context(version=ssl.TLSVersion.TLSv1_2)
    first = gate.raw(tls=context)
    assert first.get("/").body == b"ok"

    reload(gate, says("new"))
    again = gate.raw(tls=context, session=first.sock.session)

    assert again.get("/").body == b"new" and again.sock.session_reused


def test_streams_of_one_connection_of_http2_are_of_either_generation(moongate, origin):
    server = origin.holds(b"from the origin")
    gate = moongate(f"""gate.use {{ response = function(req, res) res.headers["x-word"] = "old" end }}
        gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }} }}) }}""")
    client = Http2(gate.address).ready()
    slow = client.request(get("/slow"))
    server.wait_seen(1)

    reload(gate, says("new"))
    quick = client.get("/quick")
    server.go.set()
    answer = client.response(slow)
    client.close()

    assert (quick.status, quick.body) == (200, b"new")
    assert (answer["x-word"], answer.body) == ("old", b"from the origin")

"""Files that are watched: gate.watch, and discover.file by it."""
import os

import pytest

from moongate import ROOT, wait_until
from test_peers import listed, met

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '


def replace(path, text):
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def turn(path, text, absolute=False):
    """As Kubernetes writes a ConfigMap: path -> ..data/name, ..data -> a folder of this version."""
    folder = path.parent
    folder.mkdir(exist_ok=True)
    fresh = folder / f"..{len(list(folder.iterdir()))}"
    fresh.mkdir()
    (fresh / path.name).write_text(text)
    (folder / "..data_new").symlink_to(fresh if absolute else fresh.name)
    (folder / "..data_new").replace(folder / "..data")
    if not path.is_symlink():
        path.symlink_to(f"..data/{path.name}")


def write_over(path, text):
    path.write_text(text)


def link_over(path, text):
    other = path.with_suffix(f".{len(list(path.parent.iterdir()))}")
    other.write_text(text)
    path.unlink(missing_ok=True)
    os.link(other, path)


def symlink_over(path, text):
    other = path.with_name(f"other{len(text)}")
    other.write_text(text)
    path.unlink(missing_ok=True)
    path.symlink_to(other)


WAYS = {"in its place": write_over, "by a rename": replace, "by a link": link_over, "by a symbolic link": symlink_over,
        "as Kubernetes does it": turn, "by an absolute link": lambda path, text: turn(path, text, absolute=True)}


def watching(moongate, path):
    return moongate(f"""gate.route {{ "/*", handler = function(req)
        local watch = gate.watch "{path}"
        gate.log.info "watched"
        if req.args.first then gate.sleep(tonumber(req.args.first)) end
        local list = {{}}
        for seconds in req.query:gmatch "wait=([%d.]+)" do
          list[#list + 1] = tostring(watch:wait(tonumber(seconds)))
          gate.log.info("waited " .. #list)
        end
        return 200, table.concat(list, " ") end }}""")


def send(gate, target):
    client = gate.raw()
    client.send(f"GET {target} HTTP/1.1\r\nHost: example.test\r\n\r\n")
    gate.wait_log("watched")
    return client


def inotify_marks(gate):
    """Folders that the worker watches."""
    pid, = gate.worker_pids()
    return sum(line.startswith("inotify") for name in os.listdir(f"/proc/{pid}/fdinfo")
               for line in open(f"/proc/{pid}/fdinfo/{name}"))


# ---- gate.watch

@pytest.mark.parametrize("way", WAYS)
def test_a_change_ends_the_wait(moongate, tmp_path, way):
    path = tmp_path / "watched" / "file"
    path.parent.mkdir()
    WAYS[way](path, "before")
    client = send(watching(moongate, path), "/?wait=600")

    WAYS[way](path, "behind")

    assert client.response().body == b"true"


@pytest.mark.parametrize("way", WAYS)
def test_so_does_a_file_that_was_not_there_nor_its_folder(moongate, tmp_path, way):
    path = tmp_path / "none" / "file"
    gate = moongate(f"""gate.route {{ "/*", handler = function(req)
        local watch = gate.watch "{path}"
        gate.log.info "watched"
        repeat watch:wait(600) until io.open "{path}"
        return 200, "there" end }}""")
    client = send(gate, "/")

    path.parent.mkdir()
    WAYS[way](path, "first")

    assert client.response().body == b"there"


def test_a_change_before_the_wait_is_not_missed_and_told_once(moongate, tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    client = send(watching(moongate, path), "/?first=0.3&wait=600&wait=0.05")

    replace(path, "behind")

    assert client.response().body == b"true false"


def test_other_files_beside_it_do_not_count(moongate, tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    client = send(watching(moongate, path), "/?wait=0.3")

    replace(tmp_path / "other", "x")
    (tmp_path / "file2").write_text("x")

    assert client.response().body == b"false"


def test_a_file_that_is_being_written_is_not_told_before_it_is_whole(moongate, tmp_path):
    path = tmp_path / "file"
    gate = watching(moongate, path)
    client = send(gate, "/?wait=0.3&wait=600")

    with open(path, "w") as file:
        file.write("half")
        file.flush()
        gate.wait_log("waited 1")

    assert client.response().body == b"false true"


def test_what_is_watched_ends_with_who_watches_it(moongate, tmp_path):
    gate = watching(moongate, tmp_path / "file")
    assert inotify_marks(gate) == 0

    client = send(gate, "/?wait=600")
    assert inotify_marks(gate) == 1
    client.close()

    wait_until(lambda: inotify_marks(gate) == 0)
    assert gate.get("/?wait=0.01").body == b"false"
    assert inotify_marks(gate) == 0


@pytest.mark.parametrize("call, told", [
    ("gate.watch(7)", "gate.watch takes a path, got 7"), ('gate.watch("/x"):wait("long")', 'takes a number of seconds, got "long"'),
    ('local w = gate.watch("/x") w:close() w:wait(1)', "the watch is closed"),
    ("assert(gate.watch((\'x\'):rep(5000)))", "malformed"),
])
def test_what_is_wrong_with_a_watch_is_told(moongate, call, told):
    gate = moongate(f'gate.route {{ "/*", handler = function() return 200, select(2, pcall(function() {call} end)) end }}')

    assert told in gate.get("/").body.decode()


# ---- discover.file

@pytest.fixture
def servers(origin):
    """Three origins that answer with their number."""
    return [origin.answers(200, b"%d" % n) for n in range(3)]


def discovering(moongate, path, interval, **options):
    return moongate(f"""{HERE}gate.route {{ "/*", upstream = gate.upstream("app", {{
        discover = require "discover.file" {{ path = "{path}" }}, discover_interval = {interval} }}) }}""", **options)


@pytest.mark.parametrize("way", WAYS)
def test_a_list_of_peers_is_read_as_soon_as_it_changes(moongate, servers, tmp_path, way):
    path = tmp_path / "watched" / "peers"
    path.parent.mkdir()
    WAYS[way](path, f"{servers[0]}\n")
    gate = discovering(moongate, path, 3600, workers=2)
    wait_until(lambda: met(gate, 4) == {b"0"})

    for n in (1, 2, 0):
        WAYS[way](path, f"{servers[n]}\n" + "#" * n)
        wait_until(lambda: met(gate, 4) == {b"%d" % n})

    assert set(listed(gate)) == {str(servers[0])}


def test_a_change_that_nobody_tells_is_seen_at_the_interval(moongate, servers, tmp_path):
    path = tmp_path / "peers"
    path.write_text(f"{servers[0]}\n")
    gate = discovering(moongate, path, 0.1)
    wait_until(lambda: met(gate, 4) == {b"0"})

    with open(path, "a") as file:               # not closed
        file.write(f"{servers[1]}\n")
        file.flush()
        wait_until(lambda: met(gate, 4) == {b"0", b"1"})


def test_a_file_that_comes_later_and_slowly_is_read_when_it_is_whole(moongate, servers, tmp_path):
    path = tmp_path / "peers"
    gate = discovering(moongate, path, 3600)
    gate.expect_error("No such file")
    gate.wait_log("No such file")

    with open(path, "w") as file:
        for n in (0, 1):
            file.write(f"{servers[n]}\n")
            file.flush()
    wait_until(lambda: met(gate, 4) == {b"0", b"1"})

    assert not [line for line in gate.lines if "the list is empty" in line]


def test_a_finder_of_the_script_s_own_may_say_when_it_is_worth_it(moongate, servers):
    gate = moongate(f"""local told = gate.shared "told"
        local app = gate.upstream("app", {{ discover_interval = 3600, discover = {{
          find = function() return {{ told:get "peer" or "{servers[0]}" }} end,
          wait = function(seconds)
            for _ = 1, seconds / 0.01 do
              gate.sleep(0.01)
              if told:get "peer" then return told:get "peer" end
            end
          end }} }})
        gate.route {{ "/told", handler = function() told:set("peer", "{servers[1]}") return 204 end }}
        gate.route {{ "/*", upstream = app }}""")
    wait_until(lambda: met(gate, 4) == {b"0"})

    gate.get("/told")

    wait_until(lambda: met(gate, 4) == {b"1"})


def test_a_wait_that_fails_leaves_the_interval(moongate, servers):
    gate = moongate(f"""local n = 0
        gate.route {{ "/*", upstream = gate.upstream("app", {{ discover_interval = 0.1, discover = {{
          find = function() n = n + 1 gate.log.info("asked " .. n) return {{ "{servers[0]}" }} end,
          wait = function() error "no way to wait" end }} }}) }}""")
    gate.expect_error("no way to wait")

    gate.wait_log("no way to wait; it is asked each discover_interval only")
    gate.wait_log("asked 4$")

    assert len([line for line in gate.lines if "no way to wait" in line]) == 1

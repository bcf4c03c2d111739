"""gate.keep: a plain table goes from one generation of a worker to the next, whole, up to date, and migrated."""
import json
import threading

import pytest

from moongate import run, wait_until
from test_reload import edit, refused, reload

# /lua runs the text that it is sent, with what is kept; its answer is JSON.
SHELL = """
    gate.route { "/lua", handler = function(req)
        local f = assert(loadstring("local state, users, gate = ... " .. assert(req:text())))
        return 200, { f(state, users, gate) }
    end }
"""
KEPT = """
    local made = 0
    local state = gate.keep("sessions", 1, function(old, version)
        made = made + 1
        return { users = {}, count = 0, saw = tostring(old) .. tostring(version) }
    end)
    local users = state.users
""" + SHELL


def do(gate, text):
    reply = gate.post("/lua", body=text)
    assert reply.status == 200, (reply, gate.log())
    return json.loads(reply.body)


def test_what_is_kept_comes_through_a_reload_as_it_was(moongate):
    gate = moongate(KEPT)
    assert do(gate, "return state.saw") == ["nilnil"]
    do(gate, r'users["a\0b"] = { since = 12.5, tags = { "x", "y" }, [7] = true, [false] = -1e300 }; state.count = 3 return 1')

    reload(gate)

    assert do(gate, r'local u = users["a\0b"] return u.since, u.tags[2], u[7], u[false], #u.tags, state.count, state.saw') == \
        [12.5, "y", True, -1e300, 2, 3, "nilnil"]
    assert do(gate, "return users == state.users") == [True]


def test_it_goes_on_through_many_reloads_and_scripts_that_change(moongate):
    gate = moongate(KEPT)
    for i in range(5):
        assert do(gate, "state.count = state.count + 1 return state.count") == [i + 1]
        reload(gate, KEPT + f"-- {i}")

    assert do(gate, "return state.count") == [5]


def test_another_version_is_migrated_by_init(moongate):
    gate = moongate(KEPT)
    do(gate, "users.ann, users.bob = 1, 2 return 1")

    reload(gate, """
        local state = gate.keep("sessions", 2, function(old, version)
            local out = { by_name = {}, was = version }
            for name, id in pairs(old.users) do out.by_name[name] = { id = id } end
            return out
        end)
        local users""" + SHELL)

    assert do(gate, "return state.was, state.by_name.ann.id, state.by_name.bob.id, state.users == nil") == [1, 1, 2, True]


def test_what_is_written_until_the_new_script_is_in_force_is_not_lost(moongate, origin):
    server = origin.hangs()
    gate = moongate(KEPT)
    do(gate, "users.early = { 1 }; users.gone = { 1 }; state.count = 1 return 1")
    edit(gate, f'gate.use {{ init = function() gate.fetch "http://{server}/" end }}\n' + KEPT +
         "local early = users.early; gate.route { '/early', handler = function() return 200, { early[1], early == state.users.early } end }")
    answers = []
    under_way = threading.Thread(target=lambda: answers.append(gate.command("reload")))
    under_way.start()
    server.wait_seen(1)

    do(gate, "users.early[1] = 2; users.gone = nil; users.late = { 3 }; state.count = 9 return 1")
    origin.close()
    under_way.join(10)

    assert "error" not in answers[0]
    assert do(gate, "return users.early[1], users.late[1], users.gone == nil, state.count") == [2, 3, True, 9]
    assert json.loads(gate.get("/early").body) == [2, True], "a table in the same place is the same table"


def test_what_is_written_meanwhile_is_migrated_too(moongate, origin):
    server = origin.hangs()
    gate = moongate(KEPT)
    edit(gate, f"""gate.use {{ init = function() gate.fetch "http://{server}/" end }}
        local state = gate.keep("sessions", 2, function(old) return {{ doubled = old.count * 2 }} end)
        local users""" + SHELL)
    under_way = threading.Thread(target=lambda: gate.command("reload"))
    under_way.start()
    server.wait_seen(1)

    do(gate, "state.count = 21 return 1")
    origin.close()
    under_way.join(10)

    assert do(gate, "return state.doubled, state.count == nil") == [42, True]


def test_a_reload_that_is_refused_leaves_the_table_alone(moongate):
    gate = moongate(KEPT)
    do(gate, "users.ann = 1 return 1")

    why = refused(gate, KEPT + "users.ann, state.count = nil, 77; error 'no'")

    assert ": no" in why
    assert do(gate, "return users.ann, state.count") == [1, 0]
    reload(gate, KEPT)
    assert do(gate, "return users.ann, state.count") == [1, 0]


def test_a_migration_that_throws_refuses_the_reload_with_its_traceback(moongate):
    gate = moongate(KEPT)

    why = refused(gate, '\nlocal s = gate.keep("sessions", 5, function(old, version) error("no way from " .. version) end)' + SHELL)

    assert "gateway.lua:3: no way from 1" in why and "stack traceback" in why
    assert do(gate, "return state.count") == [0]


@pytest.mark.parametrize("deed, where", [
    ("users.ann = { fn = print }", "sessions.users.ann.fn is a function"),
    ('users["a b"] = { { coroutine.create(print) } }', 'sessions.users["a b"][1][1] is a thread'),
    ("users.self = users", "sessions.users.self is a table that stands in itself"),
    ("state[print] = 1", "sessions has a function as a key"),
    ("users.m = setmetatable({}, {})", "sessions.users.m has a metatable"),
    ("local t = state; for i = 1, 100 do t.t = {} t = t.t end", "stands in more than 90 tables"),
    ("users.wide = 5LL", "sessions.users.wide is a cdata"),
], ids=["function", "thread", "cycle", "key", "metatable", "depth", "cdata"])
def test_what_cant_be_handed_over_refuses_the_reload_and_is_named(moongate, deed, where):
    gate = moongate(KEPT)
    do(gate, deed + " return 1")

    why = refused(gate, KEPT)

    assert f'gateway.lua:4: gate.keep "sessions": it can\'t be handed over: {where}' in why or where in why
    assert "only numbers, strings, booleans and tables of them can be kept" in why
    reload(gate, "local state, users" + SHELL)      # a script that does not ask for it does not mind


MISTAKES = {
    "no name": ('gate.keep("", 1, function() return {} end)', 'name must be a string that is not empty, got ""'),
    "a version that is a word": ('gate.keep("a", "1", function() return {} end)', 'gate.keep "a": the version must be a whole'),
    "a version that is a fraction": ('gate.keep("a", 1.5, function() return {} end)', "got 1.5"),
    "no init": ('gate.keep("a", 1)', "a function(old, old_version) that returns a table is needed, got nothing"),
    "an init that returns nothing": ('gate.keep("a", 1, function() end)', "init must return a table, got nothing"),
    "an init that returns a function in it": ('gate.keep("a", 1, function() return { b = print } end)', "a.b is a function"),
    "a name twice": ('gate.keep("a", 1, function() return {} end) gate.keep("a", 1, function() return {} end)',
                     'gate.keep "a": the name is taken already, by gateway.lua:3; choose another'),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=[name.replace(" ", "-") for name in MISTAKES])
def test_a_mistake_is_told_with_its_line(tmp_path, mistake):
    lines, message = MISTAKES[mistake]
    (tmp_path / "gateway.lua").write_text(f'local gate = require "moongate"\ngate.listen ":1"\n{lines}\n')

    done = run("check", "gateway.lua", cwd=tmp_path)

    assert done.returncode == 1
    assert "gateway.lua:3: gate.keep" in done.stderr and message in done.stderr


def test_a_hook_cant_keep(moongate):
    gate = moongate(KEPT)

    assert "only the top level of the script can declare" in \
        do(gate, 'return select(2, pcall(gate.keep, "late", 1, function() return {} end))')[0]


def test_each_worker_keeps_its_own(moongate):
    gate = moongate(KEPT, workers=3)
    for _ in range(30):
        do(gate, "state.count = gate.worker() + 10 return 1")

    reload(gate)

    assert {tuple(do(gate, "return gate.worker(), state.count")) for _ in range(30)} <= {(0, 10), (1, 11), (2, 12), (0, 0), (1, 0), (2, 0)}
    assert any(count for _, count in [do(gate, "return gate.worker(), state.count") for _ in range(10)])


def test_a_hundred_thousand_entries_come_through(moongate):
    gate = moongate(KEPT)
    do(gate, "for i = 1, 100000 do users['user' .. i] = { id = i, at = i / 4 } end return 1")

    reload(gate)

    assert do(gate, "return users.user100000.id, users.user7.at") == [100000, 1.75]


def test_what_is_kept_is_no_change_of_the_policies_that_hold_it(moongate):
    script = KEPT + 'gate.use { name = "counts", log = function() users.n = (users.n or 0) + 1 end }'
    gate = moongate(script)
    do(gate, "return 1")

    answer = reload(gate)

    assert answer["text"] == "nothing that is declared has changed"


def test_nothing_is_kept_of_a_vm_that_was_thrown_away(moongate):
    gate = moongate(KEPT + 'gate.route { "/bad", handler = function() while true do end end }', set="cpu_budget = 0.05")
    gate.expect_error("thrown away")
    do(gate, "state.count = 5 return 1")

    assert gate.get("/bad").status == 500
    gate.wait_log("built anew")

    wait_until(lambda: do(gate, "return state.count") == [0])

"""gate.shared: one dictionary for all workers, whose every call is one step."""
import json
import threading

import pytest

from moongate import wait_until

OPEN = """
    local d = gate.shared("d", "256K")
    gate.route { "/*", handler = function(req)
        local f = assert(loadstring("local d, gate, req = ... " .. assert(req:text())))
        local out = { f(d, gate, req) }
        for i = 1, 4 do if out[i] == nil then out[i] = gate.json.null end end
        return 200, out, { ["x-worker"] = "" }
    end }
"""


@pytest.fixture
def shared(moongate):
    gate = moongate(OPEN)

    def do(text):
        reply = gate.post("/", body=text)
        assert reply.status == 200, reply
        return json.loads(reply.body)
    return do


@pytest.mark.parametrize("value, back", [
    ('"text"', "text"), ('""', ""), ('("x"):rep(5000)', "x" * 5000), ("12.5", 12.5), ("0", 0), ("-1e300", -1e300),
    ("true", True), ("false", False),
], ids=["text", "empty", "long", "fraction", "zero", "huge", "true", "false"])
def test_a_value_comes_back_as_what_it_was(shared, value, back):
    assert shared(f'return d:set("k", {value}), d:get("k")')[:2] == [True, back]


def test_a_key_may_hold_any_bytes_and_numbers_are_keys_too(shared):
    assert shared(r'd:set("a\0b\255", 1); d:set(7, 2); return d:get("a\0b\255"), d:get("7"), d:get("a")')[:3] == [1, 2, None]


@pytest.mark.parametrize("value", ["{}", "print", "d"])
def test_what_cannot_be_shared_is_an_error(shared, value):
    ok, why = shared(f'local ok, why = pcall(d.set, d, "k", {value}); return ok, why')[:2]

    assert ok is False and "must be a string, a number or a boolean" in why


def test_add_writes_only_what_is_not_there_and_replace_only_what_is(shared):
    assert shared('return d:replace("k", 1)')[:2] == [None, "absent"]
    assert shared('return d:add("k", 1)')[0] is True
    assert shared('return d:add("k", 2)')[:2] == [None, "exists"]
    assert shared('return d:replace("k", 3), d:get("k")')[:2] == [True, 3]


def test_incr_counts_from_what_is_there_or_from_the_initial_value(shared):
    assert shared('return d:incr("n")')[:2] == [None, "absent"]
    assert shared('return d:incr("n", 2, 10), d:incr("n", -0.5), d:get("n")')[:3] == [12, 11.5, 11.5]
    assert shared('d:set("t", "text"); return d:incr("t")')[:2] == [None, "not a number"]


def test_swap_writes_only_where_the_expected_value_stands(shared):
    assert shared('return d:swap("k", nil, "a"), d:swap("k", nil, "b"), d:get("k")')[:3] == [True, None, "a"]
    assert shared('return d:swap("k", "b", 1), d:swap("k", "a", 1), d:get("k")')[:3] == [None, True, 1]
    assert shared('return d:swap("k", "1", 2), d:swap("k", 1, false), d:get("k")')[:3] == [None, True, False]
    assert shared('return d:swap("k", 0, 1), d:swap("k", false, nil), d:get("k")')[:3] == [None, True, None]
    assert shared('local ok, why = d:swap("k", 1, 2) return ok, why')[:2] == [None, "changed"]
    assert 0 < shared('d:swap("k", nil, 1, 9) return d:ttl("k")')[0] <= 9


def test_a_request_is_counted_until_it_ends(shared):
    assert shared('return d:get("busy")')[0] is None
    assert shared('return d:count(req, "busy", 2), d:count(req, "busy", 2), d:count(req, "busy", 2)')[:3] == [1, 2, None]
    assert shared('return d:get("busy")')[0] is None
    assert shared('d:set("n", 1) return d:count(req, "n", 2)')[:2] == [None, "the key holds something else"]


def test_delete_says_whether_the_key_was_there_and_nil_deletes(shared):
    assert shared('d:set("k", 1); return d:delete("k"), d:delete("k"), d:get("k")')[:3] == [True, False, None]
    assert shared('d:set("k", 1); d:set("k", nil); return d:get("k")')[0] is None


def test_a_key_with_a_ttl_tells_it_and_goes_when_it_is_over(shared):
    left, forever, absent = shared('d:set("k", 1, 0.15); d:set("e", 1); return d:ttl("k"), d:ttl("e"), d:ttl("none")')[:3]

    assert 0 < left <= 0.15 and forever == 0 and absent is None
    wait_until(lambda: shared('return d:get("k")')[0] is None)
    assert shared('return d:add("k", 2)')[0] is True


def test_keys_lists_them_up_to_a_bound_and_flush_deletes_all(shared):
    shared('for i = 1, 50 do d:set("k" .. i, i) end')

    assert sorted(shared("return d:keys()")[0]) == sorted(f"k{i}" for i in range(1, 51))
    assert len(shared("return d:keys(7)")[0]) == 7
    assert shared("d:flush(); return #d:keys()")[0] == 0


def test_a_full_dictionary_goes_on_to_work(shared):
    done = shared('local said; for i = 1, 2000 do local ok, why = d:set("k" .. i, ("x"):rep(1000)); said = said or why end; '
                  'return d:set("last", "kept") or d:get("last"), said')

    assert done[0] is not None or done[1] is not None
    assert shared('d:flush(); return d:set("k", "again"), d:get("k")')[:2] == [True, "again"]


def test_the_same_name_is_the_same_dictionary_and_another_size_is_an_error(moongate):
    gate = moongate("""
        local a, b = gate.shared("d", "64K"), gate.shared("d", "64K")
        local ok, why = pcall(gate.shared, "d", "128K")
        gate.route { "/", handler = function() a:set("k", "one"); return 200, { b:get("k"), ok, why } end }
    """)

    same, ok, why = json.loads(gate.get("/").body)

    assert (same, ok) == ("one", False)
    assert "another size" in why


def test_what_one_worker_writes_the_other_reads_and_no_increment_is_lost(moongate):
    gate = moongate("""
        local d = gate.shared("d", "256K")
        gate.use { init = function() d:incr("workers", 1, 0) end }
        gate.route { "/add", handler = function(req)
            for i = 1, 1000 do d:incr("n", 1, 0) end
            return 200, tostring(d:get("workers"))
        end }
        gate.route { "/sum", handler = function() return 200, tostring(d:get("n")) end }
    """, workers=2)
    replies, clients = [], [gate.raw() for _ in range(16)]

    def add(client):
        for _ in range(3):
            replies.append(client.get("/add").body)
    threads = [threading.Thread(target=add, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert replies == [b"2"] * 48
    assert {gate.get("/sum").body for _ in range(8)} == {b"48000"}


def test_no_swap_of_two_workers_is_lost(moongate):
    gate = moongate("""
        local d = gate.shared("d", "256K")
        gate.use { init = function() d:incr("workers", 1, 0) end }
        gate.route { "/add", handler = function(req)
            for i = 1, 1000 do
                repeat local n = d:get("n") until d:swap("n", n, (n or 0) + 1)
            end
            return 200, tostring(d:get("workers"))
        end }
        gate.route { "/sum", handler = function() return 200, tostring(d:get("n")) end }
    """, workers=2)
    clients = [gate.raw() for _ in range(16)]
    threads = [threading.Thread(target=client.get, args=("/add",)) for client in clients]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert gate.get("/sum").body == b"16000"

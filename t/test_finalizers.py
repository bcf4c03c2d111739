"""A finalizer (__gc) that raises an error hurts nobody: not the hook in which a collection happens to run, not the worker."""
import pytest

MAKERS = {
    "newproxy": "getmetatable(newproxy(true)).__gc = fail",
    "newproxy, set twice": "local meta = getmetatable(newproxy(true)) meta.__gc = print meta.__gc = fail",
    "newproxy, by its like": "local like = newproxy(true) getmetatable(like).__gc = fail newproxy(like)",
    "ffi.gc": 'ffi.gc(ffi.new "char[1]", fail)',
    "ffi.metatype": "made()",
    "debug.setmetatable": "debug.setmetatable(newproxy(), { __gc = fail })",
}
TOP = """local ffi = require "ffi"
    local ran = 0
    local function fail() ran = ran + 1 error("finalizer of " .. ran) end
    ffi.cdef "struct finalized { int n; };"
    local made = ffi.metatype("struct finalized", { __gc = fail })
"""


@pytest.mark.parametrize("maker", MAKERS)
def test_a_finalizer_that_raises_hurts_no_request_and_not_the_worker(moongate, maker):
    gate = moongate(TOP + f"""gate.route {{ "/", handler = function()
        for _ = 1, 50 do {MAKERS[maker]} end
        local texts = {{}}
        for i = 1, 20000 do texts[i] = ("x"):rep(100) .. i end -- collections run in compiled code
        return 200, tostring(#texts)
    end }}
    gate.route {{ "/ran", handler = function() collectgarbage() return 200, tostring(ran) end }}""")
    gate.expect_error("finalizer")
    pids = gate.worker_pids()

    assert {gate.get("/").body for _ in range(20)} == {b"20000"}

    assert int(gate.get("/ran").body) >= 950
    told = gate.wait_log("a finalizer .* failed, and others of its place may do so unseen: ")
    assert len(told) == 1 and "gateway.lua:" in told[0]
    assert gate.worker_pids() == pids


def test_a_finalizer_that_would_wait_is_told_so_and_the_hook_around_it_goes_on(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        getmetatable(newproxy(true)).__gc = function() gate.sleep(0.01) end
        collectgarbage()
        gate.sleep(0.01)
        return 200, "on\\n"
    end }""")
    gate.expect_error("finalizer")

    assert [gate.get("/").body for _ in range(3)] == [b"on\n"] * 3

    gate.wait_log("a finalizer .* failed")


def test_what_a_proxys_metatable_was_given_is_there(moongate):
    gate = moongate("""gate.route { "/", handler = function()
        local proxy = newproxy(true)
        local meta = getmetatable(proxy)
        meta.__index = function(_, key) return key .. "!" end
        meta.__tostring = function() return "a proxy" end
        local same = getmetatable(proxy) == meta and type(meta.__index) == "function"
        return 200, tostring(same) .. " " .. proxy.key .. " " .. tostring(proxy) .. " " .. tostring(getmetatable(newproxy()))
    end }""")

    assert gate.get("/").body == b"true key! a proxy nil"

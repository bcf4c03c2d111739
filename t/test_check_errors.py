"""What is wrong in a script is told before anything is bound: file and line, the wrong value, and what to do."""
import socket

import pytest

from moongate import free_port, run

UP = 'gate.upstream("app", { peers = { "127.0.0.1:1" } })\n'
ROUTE = 'gate.route { "/", handler = function() return 204 end }\n'

# name: the bad lines, which begin at line 3; what the message must hold: the line, the value, the remedy.
MISTAKES = {
    "a listen key with a typo": ('gate.listen { ":1", bakclog = 3 }', "3", "bakclog", 'did you mean "backlog"'),
    "an address that is none": ('gate.listen "nowhere"', "3", "nowhere", "address"),
    "no address": ("gate.listen {}", "3", "address", "is needed"),
    "a port too high": ('gate.listen "127.0.0.1:65536"', "3", "65536", "address"),
    "the same address twice": ('gate.listen "127.0.0.1:2"\ngate.listen "127.0.0.1:2"', "4", "127.0.0.1:2",
                               "take one of the two away"),
    "a network that is none": ('gate.listen { "127.0.0.1:2", trusted = { "10.0.0.0/33" } }', "3", "10.0.0.0/33", "network"),
    "a backlog that is a word": ('gate.listen { "127.0.0.1:2", backlog = "many" }', "3", '"many"', "whole number"),
    "a listen of a number": ("gate.listen(80)", "3", "80", "an address or a table"),
    "an unknown setting": ('gate.set { worker = 2 }', "3", '"worker"', 'did you mean "workers"'),
    "workers below one": ("gate.set { workers = 0 }", "3", "0", "from 1 to 64"),
    "workers that are a fraction": ("gate.set { workers = 1.5 }", "3", "1.5", "whole number"),
    "a size that is none": ('gate.set { max_head_size = "32X" }', "3", '"32X"', '"64K"'),
    "a head size too small": ("gate.set { max_head_size = 1 }", "3", "1", "from 256"),
    "a negative time": ("gate.set { idle_timeout = -1 }", "3", "-1", "seconds"),
    "a time that is not a number": ("gate.set { idle_timeout = 0 / 0 }", "3", "nan", "seconds"),
    "a log format that is none": ('gate.set { log_format = "xml" }', "3", '"xml"', '"json"'),
    "a log level that is none": ('gate.set { log_level = "loud" }', "3", '"loud"', '"warn"'),
    "too little memory": ('gate.set { memory_limit = "1M" }', "3", '"1M"', "8M or more"),
    "settings that are a string": ('gate.set "workers"', "3", '"workers"', "a table of settings"),
    "an upstream without a name": ("gate.upstream { peers = {} }", "3", "a table", "must be a string"),
    "an upstream's name with a blank": ('gate.upstream("a b", { peers = { "127.0.0.1:1" } })', "3", '"a b"', "without blanks"),
    "an upstream without peers": ('gate.upstream("a", {})', "3", "peers", "is needed"),
    "an upstream declared twice": (UP + UP.strip(), "4", '"app"', "choose another"),
    "a weight that is a word": ('gate.upstream("a", { peers = { "127.0.0.1:1", { "127.0.0.1:2", weight = "x" } } })', "3",
                                '"x"', "peer 2: weight must be a"),
    "a weight of nothing": ('gate.upstream("a", { peers = { { "127.0.0.1:2", weight = 0 } } })', "3", "0", "peer 1: weight"),
    "a peer without a port": ('gate.upstream("a", { peers = { "127.0.0.1" } })', "3", "127.0.0.1", "write one like"),
    "a peer's key with a typo": ('gate.upstream("a", { peers = { { "127.0.0.1:2", wieght = 1 } } })', "3", "wieght",
                                 'did you mean "weight"'),
    "a peer that is a number": ('gate.upstream("a", { peers = { 8080 } })', "3", "8080", "peer 1: must be an address"),
    "peers that have names": ('gate.upstream("a", { peers = { one = "127.0.0.1:2" } })', "3", "one", "must be a list"),
    "a balance that is none": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, balance = "fastest" })', "3", '"fastest"',
                               "known are: canary"),
    "a balancer with a typo": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, balance = "rendesvous" })', "3", '"rendesvous"',
                               'did you mean "rendezvous"?'),
    "a balancer that needs an option": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, balance = "zone" })', "3",
                                        "balance.zone", "zone is needed"),
    "a balancer's hook with a typo": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, balance = { balance = print, '
                                      'respons = print } })', "3", '"respons"', 'did you mean "response"?'),
    "a table that balances nothing": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, balance = { log = print } })', "3",
                                      "a table", "without balance"),
    "an inner balancer with hooks": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, '
                                     'balance = require "balance.tiers" { balance = "sticky" } })', "3", '"sticky"',
                                     "let that one stand outside"),
    "a table size that is no prime": ('require "balance.maglev" { size = 100 }', "3", "100", "must be a prime"),
    "a retry on what is none": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, retry = { on = { "conect" } } })', "3",
                                '"conect"', 'did you mean "connect"'),
    "too many attempts": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, retry = { attempts = 99 } })', "3", "99", "1 to 16"),
    "a backoff above its bound": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, retry = { backoff = 2, max_backoff = 1 } })', "3",
        "max_backoff (1 s)", "is less than backoff (2 s)"),
    "a Retry-After of words": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, retry = { retry_after = "1s" } })', "3",
        '"1s"', "0 or more, or false"),
    "a body for retries without a size": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, retry = { body = "lots" } })', "3",
        '"lots"', "a size like"),
    "a health check of nothing": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = {} })', "3",
        "health", 'give it path = "/healthz", tcp = true'),
    "a health check of two kinds": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = { path = "/", tcp = true } })', "3",
        "path and tcp", "of one kind"),
    "a health check's key with a typo": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = { path = "/", intervall = 2 } })', "3",
        "intervall", 'did you mean "interval"'),
    "a health check without a slash": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = { path = "healthz" } })', "3",
        '"healthz"', 'a path like "/healthz"'),
    "a method of a check over tcp": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = { tcp = true, method = "GET" } })', "3",
        "method", "is not for checks by tcp"),
    "a health check that expects no status": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = { path = "/", expect = { status = "ok" } } })', "3",
        '"ok"', 'a list like { 200, "3xx" }'),
    "a health check that expects a broken pattern": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = { path = "/", expect = { body = "%" } } })', "3",
        '"%"', "a Lua pattern"),
    "a check by gRPC over HTTP/1.1": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = { grpc = true } })', "3",
        "grpc", 'give the upstream protocol = "h2"'),
    "a check over tcp behind PROXY and TLS": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, health = { tcp = true }, tls = { verify = false }, proxy_protocol = "v1" })', "3",
        "tcp", "check by path, or by a function"),
    "an ejection's key with a typo": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, eject = { consecutiv = 2 } })', "3",
        "consecutiv", 'did you mean "consecutive"'),
    "a share above one": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, eject = { share = 2 } })', "3",
        "2", "a number from 0 to 1"),
    "a latency of less than the others'": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, eject = { latency = 0.5 } })', "3",
        "0.5", "a number above 1"),
    "ejections whose bound is less than the first": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, eject = { time = 10, time_most = 5 } })', "3",
        "time_most (5 s)", "is less than time (10 s)"),
    "a breaker that is a number": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, breaker = 5 })', "3",
        "5", "true or a table of options"),
    "a breaker without tries": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, breaker = { tries = 0 } })', "3",
        "0", "1 or more"),
    "a panic above one": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, panic = 50 })', "3",
        "50", "a number from 0 to 1"),
    "error statuses that are words": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, error_statuses = { "5xx" } })', "3",
        "error_statuses", "at most 16 statuses from 100 to 599"),
    "a protocol that nobody speaks": ('gate.upstream("a", { peers = { "127.0.0.1:2" }, protocol = "h3" })', "3", '"h3"',
                                      '"http/1.1", "h2" or "alpn"'),
    "a route without a pattern": ("gate.route { handler = print }", "3", "pattern", "is needed"),
    "a pattern without a path": ('gate.route { "hello", handler = print }', "3", '"hello"', "path"),
    "a star in the middle": ('gate.route { "/a/*/b", handler = print }', "3", '"/a/*/b"', "*"),
    "a parameter without a name": ('gate.route { "/a/:", handler = print }', "3", '"/a/:"', ":"),
    "the same route twice": ('gate.route { "/a", handler = print }\ngate.route { "/a", handler = print }', "4", '"/a"',
                             "gateway.lua:3"),
    "an on_fail that is none": ('gate.use { access = print, on_fail = "shut" }', "3", '"shut"', 'on_fail must be "open" or "closed"'),
    "no trips at all": ("gate.set { max_trips = 0 }", "3", "0", "from 1 to 64"),
    "a route that ends nowhere": ('gate.route { "/a" }', "3", '"/a"', "give it an upstream or a handler"),
    "a route that ends twice": (UP + 'gate.route { "/a", upstream = "app", handler = print }', "4", '"/a"', "one of them"),
    "a route to an unknown upstream": (UP + 'gate.route { "/a", upstream = "appp" }', "4", '"appp"', 'did you mean "app"'),
    "a mirror to an unknown upstream": (UP + 'gate.route { "/a", upstream = "app", mirror = { upstream = "shadw" } }', "4", '"shadw"', "there is no upstream"),
    "a mirror of more than all": (UP + 'gate.route { "/a", upstream = "app", mirror = { upstream = "app", share = 2 } }', "4", "2", "a number from 0 to 1"),
    "a mirror to nowhere": (UP + 'gate.route { "/a", upstream = "app", mirror = { share = 0.1 } }', "4", "upstream", "is needed"),
    "a handler that is a string": ('gate.route { "/a", handler = "hello" }', "3", '"hello"', "a function"),
    "a method in lower case": ('gate.route { "/a", methods = { "get" }, handler = print }', "3", '"get"', '"GET"'),
    "a method that is none": ('gate.route { "/a", methods = { "GE(T" }, handler = print }', "3", '"GE(T"', "method"),
    "a route's key with a typo": ('gate.route { "/a", handler = print, polices = {} }', "3", '"polices"', '"policies"'),
    "a policy with a typo": ('gate.route { "/a", handler = print, policies = { { acess = print } } }', "3", '"acess"',
                             'did you mean "access"'),
    "a policy that is a string": ('gate.route { "/a", handler = print, policies = { "auth" } }', "3", '"auth"',
                                  "a table of hooks, or a function"),
    "a policy without a hook": ('gate.route { "/a", handler = print, policies = { { name = "x" } } }', "3", "policy 1",
                                "a function under one of"),
    "a hook that is no function": ('gate.use { access = true }', "3", "true", "access must be a function"),
    "a request hook of a route": ('gate.route { "/a", handler = print, policies = { { request = print } } }', "3", "request",
                                  "only in gate.use"),
    "a client_hello hook of a route": ('gate.route { "/a", handler = print, policies = { { client_hello = print } } }', "3",
                                       "client_hello", "only in gate.use"),
    "a proxy_protocol that is a number": ('gate.listen { ":1", proxy_protocol = 2 }', "3", "proxy_protocol", "true or false"),
    "tcp to an unknown upstream": (UP + 'gate.listen { ":1", tcp = "appp" }', "4", '"appp"', 'did you mean "app"'),
    "tcp to a number": ('gate.listen { ":1", tcp = 5432 }', "3", "5432", "an upstream, its name"),
    "tcp to nobody": ('gate.listen { ":1", tcp = {} }', "3", "tcp", "a table from host names to upstreams"),
    "tcp by a name that is none": (UP + 'gate.listen { ":1", tcp = { ["a b"] = "app" } }', "4", '"a b"', "is not a host name"),
    "tcp by a name to an unknown upstream": (UP + 'gate.listen { ":1", tcp = { ["a.b"] = "appp" } }', "4", '"appp"',
                                             'did you mean "app"'),
    "tcp to an upstream of HTTP/2": ('gate.upstream("h", { peers = { "127.0.0.1:1" }, protocol = "h2" })\n'
                                     'gate.listen { ":1", tcp = "h" }', "4", '"h"', "speaks HTTP/2"),
    "tcp chosen in TLS": ('gate.listen { ":1", tls = {}, tcp = print }', "3", "tls", "name one upstream"),
    "sni without tcp": ('gate.listen { ":1", sni = true }', "3", "sni", "for listeners with tcp"),
    "a route with tcp": (UP + 'gate.route { "/a", tcp = "app" }', "4", '"/a"', "gate.listen"),
    "an upstream's proxy_protocol that is none": ('gate.upstream("a", { peers = { "127.0.0.1:1" }, proxy_protocol = "v3" })', "3",
                                                  '"v3"', '"v1" or "v2"'),
    "a proxy_protocol on shared connections": ('gate.upstream("a", { peers = { "127.0.0.1:1" }, proxy_protocol = "v2", '
                                               'protocol = "h2" })', "3", "proxy_protocol", "can't be kept"),
    "no policy at all": ("gate.use()", "3", "gate.use", "a policy is needed"),
    "a timer without a function": ("gate.every(1)", "3", "nothing", "a function is needed"),
    "a timer that never rests": ("gate.every(0, print)", "3", "0", "above 0"),
    "a wait at the top level": ("gate.sleep(1)", "3", "wait", "hooks, handlers and timers"),
    "a dictionary of no size": ('gate.shared("d", "lots")', "3", "size", '"64K"'),
    "a call of nothing": ("gate.rote {}", "3", "rote", "nil"),
    "an error": ('error("on purpose")', "3", "on purpose", "stack traceback"),
    "a syntax error": ("gate.route { methods = = 1 }", "3", "'='", "unexpected symbol"),
    "a module that is not there": ('require "no.such"', "3", "no.such", "not found"),
}


def written(tmp_path, lines, port):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\ngate.listen "127.0.0.1:{port}"\n{lines}\n{ROUTE}')
    return script.name


@pytest.mark.parametrize("name", MISTAKES, ids=[name.replace(" ", "-") for name in MISTAKES])
def test_a_mistake_is_told_with_its_line_its_value_and_a_remedy_and_nothing_is_bound(tmp_path, name):
    lines, line, value, remedy = MISTAKES[name]
    port = free_port()
    script = written(tmp_path, lines, port)

    checked, served = run("check", script, cwd=tmp_path), run(script, "--workers", "1", cwd=tmp_path)

    for done in (checked, served):
        assert done.returncode == 1
        assert f"gateway.lua:{line}:" in done.stderr
        assert value in done.stderr
        assert remedy in done.stderr
    assert checked.stdout == ""
    assert "ready:" not in served.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.parametrize("text, remedy", [
    ("", 'begin with gate.listen "127.0.0.1:8080"'),
    ('gate.listen "127.0.0.1:1"', "add gate.route"),
], ids=["no-listen", "no-route"])
def test_a_script_that_says_too_little_is_told_what_to_begin_with(tmp_path, text, remedy):
    (tmp_path / "gateway.lua").write_text(f'local gate = require "moongate"\n{text}\n')

    done = run("check", "gateway.lua", cwd=tmp_path)

    assert done.returncode == 1
    assert "gateway.lua" in done.stderr and remedy in done.stderr


def test_a_script_that_is_not_there_is_told_of_by_name(tmp_path):
    done = run("check", "nothing.lua", cwd=tmp_path)

    assert done.returncode == 1
    assert "nothing.lua" in done.stderr

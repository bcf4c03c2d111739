"""auth.basic and auth.key; gate.crypto.password, with the hashes that real tools make."""
import base64
import concurrent.futures
import ctypes
import hashlib
import subprocess
import time

import pytest

import moongate as moongate_module
from moongate import ROOT

HERE = f'package.path = "{ROOT}/scripts/?.lua;" .. package.path; '


def command(*words, stdin=None):
    return subprocess.run(words, input=stdin, capture_output=True, text=True, check=True).stdout.strip()


def htpasswd(password, *options):
    return command("htpasswd", "-nbB", *options, "x", password).partition(":")[2]


def sha_crypt(password, method="-6"):
    return command("openssl", "passwd", method, password)


def by_crypt(password, setting):
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    return library.crypt(password.encode(), setting.encode()).decode()


@pytest.fixture
def policy(moongate, origin):
    """policy(text): a gateway whose one route has this policy."""
    def start(text, before="", **options):
        start.origin = origin.answers(200, b"ok")
        return moongate(f"""{HERE} {before}
            gate.route {{ "/*", policies = {{ {text} }},
                upstream = gate.upstream("app", {{ peers = {{ "{start.origin}" }} }}) }}
        """, **options)
    return start


def basic(user, password):
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# ---- auth.basic

def test_auth_basic_lets_known_users_pass_and_names_them_to_the_origin(policy):
    gate = policy(f'require "auth.basic" {{ users = {{ alice = "{sha_crypt("open sesame")}" }}, realm = "garden" }}')

    refused = [gate.get("/"), gate.get("/", basic("alice", "wrong")), gate.get("/", basic("bob", "")),
               gate.get("/", basic("bob", "open sesame")), gate.get("/", basic("alice", "")),
               gate.get("/", "Authorization: Basic !!"), gate.get("/", "Authorization: Bearer x")]
    passed = gate.get("/", basic("alice", "open sesame"), "X-User: root")

    assert [answer.status for answer in refused] == [401] * 7
    assert refused[0]["WWW-Authenticate"] == 'Basic realm="garden", charset="UTF-8"'
    assert passed.status == 200 and policy.origin.seen == 1
    assert policy.origin.last.fields.all("x-user") == ["alice"]


HASHES = {
    "htpasswd -B": lambda: htpasswd("pass"), "htpasswd -B -C 7": lambda: htpasswd("pass", "-C", "7"),
    "openssl passwd -5": lambda: sha_crypt("pass", "-5"), "openssl passwd -6": lambda: sha_crypt("pass"),
    "yescrypt": lambda: by_crypt("pass", "$y$j75$saltsaltsalt$"), "scrypt": lambda: by_crypt("pass", "$7$B6..../....saltsalt$"),
    "few rounds": lambda: by_crypt("pass", "$6$rounds=1000$salt$"),
}


def test_hashes_of_the_usual_tools_are_known(policy, tmp_path):
    made = {name.replace(" ", "_"): make() for name, make in HASHES.items()}
    file = tmp_path / "users"
    file.write_text("# who may in\n\n" + "".join(f"{name}:{hash}\n" for name, hash in made.items()))
    gate = policy(f'require "auth.basic" {{ file = "{file}" }}')

    assert all(made.values())
    for name in made:
        assert (gate.get("/", basic(name, "pass")).status, gate.get("/", basic(name, "fail")).status) == (200, 401), name


def test_curl_is_asked_and_answers(policy):
    gate = policy(f'require "auth.basic" {{ users = {{ alice = "{htpasswd("open sesame")}" }} }}')
    url = f"http://127.0.0.1:{gate.port}/"

    def curl(*options):
        return command("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options, url)

    assert (curl(), curl("--anyauth", "-u", "alice:open sesame"), curl("-u", "alice:x")) == ("401", "200", "401")


def test_passwords_may_have_any_letters(policy):
    gate = policy(f'require "auth.basic" {{ users = {{ zoe = "{sha_crypt("grün: schön")}" }} }}')

    assert gate.get("/", basic("zoe", "grün: schön")).status == 200
    assert gate.get("/", basic("zoe", "grün: schön\0")).status == 401


def test_a_password_is_checked_once_and_known_again(policy):
    slow = htpasswd("pass", "-C", "12")           # a quarter of a second
    gate = policy(f'require "auth.basic" {{ users = {{ alice = "{slow}" }} }}')
    began = time.monotonic()
    assert gate.get("/", basic("alice", "pass")).status == 200 and gate.get("/", basic("alice", "fail")).status == 401
    took = time.monotonic() - began

    began = time.monotonic()
    statuses = [gate.get("/", basic("alice", word)).status for word in ["pass", "fail"] * 20]

    assert statuses == [200, 401] * 20 and time.monotonic() - began < 2 * took


def test_others_are_served_while_a_password_is_checked_and_many_alike_are_checked_once(policy):
    slow = htpasswd("pass", "-C", "13")
    gate = policy(f'require "auth.basic" {{ users = {{ alice = "{slow}" }} }}',
                  'gate.route { "/free", handler = function() return 200 end }')
    began = time.monotonic()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(gate.get, "/", basic("alice", "pass")) for _ in range(8)]
        free = []
        while not all(each.done() for each in asked):
            at = time.monotonic()
            assert gate.get("/free").status == 200
            free.append(time.monotonic() - at)
    took = time.monotonic() - began

    assert [each.result().status for each in asked] == [200] * 8
    assert len(free) > 3 and sorted(free)[len(free) // 2] < took / 4
    assert "held the worker" not in gate.log()


def test_a_run_is_not_charged_for_the_passwords_that_are_checked_beside_it(policy):
    slow = htpasswd("pass", "-C", "14")
    gate = policy(f"""function(req)
        local C, n = require "moongate.seam", 0
        for _ = 1, 2 do gate.spawn(function() gate.crypto.password("pass", "{slow}") end) end
        gate.sleep(0.05)
        local ends = C.mg_now_exactly() + 0.15
        while C.mg_now_exactly() < ends do n = n + 1 end
        return 200
    end""", set="cpu_budget = 0.2")

    assert gate.get("/").status == 200


def test_who_leaves_while_the_password_is_checked_does_no_harm(policy):
    slow = htpasswd("pass", "-C", "11")
    gate = policy(f'function(req) local ok = gate.crypto.password("pass", "{slow}") return ok and 200 or 401 end')
    leaving = [gate.raw() for _ in range(3)]
    for client in leaving:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    gate.wait_total("exchanges", 3)

    for client in leaving:
        client.close()
    gate.wait_total("exchanges", 0)

    assert gate.get("/").status == 200


def test_too_many_that_wait_are_told_to_come_again(policy):
    slow = htpasswd("pass", "-C", "10")
    gate = policy(f"""function(req)
        local function ask() return select(2, gate.crypto.password("pass", "{slow}")) or "checked" end
        local asked = {{}}
        for i = 1, 257 do asked[i] = gate.spawn(ask) end
        return 200, asked[257]:wait()
    end""")

    assert gate.get("/").body == b"too many passwords wait to be checked"


def test_auth_basic_may_ask_a_function_that_waits(policy):
    gate = policy("""require "auth.basic" { remember = 0, users = function(name, password)
        gate.sleep(0.01)
        return name == "eve" and password == "a:b"
    end }""")

    assert [gate.get("/", basic("eve", word)).status for word in ("a:b", "a", "a:b")] == [200, 401, 200]


# ---- auth.key

def test_auth_key_takes_a_known_key_and_keeps_it_from_the_origin(policy):
    digest = hashlib.sha256(b"hidden").hexdigest()
    gate = policy(f'require "auth.key" {{ keys = {{ s3cret = "alice", ["sha256:{digest.upper()}"] = "bob" }} }}')

    refused = [gate.get("/"), gate.get("/", "X-Api-Key: s3cre"), gate.get("/?x-api-key=s3cret"),
               gate.get("/", f"X-Api-Key: sha256:{digest}"), gate.get("/", f"X-Api-Key: {digest}")]
    passed = [gate.get("/", f"X-Api-Key: {key}", "X-User: root").status for key in ("s3cret", "hidden")]

    assert [answer.status for answer in refused] == [401] * 5 and passed == [200, 200]
    assert [seen.fields.all("x-user") for seen in policy.origin.requests] == [["alice"], ["bob"]]
    assert all("x-api-key" not in seen.fields for seen in policy.origin.requests)


def test_auth_key_may_stand_in_the_query(policy):
    gate = policy('require "auth.key" { keys = { s3cret = "alice" }, arg = "key" }')

    assert gate.get("/?key=wrong").status == 401
    assert gate.get("/?key=s3cret&key=s3cret").status == 401
    assert gate.get("/", "X-Api-Key: s3cret").status == 401
    assert gate.get("/?key=s3cret").status == 200


@pytest.mark.parametrize("text, says", [
    ('"auth.basic" { users = { alice = "open sesame" } }', "alice has no hash that is known; make one by mkpasswd"),
    ('"auth.basic" { users = { alice = "$apr1$abc$lqHRNBkbAvkNhlOq4rjFd0" } }', "alice has no hash that is known"),
    ('"auth.basic" { users = { alice = "$1$abc$BXBqpb9BZcZhXLgbee.0s/" } }', "alice has no hash that is known"),
    ('"auth.basic" { file = "/no/such/file" }', "No such file"),
    ('"auth.basic" {}', "auth.basic: it takes either users or a file"),
    ('"auth.key" { keys = { ["sha256:abc"] = "x" } }', "there must be 64 hexadecimal digits"),
])
def test_options_that_can_not_be_meant_refuse_the_script(tmp_path, text, says):
    script = tmp_path / "gateway.lua"
    script.write_text(f'{HERE}local gate = require "moongate"\ngate.listen ":1"\ngate.use(require {text})\n'
                      'gate.route { "/", handler = print }')

    done = moongate_module.run("check", script.name, cwd=tmp_path)

    assert done.returncode == 1 and "gateway.lua:3: " in done.stderr and says in done.stderr, done.stderr

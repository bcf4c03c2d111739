"""All calls between the files of core/ point down, and each library has one door."""
import functools
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Who may use what: names of library functions, and the only objects that may call them.
DOORS = [
    (r"luaL?_\w+", {"script/vm", "script/enter", "script/load", "script/budget"}),
    (r"ev_io_\w+", {"base/folder", "net/transport", "net/dns", "server/listener", "server/worker", "server/children",
                    "server/control", "server/upgrade"}),
    (r"ares_\w+", {"net/dns", "net/resolve", "net/srv"}),
    (r"ns_\w+", {"net/srv"}),
    (r"inotify_\w+", {"base/folder"}),
    (r"http_parser_\w+", {"http/head", "http/h1", "http/h1_write"}),
    (r"(deflate|inflate)\w*|Brotli\w+|ZSTD_\w+", {"script/coding"}),
    (r"XXH\w+", {"script/hash"}),
    (r"json_\w+", {"server/control", "server/status_report", "server/ask"}),
    (r"SSL_\w+", {"net/tls_certificate", "net/tls_tickets", "net/tls_settings", "net/tls_session", "net/tls"}),
    (r"crypt\w*", {"script/password"}),
    (r"pthread_create", {"script/password"}),
    (r"RAND_\w+", {"base/random"}),
    (r"EVP_Digest(Sign|Verify)\w*|EVP_PKEY_from\w+|ECDSA_\w+", {"script/key"}),
    (r"nghttp2_\w+", {"http/h2_head", "http/h2_stream", "http/h2_send", "http/h2_write", "http/h2_read", "http/h2"}),
    (r"fork|execv\w*|posix_spawnp?", {"server/children", "server/upgrade", "server/launch"}),
]
BANNED = {"strcpy", "strcat", "sprintf", "vsprintf", "strtok", "atoi", "atol", "strtol", "strtoul", "strtoll",
          "strtoull", "alloca", "gets", "rand"}


@pytest.fixture(scope="module")
def objects():
    """The object files in the order of SRC, built."""
    mode = ["SANITIZE=1"] if os.environ.get("SANITIZE") else []
    listed = subprocess.run(["make", "-s", "-C", ROOT, *mode, "print-objects"], capture_output=True, text=True,
                            check=True)
    paths = [ROOT / line for line in listed.stdout.split()]
    assert paths and all(path.exists() for path in paths), f"not built: {[p for p in paths if not p.exists()]}"
    return paths


def name(path):
    return f"{path.parent.name}/{path.stem}"


@functools.lru_cache(None)
def symbols(path, *flags):
    out = subprocess.run(["nm", *flags, path], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in out.splitlines()}


def test_every_call_points_down(objects):
    home = {s: i for i, o in enumerate(objects) for s in symbols(o, "-g", "--defined-only")}

    up = [f"{name(o)} -> {name(objects[home[s]])}: {s}" for i, o in enumerate(objects)
          for s in symbols(o, "-u") if home.get(s, -1) > i]

    assert not up, "\n".join(up)


@pytest.mark.parametrize("pattern, allowed", DOORS, ids=[pattern for pattern, _ in DOORS])
def test_each_library_has_one_door(objects, pattern, allowed):
    users = {f"{name(o)}: {s}" for o in objects for s in symbols(o, "-u")
             if re.fullmatch(pattern, s) and name(o) not in allowed}

    assert not users, "\n".join(sorted(users))


def test_the_seam_never_runs_the_engine(objects):
    seam = next(o for o in objects if name(o) == "script/seam")

    assert "mg_exchange_run" not in symbols(seam, "-u")


def test_nobody_calls_a_banned_function(objects):
    users = [f"{name(o)}: {s}" for o in objects for s in symbols(o, "-u")
             if re.sub(r"^__(isoc\d+_)?|_chk$", "", s) in BANNED]

    assert not users, "\n".join(users)


def test_public_names_carry_the_prefix(objects):
    strange = [f"{name(o)}: {s}" for o in objects for s in symbols(o, "-g", "--defined-only")
               if s != "main" and not s.startswith(("mg_", "luaJIT_BC_", "__asan", "__odr_asan"))]

    assert not strange, "\n".join(strange)


def test_every_header_stands_alone():
    for header in sorted((ROOT / "include").glob("*.h")):
        built = subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-iquote", ROOT / "include", "-fsyntax-only",
                                "-x", "c", header], capture_output=True, text=True)
        assert built.returncode == 0, built.stderr

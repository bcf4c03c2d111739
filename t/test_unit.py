"""Runs t/unit: C files against the library of all objects, Lua files under plain luajit.

A unit test is a program: it prints `ok <sentence>` for each thing it has shown,
and ends with status 0, or says what was wrong and ends with another."""
import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "t" / "unit"
SANITIZE = bool(os.environ.get("SANITIZE"))
LIBRARY = ROOT / "build" / ("sanitize" if SANITIZE else ".") / "libmoongate.a"
# The library in Lua from its files: only the binary has it inside.
# malloc's caches of a thread count as in use, and fill up for a long time; without them what is kept is counted exactly.
WITH_LUA = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
            "LUA_PATH": f"{ROOT}/lua/?.lua;{ROOT}/lua/?/init.lua;{ROOT}/scripts/?.lua;{UNIT}/?.lua;;"}
PACKAGES = ["luajit", "openssl", "libcares", "libnghttp2", "zlib", "libbrotlienc", "libbrotlidec", "libzstd",
            "libxxhash", "jansson"]


def shows(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    shown = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    assert shown, f"showed nothing\n{done.stdout}{done.stderr}"


def build(source, program):
    """Builds a unit test against the whole library: Lua's FFI finds functions by name, so all must be there."""
    flags = shlex.split(subprocess.run(["pkg-config", "--cflags", "--libs", *PACKAGES], capture_output=True, text=True,
                                       check=True).stdout)
    sanitize = ["-fsanitize=address,undefined"] if SANITIZE else []
    built = subprocess.run(["gcc", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", *sanitize,
                            "-iquote", ROOT / "include", "-iquote", UNIT, "-o", program, source,
                            "-Wl,--export-dynamic,--whole-archive", LIBRARY, "-Wl,--no-whole-archive", *flags,
                            "-lev", "-lhttp_parser", "-lcrypt", "-lresolv", "-lm", "-lpthread"],
                           capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.parametrize("source", sorted(UNIT.glob("*.c")), ids=lambda path: path.stem)
def test_unit(source, tmp_path):
    shows([build(source, tmp_path / source.stem)], cwd=tmp_path, env=WITH_LUA)


@pytest.mark.parametrize("script", sorted(UNIT.glob("*.lua")), ids=lambda path: path.stem)
def test_unit_lua(script):
    shows(["luajit", script], cwd=ROOT, env=WITH_LUA)

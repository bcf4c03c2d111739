"""node.py - runs a server and a client of npm's, in one process of Node, with a proxy between them."""
import json
import os
import subprocess

import pytest

from moongate import ROOT

MODULES = ROOT / "build" / "node" / "node_modules"


def needs(package):
    return pytest.mark.skipif(not (MODULES / package).exists(), reason=f"{package} is not installed: make test does that")


def play(script, start, **environment):
    """The script of t/node says where its server listens; start(port) makes the gateway in front of it; what the
    script's client then saw of it is returned."""
    process = subprocess.Popen(["node", ROOT / "t" / "node" / script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, "NODE_PATH": str(MODULES), **environment}, text=True)
    try:
        gate = start(json.loads(process.stdout.readline())["port"])
        told, _ = process.communicate(f"{gate.port}\n", timeout=60)
    finally:
        process.kill()
        process.wait()
    return json.loads(told)

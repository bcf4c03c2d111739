"""conftest.py - the fixtures: a proxy, origins behind it, and the ending that all tests share."""
import os
from pathlib import Path

import pytest

import certificates
import h2origin
import moongate as moongate_module
import origin as origin_module

os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0")
os.environ.setdefault("LSAN_OPTIONS", f"print_suppressions=0:suppressions={Path(__file__).parent}/leaks.supp")
os.environ.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "report_" + call.when, outcome.get_result())


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Who has signed the certificates of the tests."""
    return certificates.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def site(authority):
    """The certificate of example.test, of its subdomains and of 127.0.0.1."""
    return authority.issue("example.test", "*.example.test", "IP:127.0.0.1")


@pytest.fixture
def origin(tmp_path):
    made = origin_module.Origins(tmp_path)
    yield made
    made.close()
    made.check()


@pytest.fixture
def h2_origin():
    """h2_origin(play, ...): an origin that speaks HTTP/2."""
    made = []

    def start(*args, **options):
        made.append(h2origin.H2Origin(*args, **options))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def moongate(tmp_path, origin, request):
    """moongate(script, **options) starts a proxy; the script's own lines begin at line 2 of gateway.lua."""
    running = []

    def start(script, **options):
        directory = tmp_path
        if running:
            directory = tmp_path / str(len(running))
            directory.mkdir()
        running.append(moongate_module.Moongate(directory, script, **options))
        return running[-1]

    yield start
    for gate in running:
        gate.close_clients()
    origin.close()
    problems = []
    for gate in running:
        try:
            gate.finish()
        except Exception as problem:        # each one is brought to its end before any is told
            problems.append(str(problem) or repr(problem))
        finally:
            gate.kill()
            report = getattr(request.node, "report_call", None)
            if report is not None and report.failed:
                print(f"--- {gate.script}\n{gate.script.read_text()}\n--- log\n{gate.log()}")
    assert not problems, "\n".join(problems)


@pytest.fixture
def proxy(moongate, origin):
    """proxy(origin, **options): a gateway that sends everything to this one origin."""
    def start(server, upstream="", route="", before="", **options):
        return moongate(f"""{before}
            gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ "{server}" }}, {upstream} }}), {route} }}
        """, **options)
    return start

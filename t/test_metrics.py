"""What the gateway counts: exact over all workers, kept over reloads and deaths, and readable to those who scrape."""
import math
import os
import re
import signal
import subprocess
import threading
import urllib.parse

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from moongate import run, wait_until
from test_reload import reload

METRICS = 'gate.route { "/metrics", handler = require "metrics.prometheus" {} }\n'


def scrape(gate, open_format=False):
    """All samples: (name, labels) -> value; exemplars under the same keys."""
    accept = "accept: application/openmetrics-text; version=1.0.0; charset=utf-8, text/plain;q=0.5"
    answer = gate.get("/metrics", *([accept] if open_format else []))
    assert answer.status == 200
    families = (read_openmetrics if open_format else read_prometheus)(answer.body.decode())
    samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"{key} stands twice"
            samples[key] = sample
    return samples


def value(samples, name, **labels):
    return samples[name, tuple(sorted(labels.items()))].value


def wait_value(gate, expected, name, **labels):
    """A request counts when it has ended, which its client may see a moment earlier."""
    wait_until(lambda: value(scrape(gate), name, **labels) == expected)


def in_threads(gate, count, targets):
    def ask():
        for target in targets:
            gate.get(target)
    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_requests_are_counted_to_the_last_one_over_all_workers(moongate, origin):
    app = origin.answers(200, b"0123456789")
    gate = moongate(f"""local app = gate.upstream("app", {{ peers = {{ "{app}" }} }})
        gate.route {{ "/app", name = "app", upstream = app }}
        gate.route {{ "/none", handler = function() return 404, "no\\n" end }}
        gate.route {{ "/throws", handler = function() error "x" end }}
        """ + METRICS, workers=3)
    gate.expect_error("throws|handler")

    in_threads(gate, 8, ["/app"] * 50 + ["/none"] * 7 + ["/throws"] * 3)

    for route, status, count in (("app", "2xx", 400), ("/none", "4xx", 56), ("/throws", "5xx", 24)):
        wait_value(gate, count, "moongate_requests_total", route=route, status=status)
    got = scrape(gate)
    assert value(got, "moongate_failures_total", reason="a hook failed") == 24
    assert value(got, "moongate_response_bytes_total", route="app") == 4000
    assert value(got, "moongate_upstream_tries_total", upstream="app", outcome="answered") == 400
    assert value(got, "moongate_peer_tries_total", upstream="app", peer=str(app)) == 400
    for name, labels in (("moongate_request_duration_seconds", {"route": "app"}),
                         ("moongate_upstream_latency_seconds", {"upstream": "app"})):
        buckets = [(float(dict(key[1])["le"]), sample.value) for key, sample in got.items()
                   if key[0] == name + "_bucket" and labels.items() <= dict(key[1]).items()]
        buckets.sort()
        assert buckets[-1] == (math.inf, 400)
        assert all(a[1] <= b[1] for a, b in zip(buckets, buckets[1:]))
        assert value(got, name + "_count", **labels) == 400
        assert value(got, name + "_sum", **labels) > 0


def test_counts_stand_over_reloads_and_the_death_of_a_worker(moongate, tmp_path):
    script = """local own = gate.counter("orders", { help = "Orders.", labels = { "tenant" } })
        local open = gate.gauge "open"
        gate.route { "/", name = "root", handler = function() own:inc "acme" open:add(1) return 200 end }
        """ + METRICS
    gate = moongate(script, workers=2)
    in_threads(gate, 4, ["/"] * 25)
    wait_value(gate, 100, "moongate_requests_total", route="root", status="2xx")

    reload(gate, script + "-- another\n")
    os.kill(gate.worker_pids()[0], signal.SIGKILL)
    gate.expect_error("died")
    gate.wait_log("died")
    wait_until(lambda: len(gate.worker_pids()) == 2)
    in_threads(gate, 4, ["/"] * 25)

    wait_value(gate, 200, "moongate_requests_total", route="root", status="2xx")
    got = scrape(gate)
    assert value(got, "orders_total", tenant="acme") == 200
    assert value(got, "open") == 200
    assert value(got, "moongate_generation") == 2


def test_open_connections_of_a_worker_that_died_are_not_counted(moongate):
    gate = moongate(METRICS, workers=1)
    held = [gate.raw() for _ in range(3)]
    for client in held:
        assert client.get("/metrics").status == 200
    assert sum(s.value for k, s in scrape(gate).items() if k[0] == "moongate_connections_open") == 4

    os.kill(gate.worker_pids()[0], signal.SIGKILL)
    gate.expect_error("died")
    gate.wait_log("died")

    wait_until(lambda: sum(s.value for k, s in scrape(gate).items() if k[0] == "moongate_connections_open") == 1)


def test_a_bucket_names_a_request_that_lies_in_it_and_its_trace_if_it_has_one(moongate):
    gate = moongate("""gate.route { "/slow", handler = function() gate.sleep(0.03) return 200 end }
        gate.route { "/traced", handler = function(req) req.trace_id = req.args.id return 200 end }
        """ + METRICS)
    answer = gate.get("/slow")
    gate.get("/traced?id=0AF7651916cd43dd8448eb211c80319c")

    got = scrape(gate, open_format=True)

    def exemplar(route):
        return [s.exemplar for k, s in got.items() if k[0] == "moongate_request_duration_seconds_bucket"
                and dict(k[1])["route"] == route and s.exemplar]
    slow, = exemplar("/slow")
    assert answer.status == 200 and 0.02 < slow.value < 5 and re.fullmatch("[0-9a-f]{16}", slow.labels["request_id"])
    assert gate.access_log(1)[0]["id"] == slow.labels["request_id"]
    traced, = exemplar("/traced")
    assert traced.labels == {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert not any(s.exemplar for s in scrape(gate).values())


@pytest.mark.parametrize("accept, expected", [
    (None, "text/plain; version=0.0.4; charset=utf-8"),
    ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
    ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
    ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ("application/openmetrics-text;q=0,text/plain", "text/plain; version=0.0.4; charset=utf-8"),
])
def test_who_asks_for_openmetrics_gets_it_and_all_others_the_text_of_prometheus(moongate, accept, expected):
    gate = moongate(METRICS)

    answer = gate.get("/metrics", *(["accept: " + accept] if accept else []))

    assert answer["content-type"] == expected
    assert answer.body.endswith(b"# EOF\n") == expected.startswith("application")


def test_promtool_finds_no_fault_with_the_text(moongate, origin):
    gate = moongate(f"""local app = gate.upstream("app", {{ peers = {{ "{origin.answers(200, b"x")}" }} }})
        local sizes = gate.histogram("upload_size_bytes", {{ help = "Sizes.", buckets = {{ 1, 1000, 1e6, 1e21 }} }})
        gate.set {{ hook_metrics = true }}
        gate.use {{ name = "p", access = function(req) sizes:observe(500) end }}
        gate.route {{ "/app", upstream = app }}
        """ + METRICS)
    gate.get("/app")

    checked = subprocess.run(["promtool", "check", "metrics"], input=gate.get("/metrics").body, capture_output=True, timeout=30)

    assert checked.returncode == 0, checked.stderr.decode() + checked.stdout.decode()


def test_own_metrics_count_what_the_script_says_and_text_in_labels_comes_out_as_it_went_in(moongate):
    gate = moongate("""local seen = gate.counter("seen_total", { labels = { "path", "kind" } })
        local gauge, sizes = gate.gauge("depth", { labels = { "queue" } }), gate.histogram("size", { buckets = { 1, 10 } })
        gate.route { "/count", handler = function(req)
          seen:inc(req.args.path, "a")
          seen:add(2.5, req.args.path, "b")
          gauge:set(5, "q") gauge:add(-7, "q")
          for _, n in ipairs { 0.5, 1, 1.5, 11 } do sizes:observe(n) end
          return 200
        end }
        """ + METRICS)
    text = 'a"b\\c\nd\x07é\udcff'.encode("utf-8", "surrogateescape")

    gate.get("/count?path=" + urllib.parse.quote(text))

    for open_format in (False, True):
        got = scrape(gate, open_format)
        shown = 'a"b\\c\nd\x07é?'
        assert value(got, "seen_total", path=shown, kind="a") == 1
        assert value(got, "seen_total", path=shown, kind="b") == 2.5
        assert value(got, "depth", queue="q") == -2
        assert [value(got, "size_bucket", le=le) for le in ("1.0", "10.0", "+Inf")] == [2, 3, 4]
        assert value(got, "size_sum") == 14


def test_more_sets_of_labels_than_a_metric_may_have_are_counted_as_other_and_told_once(moongate):
    gate = moongate("""local by_client = gate.counter("by_client", { labels = { "client" }, series = 10 })
        gate.route { "/", handler = function(req)
          for i = 1, 100 do by_client:inc("c" .. i) end
          return 200
        end }
        """ + METRICS)
    gate.get("/")
    gate.get("/")

    got = scrape(gate)

    assert len([key for key in got if key[0] == "by_client_total"]) == 11
    assert value(got, "by_client_total", client="other") == 180
    assert value(got, "by_client_total", client="c10") == 2
    assert value(got, "moongate_metrics_crowded_out_total") >= 90
    assert len(gate.wait_log("metric by_client_total: 10 sets of labels are there")) == 1


def test_hooks_are_timed_by_policy_and_phase_if_asked_for_and_their_errors_counted_always(moongate):
    script = """gate.route { "/", policies = { { name = "waits", access = function() gate.sleep(0.02) end,
            log = function() end } }, handler = function() return 200 end }
        gate.route { "/throws", policies = { { name = "throws", response = function() error "x" end } },
            handler = function() return 200 end }
        """ + METRICS
    gate = moongate("gate.set { hook_metrics = true }\n" + script)
    gate.expect_error("throws")
    for _ in range(3):
        gate.get("/")
        gate.get("/throws")
    got = scrape(gate)
    assert value(got, "moongate_hook_duration_seconds_count", policy="waits", phase="access") == 3
    assert 0.06 <= value(got, "moongate_hook_duration_seconds_sum", policy="waits", phase="access") < 5
    assert value(got, "moongate_hook_waits_total", policy="waits", phase="access") == 3
    assert value(got, "moongate_hook_duration_seconds_sum", policy="waits", phase="log") < 0.01
    assert value(got, "moongate_hook_errors_total", policy="throws", phase="response") == 3

    reload(gate, script)
    for _ in range(3):
        gate.get("/")
        gate.get("/throws")

    got = scrape(gate)
    assert value(got, "moongate_hook_duration_seconds_count", policy="waits", phase="access") == 3
    assert value(got, "moongate_hook_errors_total", policy="throws", phase="response") == 6


def test_what_limits_refuse_is_counted_by_its_reason(moongate):
    gate = moongate("""gate.set { max_body_size = 10, max_fields = 8, head_timeout = 0.2 }
        gate.route { "/", methods = { "POST", "GET" }, handler = function(req) return 200, req:text() end }
        """ + METRICS)

    assert gate.request("POST", "/", body=b"x" * 11).status == 413
    assert gate.get("/", *[f"x{i}: 1" for i in range(9)]).status == 431
    assert gate.get("/nowhere").status == 404
    late = gate.raw()
    late.send(b"GET / HTTP")
    assert late.response().status == 408

    got = scrape(gate)
    reasons = {dict(k[1])["reason"] for k in got if k[0] in ("moongate_failures_total", "moongate_connections_turned_away_total")}
    for reason in ("the body is longer than max_body_size", "no route matches"):
        assert reason in reasons
    assert any("fields" in reason for reason in reasons) and any("in time" in reason for reason in reasons), reasons


def test_connections_are_counted_by_listener(moongate):
    gate = moongate(METRICS)
    scrape(gate)
    clients = [gate.raw() for _ in range(5)]
    for client in clients:
        client.get("/metrics")

    got = scrape(gate)

    listener, = {dict(k[1])["listener"] for k in got if k[0] == "moongate_connections_accepted_total"}
    assert listener.startswith("127.0.0.1:")
    assert value(got, "moongate_connections_accepted_total", listener=listener) == 7
    assert value(got, "moongate_connections_open", listener=listener) >= 6


@pytest.mark.parametrize("line, told", {
    'gate.counter "1st"': 'gate.counter: a metric\'s name is letters, digits, _ and :, and begins with no digit, got "1st"',
    'gate.counter "a_bucket"': "the name can't end with _bucket, which stands for a part of a histogram; choose another",
    'gate.gauge "moongate_x"': 'gate.gauge: "moongate_x": names that begin with "moongate_" are the gateway\'s own; choose another',
    'gate.counter("a", { label = {} })': 'gate.counter: "a_total": unknown key "label"; did you mean "labels"?',
    'gate.counter("a", { labels = { "b-c" } })': "a label's name is letters, digits and _",
    'gate.histogram("a", { labels = { "le" } })': 'the label "le" is the histogram\'s own; choose another',
    'gate.histogram("a", { buckets = { 2, 1 } })': "bucket 2 must be a number above the one before it, got 1",
}.items())
def test_what_is_wrong_in_a_declaration_is_told_with_its_line(tmp_path, line, told):
    script = tmp_path / "gateway.lua"
    script.write_text(f'local gate = require "moongate"\n{line}\ngate.listen "127.0.0.1:0"\n')

    done = run("check", script)

    assert done.returncode == 1
    assert "gateway.lua:2: " in done.stderr and told in done.stderr, done.stderr


@pytest.mark.parametrize("call, told", {
    'c:inc("a")': "metric c_total: it has 2 labels (x, y), got 1 values",
    'c:add(-1, "a", "b")': "metric c_total: a counter takes a number from 0 on, got -1",
    'c:inc("a", {})': "metric c_total: the value of label y must be a string, got a table",
    'gate.gauge "c_total"': "it stands already with another kind, other labels or buckets",
}.items())
def test_a_wrong_call_is_an_error_of_the_hook_that_made_it(moongate, call, told):
    gate = moongate(f"""local c = gate.counter("c", {{ labels = {{ "x", "y" }} }})
        gate.route {{ "/", handler = function()
            {call}
            return 200 end }}""")
    gate.expect_error(".")

    assert gate.get("/").status == 500

    assert "gateway.lua:4: " in gate.wait_log(re.escape(told))[0]

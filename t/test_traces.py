"""trace.context and trace.otlp: what origins and a collector get to know of a request's trace."""
import json
import re
import threading

import pytest

from moongate import wait_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FORM = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")


class Collector:
    """What came as OTLP/HTTP JSON, checked against its rules: spans by name in the order of coming."""

    def __init__(self, origin, statuses=()):
        self.spans, self.resources, self.lock, self.statuses = [], [], threading.Lock(), list(statuses)
        self.server = origin.answers(self.take)

    def take(self, request):
        with self.lock:
            if self.statuses:
                status = self.statuses.pop(0)
                if status != 200:
                    return status, b"", ["Retry-After: 0"]
            assert request.target == "/v1/traces" and request["content-type"] == "application/json"
            for resource_spans in json.loads(request.body)["resourceSpans"]:
                self.resources.append({a["key"]: a["value"] for a in resource_spans["resource"]["attributes"]})
                for scope in resource_spans["scopeSpans"]:
                    self.spans.extend(map(self.check, scope["spans"]))
        return 200, b"{}", ["Content-Type: application/json"]

    @staticmethod
    def check(span):
        assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and re.fullmatch("[0-9a-f]{16}", span["spanId"])
        assert "parentSpanId" not in span or re.fullmatch("[0-9a-f]{16}", span["parentSpanId"])
        assert span["kind"] in (1, 2, 3) and span["name"]
        began, ended = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        assert isinstance(span["startTimeUnixNano"], str) and 1.7e18 < began <= ended < 4e18
        for attribute in span.get("attributes", []):
            (kind, value), = attribute["value"].items()
            assert {"stringValue": str, "boolValue": bool, "intValue": str, "doubleValue": float}[kind] is type(value)
        span["at"] = {a["key"]: list(a["value"].values())[0] for a in span.get("attributes", [])}
        span["took"] = (ended - began) / 1e9
        return span

    def wait(self, count):
        wait_until(lambda: len(self.spans) >= count, what=lambda: [s["name"] for s in self.spans])
        return {kind: [s for s in self.spans if s["kind"] == kind] for kind in (1, 2, 3)}


@pytest.fixture
def collector(origin):
    return lambda *statuses: Collector(origin, statuses)


def policy(to, options="", interval=0.02):
    return f'gate.use(require "trace.otlp" {{ url = "http://{to.server}/v1/traces", interval = {interval}, {options} }})\n'


def front(server, retry=""):
    return f'gate.route {{ "/*", name = "all", upstream = gate.upstream("app", {{ peers = {{ {server} }}, {retry} }}) }}\n'


# ---- trace.context

def test_a_trace_that_came_goes_on_with_an_id_for_each_try(moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate('gate.set { log_fields = { "trace" } } gate.use(require "trace.context" {})\n' + front(f'"{server}"'))

    gate.get("/", "traceparent: " + PARENT, "tracestate: a=1,b=2", "baggage: k=v")
    first = server.last
    gate.get("/", "traceparent: " + PARENT)

    trace, span, flags = FORM.fullmatch(first["traceparent"]).groups()
    assert (trace, flags) == ("0af7651916cd43dd8448eb211c80319c", "01") and span != "b7ad6b7169203331"
    assert FORM.fullmatch(server.last["traceparent"])[2] != span
    assert (first["tracestate"], first["baggage"]) == ("a=1,b=2", "k=v")
    assert gate.access_log(2)[0] == {"trace": trace}


@pytest.mark.parametrize("sent", [
    "00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    PARENT + "-extra", PARENT[:-1], "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01", "rubbish", "01-" + PARENT[3:] + "x",
])
def test_what_is_no_traceparent_begins_a_new_trace(moongate, origin, sent):
    server = origin.answers(200, b"ok")
    gate = moongate('gate.use(require "trace.context" {})\n' + front(f'"{server}"'))

    gate.get("/", "traceparent: " + sent, "tracestate: a=1")

    assert FORM.fullmatch(server.last["traceparent"])[1].lower() != "0af7651916cd43dd8448eb211c80319c"
    assert "tracestate" not in server.last.fields


def test_a_later_version_is_taken_for_what_is_known_of_it(moongate, origin):
    server = origin.answers(200, b"ok")
    gate = moongate('gate.use(require "trace.context" {})\n' + front(f'"{server}"'))
    gate.get("/", "traceparent: 01" + PARENT[2:] + "-more")
    assert FORM.fullmatch(server.last["traceparent"])[1] == "0af7651916cd43dd8448eb211c80319c"


def test_a_share_of_new_traces_is_sampled_and_untrusted_ones_begin_anew(moongate, origin):
    server = origin.answers(lambda r: (200, (r["traceparent"] or "").encode(), ()))
    gate = moongate('gate.use(require "trace.context" { sample = 0.25, trusted = { "10.0.0.0/8" } })\n' + front(f'"{server}"'))

    got = [FORM.fullmatch(gate.get("/", "traceparent: " + PARENT).body.decode()).groups() for _ in range(600)]

    assert len({trace for trace, _, _ in got}) == 600
    assert 105 <= sum(flags == "01" for _, _, flags in got) <= 195          # 150, within 4 deviations


# ---- trace.otlp

def test_a_request_is_a_server_span_and_each_try_a_client_span_in_it(moongate, origin, collector):
    server, to = origin.answers(200, b"ok"), collector()
    gate = moongate(policy(to, 'service = "shop", attributes = { ["service.version"] = "7" }')
                    + front(f'"{origin.refuses()}", "{server}"', 'balance = function(req, peers) return peers[1] end'))
    assert gate.get("/a%20b?q=1", "traceparent: " + PARENT, "User-Agent: t").status == 200

    spans = to.wait(3)
    failed = next(s for s in spans[3] if s.get("status"))
    whole, = spans[2]
    second, = [s for s in spans[3] if s is not failed]
    assert failed["parentSpanId"] == second["parentSpanId"] == whole["spanId"]
    assert whole["parentSpanId"] == "b7ad6b7169203331" and whole["traceId"] == second["traceId"] == "0af7651916cd43dd8448eb211c80319c"
    assert (whole["name"], "status" in whole) == ("GET all", False)
    assert {k: whole["at"][k] for k in ("http.request.method", "url.path", "url.query", "http.route", "http.response.status_code",
                                        "client.address", "user_agent.original")} == {
        "http.request.method": "GET", "url.path": "/a%20b", "url.query": "q=1", "http.route": "all",
        "http.response.status_code": "200", "client.address": "127.0.0.1", "user_agent.original": "t"}
    assert failed["status"]["code"] == 2 and failed["status"]["message"]
    assert second["at"]["http.request.resend_count"] == "1" and second["at"]["http.response.status_code"] == "200"
    assert second["at"]["moongate.peer"] == str(server) and FORM.fullmatch(server.last["traceparent"])
    assert server.last["traceparent"].split("-")[2] in {s["spanId"] for s in spans[3]}
    resource = to.resources[0]
    assert resource["service.name"] == {"stringValue": "shop"} and resource["service.version"] == {"stringValue": "7"}


def test_hooks_have_spans_with_what_they_wait_for_and_scripts_have_their_own(moongate, origin, collector):
    server, to = origin.answers(200, b"ok"), collector()
    gate = moongate(policy(to, "hooks = true") + f"""local span = require "trace.span"
        gate.use {{ name = "slow", access = function(req)
            local own = span(req, "lookup", {{ shard = 3 }})
            gate.sleep(0.03)
            local answer = gate.fetch("http://{server}/", {{ headers = own:fields() }})
            own:set("ok", answer.ok)
            own:done()
        end }}
        gate.route {{ "/", handler = function() error "no" end }}""")
    gate.expect_error("no")
    assert gate.get("/").status == 500

    spans = to.wait(3)

    whole, = spans[2]
    by_name = {s["name"]: s for s in spans[1]}
    assert by_name["access slow"]["took"] >= 0.03 and by_name["lookup"]["took"] >= 0.02
    assert by_name["lookup"]["at"]["shard"] == "3" and by_name["lookup"]["at"]["ok"] is True
    assert {s["parentSpanId"] for s in spans[1]} == {whole["spanId"]}
    assert server.last["traceparent"] == f"00-{whole['traceId']}-{by_name['lookup']['spanId']}-01"
    assert whole["status"]["code"] == 2 and whole["at"]["http.response.status_code"] == "500" and "parentSpanId" not in whole


def test_of_a_hedge_both_tries_are_told_and_which_was_given_up(moongate, origin, collector):
    release = threading.Event()

    def late(connection):
        if connection.request():
            release.wait(10)
            connection.answer(200, b"late")
    slow, quick, to = origin.plays(late), origin.answers(200, b"quick"), collector()
    gate = moongate(policy(to) + f"""gate.route {{ "/", upstream = gate.upstream("app", {{ peers = {{ "{slow}", "{quick}" }},
        balance = function(req, peers) return peers[1], {{ hedge = peers[2], after = 0.02 }} end }}) }}""")

    assert gate.get("/").body == b"quick"
    spans = to.wait(3)
    release.set()

    by_peer = {s["at"]["moongate.peer"]: s for s in spans[3]}
    assert by_peer[str(slow)]["at"]["moongate.abandoned"] is True and "status" not in by_peer[str(slow)]
    assert by_peer[str(quick)]["at"]["http.response.status_code"] == "200"


def test_what_is_not_sampled_is_not_sent(moongate, origin, collector):
    server, to = origin.answers(200, b"ok"), collector()
    gate = moongate(policy(to, "sample = 0") + front(f'"{server}"'))
    gate.get("/")
    assert server.last["traceparent"].endswith("-00")
    gate.get("/", "traceparent: " + PARENT)
    spans = to.wait(2)
    assert {s["traceId"] for s in spans[2] + spans[3]} == {"0af7651916cd43dd8448eb211c80319c"}


def test_a_collector_that_asks_for_it_gets_the_batch_again_and_one_that_refuses_it_does_not(moongate, origin, collector):
    server, to = origin.answers(200, b"ok"), collector(503, 429, 200)
    gate = moongate(policy(to) + front(f'"{server}"'))
    gate.get("/")
    assert len(to.wait(2)[2]) == 1
    to.statuses.append(400)
    gate.get("/")
    gate.wait_log("trace.otlp: 2 spans were dropped: the collector answered 400")
    gate.get("/")
    to.wait(4)


def test_a_collector_that_is_away_holds_no_request_and_no_more_than_the_queue(moongate, origin):
    server, away = origin.answers(200, b"ok"), origin.refuses()
    gate = moongate(f'gate.use(require "trace.otlp" {{ url = "http://{away}/v1/traces", interval = 0.02, queue = 20 }})\n'
                    'gate.route { "/metrics", handler = require "metrics.prometheus" {} }\n' + front(f'"{server}"'))

    assert {gate.get("/").status for _ in range(100)} == {200}

    gate.wait_log("spans were dropped")
    dropped = re.search(rb"trace_spans_dropped_total (\d+)", gate.get("/metrics").body)
    assert int(dropped[1]) >= 100

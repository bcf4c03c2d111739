-- observed - what one wants to see of a gateway: a log for machines, metrics, traces.
--
--   APP=127.0.0.1:3000 COLLECTOR=http://127.0.0.1:4318/v1/traces LOG=access.log moongate observed.lua
--   curl http://localhost:9090/metrics        Prometheus scrapes this
--
-- A line of the log, a bucket's exemplar and a trace have the same trace id, so one leads to the others. A tenth of the
-- requests is traced. The metrics stand on an address of their own, that clients do not reach.

local gate = require "moongate"

gate.set {
  access_log = os.getenv "LOG" or "stderr",
  log_fields = { "time", "id", "trace", "client", "method", "path", "status", "duration", "upstream", "peer", "error" },
}
gate.listen(os.getenv "LISTEN" or ":8080")
gate.listen(os.getenv "METRICS" or "127.0.0.1:9090")

gate.use(require "trace.otlp" {
  url = os.getenv "COLLECTOR" or "http://127.0.0.1:4318/v1/traces", service = "gateway",
  sample = tonumber(os.getenv "SAMPLE") or 0.1,
})
local slow = gate.counter("slow_requests", { help = "Requests above a second.", labels = { "route" } })
gate.use { name = "slow", log = function(req)
  if gate.time() - req.started > 1 then slow:inc(req.route or "none") end
end }

local metrics = require "metrics.prometheus" {}
gate.route { "/metrics", handler = function(req)
  if req.server.port ~= (tonumber((os.getenv "METRICS" or ":9090"):match "%d+$")) then return 404 end
  return metrics(req)
end }
gate.route { "/*", upstream = gate.upstream("app", { peers = { os.getenv "APP" or "127.0.0.1:3000" } }) }

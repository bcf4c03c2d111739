-- trace.otlp - sends traces to an OpenTelemetry collector: OTLP over HTTP, as JSON.
--
--   gate.use(require "trace.otlp" { url = "http://127.0.0.1:4318/v1/traces", service = "gateway", sample = 0.1 })
--
-- url         where the collector takes traces
-- service     this gateway's name, service.name; attributes: more of the resource's: { ["service.version"] = "7" }
-- sample, trusted   as in trace.context, whose part it does as well
-- hooks       true: also a span for each run of a policy's hook, with what it waits for
-- headers     fields for the collector: { authorization = "Bearer ..." }
-- interval    seconds between two batches: 1; batch: spans of one at most: 512; queue: spans that wait at most: 4096
-- timeout     seconds for an answer: 5
--
-- A request has a server span; each try at a peer a client span in it, with the reason if it failed; and trace.span
-- makes spans of your own. A collector that is slow, away or refuses never holds a request: batches wait and are sent
-- again, ever more rarely, and what is too much is dropped, counted (trace_spans_dropped_total) and told once a minute.
-- What a worker has not sent when its process ends is lost.

local gate = require "moongate"
local context = require "trace.context"
local span = require "trace.span"

local KINDS = { internal = 1, server = 2, client = 3 }
local FAILED = 2                -- Status.code
local PAUSE_MOST = 30           -- seconds between two tries to reach a collector that is away

-- ---- JSON as OTLP has it. ----

local function value_of(value)
  if type(value) == "boolean" then return { boolValue = value } end
  if type(value) == "number" then
    if value % 1 == 0 then return { intValue = ("%d"):format(value) } end
    return { doubleValue = value }
  end
  return { stringValue = tostring(value) }
end

local function attributes_of(attributes)
  local list = {}
  for key, value in pairs(attributes) do list[#list + 1] = { key = key, value = value_of(value) } end
  table.sort(list, function(a, b) return a.key < b.key end)
  return list
end

local function nanoseconds(seconds)
  local whole = math.floor(seconds)
  return ("%d%09d"):format(whole, (seconds - whole) * 1e9)
end

local function encode(s)
  return {
    traceId = s.trace.trace_id, spanId = s.span_id, parentSpanId = s.parent_id, name = s.name, kind = KINDS[s.kind],
    startTimeUnixNano = nanoseconds(s.began), endTimeUnixNano = nanoseconds(s.ends),
    attributes = attributes_of(s.attributes), status = s.problem and { code = FAILED, message = s.problem } or nil,
  }
end

-- ---- The way to the collector: a queue in each worker. ----

local function new_sender(options)
  local sender = { queue = {}, dropped = 0, told = -math.huge, failures = 0, resume = 0 }
  local drops = gate.counter("trace_spans_dropped", { help = "Spans that could not be sent to the collector." })
  local attributes = { ["service.name"] = options.service, ["telemetry.sdk.name"] = "moongate",
    ["telemetry.sdk.language"] = "lua", ["moongate.worker"] = gate.worker() }
  for key, value in pairs(options.attributes) do attributes[key] = value end
  local resource = { attributes = attributes_of(attributes) }

  local function drop(count, why)
    drops:add(count)
    sender.dropped = sender.dropped + count
    if gate.now() - sender.told < 60 then return end
    gate.log.warn(("trace.otlp: %d spans were dropped: %s"):format(sender.dropped, why))
    sender.told, sender.dropped = gate.now(), 0
  end

  local function post(batch)
    local spans = {}
    for i, one in ipairs(batch) do spans[i] = encode(one) end
    return gate.fetch(options.url, { timeout = options.timeout, headers = options.headers, body = {
      resourceSpans = { { resource = resource, scopeSpans = { { scope = { name = "moongate" }, spans = spans } } } },
    } })
  end

  -- 429, 502, 503 and 504 ask for another try; other refusals say that the batch itself is no good (OTLP 1.3, 4.4).
  local function may_be_sent_again(answer)
    local status = answer.status
    return status == 0 or status == 429 or status == 502 or status == 503 or status == 504
  end

  local function take()
    local batch = {}
    for i = 1, math.min(#sender.queue, options.batch) do batch[i] = sender.queue[i] end
    local rest = {}
    for i = #batch + 1, #sender.queue do rest[#rest + 1] = sender.queue[i] end
    sender.queue = rest
    return batch
  end

  local function put_back(batch)
    for _, one in ipairs(sender.queue) do batch[#batch + 1] = one end
    local over = #batch - options.queue
    for _ = 1, over do batch[#batch] = nil end
    sender.queue = batch
    return over
  end

  local function send_one()
    local batch = take()
    local answer, problem = post(batch)
    if answer.ok then
      sender.failures = 0
      return true
    end
    local why = problem or ("the collector answered %d"):format(answer.status)
    if not may_be_sent_again(answer) then
      drop(#batch, why)
      return true
    end
    sender.failures = sender.failures + 1
    local asked = tonumber(answer.headers and answer.headers["retry-after"])
    sender.resume = gate.now() + math.min(asked or 2 ^ sender.failures * options.interval, PAUSE_MOST)
    local over = put_back(batch)
    if over > 0 then drop(over, why) end
    return false
  end

  function sender.flush()
    if sender.busy or gate.now() < sender.resume then return end
    sender.busy = true
    local good, problem = pcall(function()
      while #sender.queue > 0 and send_one() do end
    end)
    sender.busy = false
    if not good then error(problem, 0) end
  end

  function sender.put(spans)
    if #sender.queue + #spans > options.queue then
      return drop(#spans, "more come than the collector takes")
    end
    for _, one in ipairs(spans) do sender.queue[#sender.queue + 1] = one end
  end

  gate.every(options.interval, sender.flush)
  return sender
end

-- ---- Spans of a request. ----

local function server_span(req, trace, res)
  local status = res and res.status
  local attributes = {
    ["http.request.method"] = req.method, ["url.scheme"] = req.scheme, ["url.path"] = req.raw_path,
    ["url.query"] = req.query, ["server.address"] = req.host, ["client.address"] = req.client.ip,
    ["network.protocol.version"] = req.version, ["http.route"] = req.route,
    ["user_agent.original"] = req.headers["user-agent"], ["http.response.status_code"] = status,
    ["moongate.request.id"] = req.id,
  }
  local problem
  if not status then problem = "the client left before there was an answer" end
  if status and status >= 500 then problem, attributes["error.type"] = "", tostring(status) end
  return {
    trace = trace, name = req.method .. (req.route and " " .. req.route or ""), kind = "server",
    span_id = trace.span_id, parent_id = trace.parent_id, began = req.started, ends = gate.time(),
    attributes = attributes, problem = problem,
  }
end

local function address_of(peer)
  local host, port = peer.address:match "^(.*):(%d+)$"
  return host or peer.address, tonumber(port)
end

local function begin_try(req, trace, peer)
  local host, port = address_of(peer)
  local number = (trace.tries or 0) + 1
  local try = span(req, req.method, {
    ["http.request.method"] = req.method, ["server.address"] = host, ["server.port"] = port,
    ["http.request.resend_count"] = number > 1 and number - 1 or nil, ["moongate.peer"] = peer.address,
  }, "client")
  trace.open = trace.open or {}
  trace.tries, trace.open[#trace.open + 1] = number, try
  return try
end

-- The latest try at this peer has ended; nil stands for all that are left, whose answers nobody wants any more.
local function end_tries(trace, address, status, problem)
  local open = trace.open or {}
  for i = #open, 1, -1 do
    local try = open[i]
    if not address or try.attributes["moongate.peer"] == address then
      table.remove(open, i)
      try:set("http.response.status_code", status)
      if not address then try:set("moongate.abandoned", true) end
      if status and status >= 400 then problem, try.attributes["error.type"] = problem or "", tostring(status) end
      try:done(problem)
      if address then return true end
    end
  end
  return false
end

---@param given { url: string, service: string?, attributes: table?, sample: number?, trusted: any, hooks: boolean?,
---  headers: table?, interval: number?, batch: integer?, queue: integer?, timeout: number? }
---@return table policy
return function(given)
  local options = gate.options("trace.otlp", given, {
    url = { "string", needed = true },
    service = { "string", default = "moongate" },
    attributes = { "table", default = {} },
    sample = context.shape.sample, trusted = context.shape.trusted,
    hooks = { "boolean", default = false },
    headers = { "table", default = {} },
    interval = { "seconds", above = 0, default = 1 },
    batch = { "count", min = 1, default = 512 },
    queue = { "count", min = 1, default = 4096 },
    timeout = { "seconds", above = 0, default = 5 },
  })
  local sender = new_sender(options)

  local function request(req)
    local trace = context.begin(req, options)
    if trace.sampled then trace.spans, trace.since = {}, gate.time() end
  end

  local function attempt(req, peer)
    local trace = req.ctx.trace
    if not trace then return end
    if not trace.sampled then
      req.headers.traceparent = context.traceparent(trace, context.new_id(8))
      return
    end
    local try = begin_try(req, trace, peer)
    req.headers.traceparent = context.traceparent(trace, try.span_id)
  end

  local function retry(req, failure)
    local trace = req.ctx.trace
    if not trace or not trace.spans then return end
    local peer, reason = failure.peer, failure.reason or "it failed"
    if peer and not end_tries(trace, peer.address, failure.status, reason) then
      begin_try(req, trace, peer).began = trace.since           -- it could not be connected to
      end_tries(trace, peer.address, failure.status, reason)
    end
    trace.since = gate.time()
  end

  local function response(req, res)
    local trace = req.ctx.trace
    if not trace or not trace.spans or not res.peer then return end
    end_tries(trace, res.peer.address, res.status)
    end_tries(trace)
  end

  local function log(req, res)
    local trace = req.ctx.trace
    if not trace or not trace.spans then return end
    end_tries(trace)
    trace.spans[#trace.spans + 1] = server_span(req, trace, res)
    sender.put(trace.spans)
    trace.spans = nil
  end

  if options.hooks then
    gate.observe(function(req, policy, phase, began, ended)
      local trace = policy ~= "trace.otlp" and req.ctx.trace
      if not trace or not trace.spans then return end
      local run = span(req, phase .. " " .. policy, { ["moongate.policy"] = policy, ["moongate.phase"] = phase })
      run.began = began
      run:done()
      run.ends = ended
    end)
  end

  return { name = "trace.otlp", request = request, attempt = attempt, retry = retry, response = response, log = log }
end

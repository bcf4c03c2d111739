-- trace.context - passes distributed traces on (W3C Trace Context): each try at an origin is a span of its own.
--
--   gate.use(require "trace.context" { sample = 0.1 })
--
-- sample    the share of new traces that are recorded: 1. It follows from the trace's id, so all gateways choose alike
-- trusted   who may bring a trace along: true: everybody; false: nobody; or a list of networks. Others begin a new one
--
-- req.trace_id is the trace, for logs (log_fields: "trace") and exemplars; req.ctx.trace has trace_id, span_id (ours),
-- parent_id (nil: the trace begins here) and sampled. The origin gets `traceparent` with an id for each try, and
-- `tracestate` and `baggage` as they came. trace.otlp does the same, and sends the spans to a collector.

local gate = require "moongate"

local context = {}

local hex = gate.crypto.hex

local POOL = 1024               -- bytes of chance that are had at once, as having them costs more than using them

local pool, at = "", 1

local function new_id(bytes)
  if at + bytes > #pool then pool, at = gate.crypto.random(POOL), 1 end
  local id = pool:sub(at, at + bytes - 1)
  at = at + bytes
  return id:find "[^%z]" and hex(id) or new_id(bytes)
end
context.new_id = new_id

-- The parts of a traceparent (Trace Context 3.2); nil: it is none. Later versions may have more at the end.
local function parse(text)
  if not text then return nil end
  local version, trace, parent, flags, rest = text:match "^(%x%x)%-(%x+)%-(%x+)%-(%x%x)(.*)$"
  if not version or version == "ff" or #trace ~= 32 or #parent ~= 16 or text:find "%u" then return nil end
  if not trace:find "[^0]" or not parent:find "[^0]" then return nil end
  if rest ~= "" and (version == "00" or rest:sub(1, 1) ~= "-") then return nil end
  return trace, parent, tonumber(flags, 16) % 2 == 1
end

-- The right half of the id is chance: the same for all who see it.
local function is_sampled(trace, share)
  return tonumber(trace:sub(19, 32), 16) < share * 2 ^ 56
end

local function read_trusted(value)
  if type(value) == "boolean" then return value end
  if type(value) ~= "table" then return nil end
  local networks, reason = gate.networks(value)
  if not networks then return nil, nil, ": " .. reason end
  return networks
end

context.shape = {
  sample = { "number", min = 0, max = 1, default = 1 },
  trusted = { "any", default = true, expect = "true, false or a list of networks", read = read_trusted },
}

--- Begins, or goes on with, the trace of a request.
---@return table trace
function context.begin(req, options)
  local trusted = options.trusted
  local trace, parent, sampled
  if trusted == true or trusted and trusted:find(req.client.ip) then
    trace, parent, sampled = parse(req.headers.traceparent)
  end
  if not trace then
    trace, req.headers.tracestate = new_id(16), nil
    sampled = is_sampled(trace, options.sample)
  end
  local found = { trace_id = trace, span_id = new_id(8), parent_id = parent, sampled = sampled }
  req.trace_id, req.ctx.trace = trace, found
  return found
end

--- What a span of this trace says to the next one.
---@return string
function context.traceparent(trace, span_id)
  return ("00-%s-%s-%s"):format(trace.trace_id, span_id, trace.sampled and "01" or "00")
end

---@param given { sample: number?, trusted: (boolean|string[])? }?
---@return table policy
function context.policy(given)
  local options = gate.options("trace.context", given, context.shape)

  local function request(req) context.begin(req, options) end

  local function attempt(req)
    local trace = req.ctx.trace
    if trace then req.headers.traceparent = context.traceparent(trace, new_id(8)) end
  end

  return { name = "trace.context", request = request, attempt = attempt }
end

return setmetatable(context, { __call = function(_, given) return context.policy(given) end })

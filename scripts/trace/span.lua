-- trace.span - spans of one's own in the trace of a request, below trace.otlp.
--
--   local span = require "trace.span"
--   local lookup = span(req, "lookup", { ["db.system"] = "redis" })
--   local answer = gate.fetch(url, { headers = lookup:fields() })      -- the other side goes on with the trace
--   lookup:set("cache.hit", true)
--   lookup:done()                                                      -- or lookup:done "the reason why it failed"
--
-- Where the request is not traced, or not sampled, all of this does nothing.

local gate = require "moongate"
local context = require "trace.context"

local span = {}
span.__index = span

--- An attribute: a string, a number or a boolean.
function span:set(name, value)
  if self.attributes then self.attributes[name] = value end
end

--- The fields that lead another service into the trace.
---@return table
function span:fields()
  return self.trace and { traceparent = context.traceparent(self.trace, self.span_id) } or {}
end

--- It has ended.
---@param problem? string why it failed
function span:done(problem)
  if not self.trace or self.ends then return end
  self.ends, self.problem = gate.time(), problem
  local spans = self.trace.spans
  if spans then spans[#spans + 1] = self end
end

---@param req moongate.Request
---@param name string
---@param attributes? table
---@param kind? "internal"|"client" internal if not given
return function(req, name, attributes, kind)
  local trace = req.ctx.trace
  if not trace or not trace.sampled then return setmetatable({}, span) end
  return setmetatable({
    trace = trace, name = name, kind = kind or "internal", span_id = context.new_id(8), parent_id = trace.span_id,
    began = gate.time(), attributes = attributes or {},
  }, span)
end

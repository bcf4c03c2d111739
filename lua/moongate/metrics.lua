-- moongate.metrics - gate.counter, gate.gauge, gate.histogram: numbers that all workers count together.
--
-- A series' cells lie in shared memory, a row for each worker, so counting is an addition in place. A metric's record
-- is { [1] = its number, cells =, count =, most =, labels =, bounds = }.
local ffi = require "ffi"
local C = require "moongate.seam"
local core = require "moongate.core"
local problem = require "moongate.problem"
local schema = require "moongate.schema"

local metrics = {}

local LABELS_MOST, BOUNDS_MOST = 8, 64
local SECONDS = { 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 }

local spec, values = ffi.new "mg_metric_spec", ffi.new("mg_slice[?]", LABELS_MOST)
local slice = ffi.new "mg_slice"

local kinds = {
  counter = C.MG_METRIC_COUNTER, gauge = C.MG_METRIC_GAUGE, histogram = C.MG_METRIC_HISTOGRAM,
}
-- What the formats themselves put behind a name.
local endings = { "_bucket", "_sum", "_count", "_created", "_info" }

-- ---- Series. ----

local function look_up(self, labels, n, ...)
  if n ~= labels then
    error(("metric %s: it has %d labels (%s), got %d values"):format(self.name, labels,
      table.concat(self.labels, ", "), n), 4)
  end
  for i = 1, n do
    local value = select(i, ...)
    local kind = type(value)
    if kind ~= "string" then
      if kind ~= "number" and kind ~= "boolean" then
        error(("metric %s: the value of label %s must be a string, got a %s"):format(self.name, self.labels[i],
          kind), 4)
      end
      value = tostring(value)
    end
    self.texts[i] = value
    core.put(values[i - 1], value)
  end
  return C.mg_metric_series(self[1], values)
end

-- Series are kept up to the bound; values beyond it are "other" for the core, whose look-up decides that each time.
local function keep(self, key, cells)
  if self.count < self.most then
    self.count = self.count + 1
    self.cells[key] = cells
  end
  return cells
end

-- The cells of the series with these values.
local function cells_of(self, ...)
  local labels = #self.labels
  if labels == 0 and select("#", ...) == 0 then
    return self.cells[0] or keep(self, 0, look_up(self, 0, 0))
  end
  if labels == 1 and select("#", ...) == 1 then
    local key = ...
    return key ~= nil and self.cells[key] or keep(self, key, look_up(self, 1, 1, key))
  end
  local n = select("#", ...)
  local cells = look_up(self, labels, n, ...)
  return cells
end

local function check_number(self, n, what, most)
  if type(n) ~= "number" or n ~= n or n < (most or -math.huge) then
    error(("metric %s: %s, got %s"):format(self.name, what, problem.show(n)), 3)
  end
end

---@class moongate.Counter
local counter = {}

--- Adds 1 to the series with these values of the labels.
---@param ... string
function counter:inc(...)
  local cells = cells_of(self, ...)
  cells[0] = cells[0] + 1
end

--- Adds `n`, 0 or more.
---@param n number
---@param ... string
function counter:add(n, ...)
  check_number(self, n, "a counter takes a number from 0 on", 0)
  local cells = cells_of(self, ...)
  cells[0] = cells[0] + n
end

---@class moongate.Gauge
local gauge = {}

--- It is `n` now, for all workers.
---@param n number
---@param ... string
function gauge:set(n, ...)
  check_number(self, n, "a gauge takes a number")
  cells_of(self, ...)[0] = n
end

--- Adds `n`, which may be below 0.
---@param n number
---@param ... string
function gauge:add(n, ...)
  check_number(self, n, "a gauge takes a number")
  C.mg_metric_add(cells_of(self, ...), n)
end

---@class moongate.Histogram
local histogram = {}

--- Counts `value` in its bucket.
---@param value number
---@param ... string
function histogram:observe(value, ...)
  check_number(self, value, "a histogram takes a number")
  local cells, bounds = cells_of(self, ...), self.bounds
  local n = #bounds
  local at = 1
  while at <= n and value > bounds[at] do at = at + 1 end
  cells[at - 1] = cells[at - 1] + 1
  cells[n + 1] = cells[n + 1] + value
end

local classes = {
  counter = { __index = counter }, gauge = { __index = gauge }, histogram = { __index = histogram },
}

-- ---- Declaring. ----

local keys = {
  help = schema.text { default = "" },
  labels = schema.words { expect = 'a list of names like { "tenant", "kind" }' },
  series = schema.count { min = 1, max = 10000, default = 1000 },
}
local histogram_keys = {
  help = keys.help, labels = keys.labels, series = keys.series,
  buckets = schema.table { expect = "a list of growing numbers like { 0.1, 1, 10 }" },
}

local function check_name(name, fail)
  if type(name) ~= "string" or not name:find "^[%a_:][%w_:]*$" then
    fail("a metric's name is letters, digits, _ and :, and begins with no digit, got " .. problem.show(name))
  end
  for _, ending in ipairs(endings) do
    if name:sub(-#ending) == ending then
      fail(("the name can't end with %s, which stands for a part of a histogram; choose another"):format(ending))
    end
  end
end

local function check_labels(kind, labels, fail)
  if #labels > LABELS_MOST then fail(("a metric has at most %d labels, got %d"):format(LABELS_MOST, #labels)) end
  local seen = {}
  for _, label in ipairs(labels) do
    if not label:find "^[%a_][%w_]*$" or label:find "^__" then
      fail("a label's name is letters, digits and _, begins with no digit and not with __, got " .. problem.show(label))
    end
    if kind == "histogram" and label == "le" then fail 'the label "le" is the histogram\'s own; choose another' end
    if seen[label] then fail(('the label "%s" stands twice'):format(label)) end
    seen[label] = true
  end
end

local function check_bounds(bounds, fail)
  if #bounds < 1 or #bounds > BOUNDS_MOST then
    fail(("buckets must be 1 to %d numbers, got %d"):format(BOUNDS_MOST, #bounds))
  end
  for i, bound in ipairs(bounds) do
    if type(bound) ~= "number" or bound ~= bound or bound >= math.huge or (i > 1 and bound <= bounds[i - 1]) then
      fail(("bucket %d must be a number above the one before it, got %s"):format(i, problem.show(bound)))
    end
  end
end

-- Fills in `spec`; what is returned must be kept until it was read.
local function describe(kind, name, options)
  local labels, bounds = table.concat(options.labels or {}, ","), nil
  local help = (options.help:gsub("\\", "\\\\"):gsub("\n", "\\n"))
  core.put(spec.name, name)
  core.put(spec.help, help)
  core.put(spec.labels, labels)
  spec.kind, spec.most, spec.bound_count = kinds[kind], options.series, 0
  if options.buckets then
    bounds = ffi.new("double[?]", #options.buckets, options.buckets)
    spec.bounds, spec.bound_count = bounds, #options.buckets
  end
  return { labels, help, bounds }
end

-- A metric of this kind; `fail(text)` raises.
local function declare(kind, name, options, fail)
  local kept = describe(kind, name, options)
  local number = C.mg_metric_declare(spec)
  if kept and number == C.MG_MALFORMED then
    fail "it stands already with another kind, other labels or buckets; choose another name, or restart to change it"
  end
  return setmetatable({
    number, name = name, labels = options.labels or {}, bounds = options.buckets, cells = {}, texts = {}, count = 0,
    most = options.series,
  }, classes[kind])
end

local function declarer(kind)
  return function(name, given)
    local function fail(text)
      problem.raise(problem.place(), ("gate.%s: %s: %s"):format(kind, problem.show(name), text))
    end
    check_name(name, function(text) problem.raise(problem.place(), ("gate.%s: %s"):format(kind, text)) end)
    if name:find "^moongate_" then fail 'names that begin with "moongate_" are the gateway\'s own; choose another' end
    if kind == "counter" and not name:find "_total$" then name = name .. "_total" end
    local options = schema.read(given or {}, kind == "histogram" and histogram_keys or keys, fail)
    check_labels(kind, options.labels or {}, fail)
    if kind == "histogram" then
      options.buckets = options.buckets or SECONDS
      check_bounds(options.buckets, fail)
    end
    return declare(kind, name, options, fail)
  end
end

--- A number that only grows. Declared anew, also by another generation or worker, it is the same.
---@param name string "_total" is added if it does not end so
---@param options? { help: string?, labels: string[]?, series: integer? } series: how many sets of labels; 1000
---@return moongate.Counter
metrics.counter = declarer "counter"

--- A number that goes up and down: one for all workers.
---@param name string
---@param options? { help: string?, labels: string[]?, series: integer? }
---@return moongate.Gauge
metrics.gauge = declarer "gauge"

--- How many values lay within which bounds, and their sum.
---@param name string
---@param options? { help: string?, labels: string[]?, buckets: number[]?, series: integer? } buckets: seconds from
---  0.0005 to 30 if not given
---@return moongate.Histogram
metrics.histogram = declarer "histogram"

--- One of the gateway's own.
function metrics.own(kind, name, help, labels)
  return declare(kind, name, { help = help, labels = labels, series = 1000, buckets = kind == "histogram" and SECONDS },
    error)
end

--- All that is counted, by the scripts and by the core, in all workers.
---@param format? "prometheus"|"openmetrics" the text format of Prometheus 0.0.4 if not given
---@return string
function metrics.text(format)
  if format ~= nil and format ~= "prometheus" and format ~= "openmetrics" then
    error('gate.metrics: the format is "prometheus" or "openmetrics", got ' .. problem.show(format), 2)
  end
  if C.mg_metrics_text(format == "openmetrics", slice) < 0 then error("gate.metrics: out of memory", 2) end
  return ffi.string(slice.ptr, slice.len)
end

return metrics

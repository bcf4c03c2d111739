-- moongate.simulate_chart - charts of a simulated run as SVG: colours come from the page, by class.
local units = require "moongate.simulate_units"

local chart = {}

local LEVELS = 8                -- shades of a map
local ROWS_MOST = 60            -- of a map; of more servers every so manieth is shown

--- The percentiles that are drawn, from quick to slow.
chart.quantiles = { { "p50", "p50" }, { "p90", "p90" }, { "p99", "p99" }, { "p999", "p99.9" } }

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

function chart.escape(text)
  return (tostring(text):gsub('[&<>"]', escapes))
end

local function num(value)
  return (("%.1f"):format(value):gsub("%.0$", ""))
end

-- ---- Axes. ----

-- 1, 2, 5, 10 ... seconds apart, at most `most` of them.
local function steps(span, most)
  local step = 10 ^ math.floor(math.log10(span / most))
  for _, factor in ipairs { 1, 2, 5, 10 } do
    if span / (step * factor) <= most then return step * factor end
  end
end

-- 1, 2 and 5 of each power of ten within the range; only the powers if there are many.
local function log_ticks(low, high)
  local ticks, decades = {}, math.log10(high / low)
  for power = math.floor(math.log10(low)), math.ceil(math.log10(high)) do
    for _, factor in ipairs(decades > 3 and { 1 } or { 1, 2, 5 }) do
      local value = factor * 10 ^ power
      if value >= low * 0.999 and value <= high * 1.001 then ticks[#ticks + 1] = value end
    end
  end
  return ticks
end

local function round_label(seconds)
  return (units.show(seconds):gsub("%.0+ ", " "):gsub("(%.%d-)0+ ", "%1 "))
end

local function time_axis(out, x_of, seconds, y, top)
  local step = steps(seconds, 8)
  for n = 0, math.floor(seconds / step + 1e-9) do
    local x = x_of(n * step)
    out(('<line class="grid" x1="%s" y1="%s" x2="%s" y2="%s"/>'):format(num(x), num(top), num(x), num(y)))
    out(('<text class="tick" x="%s" y="%s" text-anchor="middle">%g</text>'):format(num(x), num(y + 14), n * step))
  end
end

-- ---- All balancers on one scale. ----

--- The range that holds the latencies of all runs; nil if there are none.
function chart.range(runs)
  local low, high = math.huge, 0
  for _, r in ipairs(runs) do
    if r.p50 then low, high = math.min(low, r.p50), math.max(high, r.p999) end
  end
  if high <= 0 or low == math.huge then return nil end
  low = math.max(low, high / 1e6)
  return low / 1.25, high * 1.25
end

--- A row a balancer: its percentiles on a logarithmic scale.
function chart.percentiles(runs)
  local low, high = chart.range(runs)
  if not low then return "<p>No request was answered.</p>" end
  local label_width, width, row = 190, 1040, 30
  local height, parts = #runs * row + 34, {}
  local function out(text) parts[#parts + 1] = text end
  local function x_of(value)
    return label_width + (width - label_width - 20) * math.log(math.max(low, value) / low) / math.log(high / low)
  end
  out(('<svg viewBox="0 0 %d %d" role="img" aria-label="Percentiles of latency by balancer">'):format(width, height))
  for _, tick in ipairs(log_ticks(low, high)) do
    local x = num(x_of(tick))
    out(('<line class="grid" x1="%s" y1="4" x2="%s" y2="%d"/>'):format(x, x, #runs * row + 6))
    out(('<text class="tick" x="%s" y="%d" text-anchor="middle">%s</text>'):format(x, #runs * row + 22,
      round_label(tick)))
  end
  for i, r in ipairs(runs) do
    local y = (i - 0.5) * row + 4
    out(('<text class="name" x="%d" y="%s" text-anchor="end">%s</text>'):format(label_width - 14, num(y + 4),
      chart.escape(r.name)))
    if r.p50 then
      out(('<line class="span" x1="%s" y1="%s" x2="%s" y2="%s"/>'):format(num(x_of(r.p50)), num(y), num(x_of(r.p999)),
        num(y)))
      for n, q in ipairs(chart.quantiles) do
        out(('<circle class="dot q%d" cx="%s" cy="%s" r="6"><title>%s, %s: %s</title></circle>'):format(n,
          num(x_of(r[q[1]])), num(y), chart.escape(r.name), q[2], units.show(r[q[1]])))
      end
    end
  end
  out "</svg>"
  return table.concat(parts)
end

-- ---- Over time. ----

local function polyline(series, x_at, y_of)
  local pieces, open = {}, false
  for i, value in ipairs(series) do
    if value then
      pieces[#pieces + 1] = ("%s%s %s"):format(open and "L" or "M", num(x_at(i)), num(y_of(value)))
      open = true
    else
      open = false
    end
  end
  return table.concat(pieces)
end

local function marks(out, changes, x_of, top, bottom)
  for _, change in ipairs(changes) do
    local x = num(x_of(change.at))
    out(('<line class="event" x1="%s" y1="%s" x2="%s" y2="%s"><title>%s</title></line>'):format(x, num(top), x,
      num(bottom), chart.escape(change.text)))
  end
end

--- A balancer's percentiles over time, on the scale of all of them, and below them how many requests failed.
function chart.latency(run, low, high, seconds, changes)
  local left, width, height, parts = 58, 520, 210, {}
  local top, bottom = 8, height - 34
  local function out(text) parts[#parts + 1] = text end
  local function x_of(at) return left + (width - left - 10) * math.min(1, at / seconds) end
  local function y_of(value)
    local share = math.log(math.min(high, math.max(low, value)) / low) / math.log(high / low)
    return bottom - (bottom - top) * share
  end
  local bucket = seconds / #run.series.at
  local function x_at(i) return x_of((i - 0.5) * bucket) end
  out(('<svg viewBox="0 0 %d %d" role="img" aria-label="Latency over time: %s">'):format(width, height,
    chart.escape(run.name)))
  time_axis(out, x_of, seconds, bottom, top)
  for _, tick in ipairs(log_ticks(low, high)) do
    local y = num(y_of(tick))
    out(('<line class="grid" x1="%d" y1="%s" x2="%d" y2="%s"/>'):format(left, y, width - 10, y))
    out(('<text class="tick" x="%d" y="%s" text-anchor="end">%s</text>'):format(left - 6, num(y_of(tick) + 4),
      round_label(tick)))
  end
  marks(out, changes, x_of, top, bottom)
  for n = #chart.quantiles, 1, -1 do
    out(('<path class="line q%d" d="%s"/>'):format(n, polyline(run.series[chart.quantiles[n][1]], x_at, y_of)))
  end
  for i, failed in ipairs(run.series.failed) do
    if failed > 0 then
      out(('<rect class="failed" x="%s" y="%s" width="%s" height="6"><title>%d failed</title></rect>'):format(
        num(x_of((i - 1) * bucket)), num(bottom - 6), num(math.max(1, x_of(bucket) - x_of(0))), failed))
    end
  end
  out(('<text class="tick" x="%d" y="%d" text-anchor="end">seconds</text></svg>'):format(width - 10, height - 4))
  return table.concat(parts)
end

-- ---- Servers over time. ----

--- The scale of all maps: [n] is where shade n begins; and `most`. Each shade is as many times as much as the one
--- before, from what a quarter of all cells is below to the most there is.
function chart.load_scale(runs)
  local cells = {}
  for _, r in ipairs(runs) do
    for _, series in ipairs(r.series.load) do
      for _, value in ipairs(series) do cells[#cells + 1] = value end
    end
  end
  table.sort(cells)
  local most = cells[#cells] or 0
  local low = math.max(cells[math.ceil(#cells / 4)] or 0, most / 1000, 1e-9)
  local scale = { 0, most = most }
  for level = 2, LEVELS do scale[level] = low * math.max(1.1, (most / low) ^ (1 / (LEVELS - 1))) ^ (level - 2) end
  return scale
end

local function level_of(value, scale)
  local level = 1
  while scale[level + 1] and value >= scale[level + 1] do level = level + 1 end
  return level
end

-- The rectangles of each shade as one path; neighbours of one shade are one rectangle.
local function shade(rows, scale, x_at, y_at, height)
  local paths = {}
  for level = 1, LEVELS do paths[level] = {} end
  for n, series in ipairs(rows) do
    local from = 1
    while from <= #series do
      local level, to = level_of(series[from], scale), from
      while series[to + 1] and level_of(series[to + 1], scale) == level do to = to + 1 end
      local x, wide = x_at(from), x_at(to + 1) - x_at(from)
      table.insert(paths[level], ("M%s %sh%sv%sh-%sz"):format(num(x), num(y_at(n)), num(wide), num(height), num(wide)))
      from = to + 1
    end
  end
  return paths
end

--- What each server had over time: a row a server.
function chart.load(run, scale, seconds, changes)
  local every = math.ceil(#run.servers / ROWS_MOST)
  local rows, names = {}, {}
  for i = 1, #run.servers, every do
    rows[#rows + 1], names[#names + 1] = run.series.load[i], run.servers[i].address
  end
  local row = #rows <= 12 and 16 or #rows <= 30 and 9 or 5
  local left, width, parts = #rows <= 30 and 118 or 84, 520, {}
  local top, bottom = 4, 4 + #rows * row
  local function out(text) parts[#parts + 1] = text end
  local function x_of(at) return left + (width - left - 10) * math.min(1, at / seconds) end
  local function x_at(i) return x_of((i - 1) * seconds / #run.series.at) end
  out(('<svg viewBox="0 0 %d %d" role="img" aria-label="Load of the servers over time: %s">'):format(width, bottom + 34,
    chart.escape(run.name)))
  local paths = shade(rows, scale, x_at, function(n) return top + (n - 1) * row end, math.max(1, row - 1))
  for level, pieces in ipairs(paths) do
    if pieces[1] then out(('<path class="l%d" d="%s"/>'):format(level, table.concat(pieces))) end
  end
  for n, name in ipairs(names) do
    if row >= 9 then
      out(('<text class="tick%s" x="%d" y="%s" text-anchor="end">%s</text>'):format(row < 12 and " small" or "",
        left - 6, num(top + (n - 0.5) * row + 3), chart.escape(#name > 20 and ".." .. name:sub(-18) or name)))
    end
  end
  if row < 9 then
    out(('<text class="tick" x="%d" y="%d" text-anchor="end">%d servers</text>'):format(left - 6, top + 10,
      #run.servers))
  end
  marks(out, changes, x_of, top, bottom)
  time_axis(out, x_of, seconds, bottom, bottom)
  out(('<text class="tick" x="%d" y="%d" text-anchor="end">seconds</text></svg>'):format(width - 10, bottom + 30))
  return table.concat(parts)
end

--- What the shades mean.
function chart.legend(scale)
  local parts = {}
  local function short(value) return (value >= 100 and "%.0f" or "%.2g"):format(value) end
  for level = 1, LEVELS do
    parts[level] = ('<span class="key"><svg viewBox="0 0 14 14"><rect class="l%d" width="14" height="14"/></svg>')
      :format(level) .. short(scale[level]) .. "</span>"
  end
  return table.concat(parts) .. " and more, up to " .. short(scale.most)
end

return chart

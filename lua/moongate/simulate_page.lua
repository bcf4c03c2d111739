-- moongate.simulate_page - what simulated runs came to, as one page: charts and tables, no scripts, light and dark.
local ffi = require "ffi"
local chart = require "moongate.simulate_chart"
local report = require "moongate.simulate_report"
local units = require "moongate.simulate_units"

local S = ffi.C
local SERVERS_MOST = 40         -- rows of the table of servers

local page = {}

local style = [[
:root { color-scheme: light dark; --back: #fcfcfb; --text: #1c1f23; --soft: #5d6570; --line: #dfe2e6; --card: #fff;
  --q1: #a8c5e8; --q2: #5b95d4; --q3: #1f62ae; --q4: #0a2f5e; --bad: #c2351f; --good: #e6f3e8; --event: #b07a00;
  --l1: #f0f3f7; --l2: #d3e3f3; --l3: #a9cbe8; --l4: #76add9; --l5: #458bc6; --l6: #1f68ad; --l7: #10498a;
  --l8: #092d5c; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e6e8eb; --soft: #9aa3ae; --line: #2c3138;
  --card: #1b1f24; --q1: #4a74a8; --q2: #4f8fd6; --q3: #8fc0f5; --q4: #e3f0ff; --bad: #ff7a5c; --good: #1d3324;
  --event: #e0b03f; --l1: #20252c; --l2: #1d3652; --l3: #1f4c79; --l4: #2767a3; --l5: #3f86c8; --l6: #6ca8e2;
  --l7: #a3cbf3; --l8: #e3f0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; font-weight: 650; }
h2 { font-size: 18px; margin: 40px 0 2px; font-weight: 650; }
h3 { font-size: 14px; margin: 0 0 4px; font-weight: 600; }
p { margin: 0 0 12px; color: var(--soft); }
.wide { overflow-x: auto; } .wide > svg { min-width: 640px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; width: 100%; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; padding-left: 4px; }
td.best { background: var(--good); font-weight: 600; } td.bad { color: var(--bad); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 12px 4px; }
svg { display: block; width: 100%; height: auto; }
.key { display: inline-flex; align-items: center; gap: 5px; margin-right: 12px; color: var(--soft); font-size: 13px; }
.key svg { width: 14px; height: 14px; }
svg text { fill: var(--text); font: 12px system-ui, "DejaVu Sans", sans-serif; }
svg text.tick { fill: var(--soft); font-size: 11px; } svg text.small { font-size: 8px; }
.grid { stroke: var(--line); stroke-width: 1; } .span { stroke: var(--line); stroke-width: 4; }
.event { stroke: var(--event); stroke-width: 1.5; stroke-dasharray: 4 3; } .failed { fill: var(--bad); }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .dot { stroke: var(--card); stroke-width: 1; }
]]

local function style_of_series()
  local parts = {}
  for n = 1, 4 do
    parts[#parts + 1] = (".dot.q%d { fill: var(--q%d); } .line.q%d { stroke: var(--q%d); }"):format(n, n, n, n)
  end
  for n = 1, 8 do parts[#parts + 1] = (".l%d { fill: var(--l%d); }"):format(n, n) end
  return table.concat(parts, "\n")
end

-- ---- Tables. ----

local function share(value)
  return value and ("%.2f %%"):format(value * 100) or "-"
end

-- Name, text of a run, and what is compared: the least of it is best; without it nothing is marked.
local columns = {
  { "Requests a second", function(r) return ("%.1f"):format(r.throughput) end },
  { "Mean", function(r) return r.mean and units.show(r.mean) or "-" end, "mean" },
  { "p50", function(r) return r.p50 and units.show(r.p50) or "-" end, "p50" },
  { "p90", function(r) return r.p90 and units.show(r.p90) or "-" end, "p90" },
  { "p99", function(r) return r.p99 and units.show(r.p99) or "-" end, "p99" },
  { "p99.9", function(r) return r.p999 and units.show(r.p999) or "-" end, "p999" },
  { "Imbalance", function(r) return r.imbalance and ("%.3f"):format(r.imbalance) or "-" end, "imbalance" },
  { "Moved", function(r) return share(r.moved) end },
  { "Retries", function(r) return tostring(r.retries) end },
  { "Ejections", function(r) return tostring(r.ejections) end },
  { "Failed", function(r) return tostring(r.failed) end },
}

local function least_of(runs, key)
  local least, many
  for _, r in ipairs(runs) do
    if r[key] and (not least or r[key] < least) then least = r[key] end
  end
  for _, r in ipairs(runs) do many = many or r[key] ~= least end
  return many and least
end

local function figures(runs)
  local parts = { '<div class="wide"><table><tr><th>Balancer</th>' }
  local function out(text) parts[#parts + 1] = text end
  for _, c in ipairs(columns) do out("<th>" .. c[1] .. "</th>") end
  out "</tr>\n"
  for _, r in ipairs(runs) do
    out(("<tr><td>%s</td>"):format(chart.escape(r.name)))
    for _, c in ipairs(columns) do
      local best = c[3] and r[c[3]] and r[c[3]] == least_of(runs, c[3])
      local bad = c[1] == "Failed" and r.failed > 0
      out(("<td%s>%s</td>"):format(best and ' class="best"' or bad and ' class="bad"' or "", c[2](r)))
    end
    out "</tr>\n"
  end
  out "</table></div>\n"
  return table.concat(parts)
end

local function servers(runs)
  local first = runs[1].servers
  local parts = { '<div class="wide"><table><tr><th>Server</th>' }
  local function out(text) parts[#parts + 1] = text end
  for _, r in ipairs(runs) do out("<th>" .. chart.escape(r.name) .. "</th>") end
  out "</tr>\n"
  for i = 1, math.min(#first, SERVERS_MOST) do
    local zone = first[i].zone ~= "" and first[i].zone
    out(("<tr><td>%s%s</td>"):format(chart.escape(first[i].address), zone and ", zone " .. chart.escape(zone) or ""))
    for _, r in ipairs(runs) do
      local s = r.servers[i]
      out(("<td>%s%s</td>"):format(s and share(s.share) or "-",
        s and s.busy and (", %.0f %% busy"):format(s.busy * 100) or ""))
    end
    out "</tr>\n"
  end
  out "</table></div>\n"
  if #first > SERVERS_MOST then out(("<p>The first %d of %d.</p>\n"):format(SERVERS_MOST, #first)) end
  return table.concat(parts)
end

-- ---- The document. ----

local words = {
  [S.MG_CHANGE_UP] = "is up again", [S.MG_CHANGE_KILLED] = "is killed", [S.MG_CHANGE_FROZEN] = "is frozen",
  [S.MG_CHANGE_UNREACHABLE] = "is out of reach",
}

local function describe(change, plan)
  local text = words[change.what]
  if change.what == S.MG_CHANGE_SLOWNESS then
    local usual = plan.servers[change.number + 1].model.slowness
    text = change.value == usual and "is as quick as before" or ("takes %g times as long"):format(change.value)
  elseif change.what == S.MG_CHANGE_FAILS then
    text = ("fails %g %% of its requests"):format(change.value * 100)
  elseif change.what == S.MG_CHANGE_HEALTHY then
    text = change.value == 0 and "is found not healthy" or "is found healthy"
  end
  return ("%g s: %s %s"):format(change.at, plan.servers[change.number + 1].address, text)
end

local function cards(runs, draw)
  local parts = {}
  for i, r in ipairs(runs) do
    parts[i] = ('<div class="card"><h3>%s</h3>%s</div>\n'):format(chart.escape(r.name), draw(r))
  end
  return '<div class="cards">' .. table.concat(parts) .. "</div>\n"
end

local function keys()
  local parts = {}
  for n, q in ipairs(chart.quantiles) do
    parts[n] = ('<span class="key"><svg viewBox="0 0 14 14"><circle class="dot q%d" cx="7" cy="7" r="6"/></svg>')
      :format(n) .. q[2] .. "</span>"
  end
  return "<p>" .. table.concat(parts) .. "</p>\n"
end

local function document(options, plan, runs)
  local title = ("%s: %d balancers, simulated"):format(plan.about.upstream, #runs)
  local changes = {}
  for i, change in ipairs(plan.changes) do changes[i] = { at = change.at, text = describe(change, plan) } end
  local low, high = chart.range(runs)
  local scale = chart.load_scale(runs)
  local parts = {}
  local function out(...) for _, text in ipairs { ... } do parts[#parts + 1] = text end end

  out('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>', chart.escape(title), "</title>\n",
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>\n', style, style_of_series(),
    "</style></head>\n<body><main>\n<h1>", chart.escape(title), "</h1>\n<p>",
    chart.escape(report.headline(options, plan)), ".</p>\n")
  out(figures(runs))
  out("<h2>Latency</h2>\n<p>From the request to the head of its answer, of answers below 500. The scale is ",
    "logarithmic.</p>\n", keys(), '<div class="wide">', chart.percentiles(runs), "</div>\n")
  if low then
    out("<h2>Latency over time</h2>\n<p>By when the requests came; in red below, when some failed.</p>\n", keys())
    out(cards(runs, function(r) return chart.latency(r, low, high, plan.seconds, changes) end))
  end
  out("<h2>Load of the servers over time</h2>\n<p>Requests at each server, waiting and worked at, on average: ",
    chart.legend(scale), ".</p>\n")
  out(cards(runs, function(r) return chart.load(r, scale, plan.seconds, changes) end))
  if changes[1] then
    out "<h2>What happened</h2>\n<p>Dashed lines above.</p>\n<ul>"
    for _, change in ipairs(changes) do out("<li>", chart.escape(change.text), "</li>") end
    out "</ul>\n"
  end
  out("<h2>Shares</h2>\n<p>Of the requests, tries behind the first counted, and how much of the time each server ",
    "worked.</p>\n", servers(runs), "</main></body></html>\n")
  return table.concat(parts)
end

local function open(path, mode)
  local file, why = io.open(path, mode)
  return file or error("moongate sim: --html " .. why, 0)
end

--- Raises why no page can be written there: before the runs, which may be long.
function page.check(path)
  open(path, "a"):close()
end

--- Writes the page. Raises why it can't.
function page.write(path, options, plan, runs)
  local file = open(path, "w")
  local written, problem = file:write(document(options, plan, runs))
  local closed = file:close()
  if not written or not closed then
    error(("moongate sim: --html %s: %s"):format(path, problem or "it can't be written"), 0)
  end
end

return page

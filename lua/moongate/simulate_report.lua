-- moongate.simulate_report - what simulated runs came to, as tables of text and as JSON.
local json = require "moongate.json"
local units = require "moongate.simulate_units"

local report = {}

local SERVERS_MOST = 24         -- rows of the table of shares; with more of them it tells the extremes

local function share(value)
  if not value then return "-" end
  return ("%.2f %%"):format(value * 100)
end

local function seconds(value)
  return value and units.show(value) or "-"
end

local columns = {
  { "requests/s", function(r) return ("%.1f"):format(r.throughput) end },
  { "mean", function(r) return seconds(r.mean) end },
  { "p50", function(r) return seconds(r.p50) end },
  { "p90", function(r) return seconds(r.p90) end },
  { "p99", function(r) return seconds(r.p99) end },
  { "p99.9", function(r) return seconds(r.p999) end },
  { "imbalance", function(r) return r.imbalance and ("%.3f"):format(r.imbalance) or "-" end },
  { "moved", function(r) return share(r.moved) end },
  { "retries", function(r) return tostring(r.retries) end },
  { "ejections", function(r) return tostring(r.ejections) end },
  { "failed", function(r) return tostring(r.failed) end },
}

-- Rows of texts; the first column to the left, the others to the right.
local function print_table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i] or 0, #text) end
  end
  for _, row in ipairs(rows) do
    local parts = {}
    for i, text in ipairs(row) do
      local pad = (" "):rep(widths[i] - #text)
      parts[i] = i == 1 and text .. pad or pad .. text
    end
    io.write((table.concat(parts, "  "):gsub("%s+$", "")), "\n")
  end
end

--- "users: 10 peers, 100000 requests, poisson, 700 a second; service exponential 10.0 ms; seed 1".
function report.headline(options, plan)
  local parts = {
    ("%s: %d peers, %d requests, %s, %s a second"):format(plan.about.upstream, #plan.about.peers, plan.count,
      options.replay and "of " .. options.replay or options.arrivals.text,
      (plan.rate >= 100 and "%.0f" or "%.3g"):format(plan.rate)),
    ("service %s, %s at once"):format(options.service.text, options.capacity == 0 and "any number" or options.capacity),
  }
  if options.workers > 1 then parts[#parts + 1] = ("%d workers, %s view"):format(options.workers, options.view) end
  if options.warm_up > 0 then parts[#parts + 1] = "warm-up " .. units.show(options.warm_up) end
  parts[#parts + 1] = "seed " .. options.seed
  return table.concat(parts, "; ")
end

local function figures(runs)
  local rows = { { "" } }
  for _, c in ipairs(columns) do table.insert(rows[1], c[1]) end
  for _, r in ipairs(runs) do
    local row = { r.name }
    for _, c in ipairs(columns) do row[#row + 1] = c[2](r) end
    rows[#rows + 1] = row
  end
  return rows
end

local function shares(runs)
  local rows = { { "share of requests" } }
  for _, r in ipairs(runs) do table.insert(rows[1], r.name) end
  local function add(label, value_of)
    local row = { label }
    for _, r in ipairs(runs) do row[#row + 1] = value_of(r) end
    rows[#rows + 1] = row
  end
  local first = runs[1].servers
  if #first > SERVERS_MOST then
    for _, which in ipairs { "least", "most" } do
      add(which .. " of " .. #first, function(r)
        local best
        for _, s in ipairs(r.servers) do
          if not best or (which == "least") == (s.share < best) then best = s.share end
        end
        return share(best)
      end)
    end
    return rows
  end
  for i, server in ipairs(first) do
    add(server.address .. (server.zone and "  " .. server.zone or ""), function(r)
      return r.servers[i] and share(r.servers[i].share) or "-"
    end)
  end
  return rows
end

--- Prints the tables.
function report.print(options, plan, runs)
  io.write(report.headline(options, plan), "\n\n")
  print_table(figures(runs))
  io.write "\n"
  print_table(shares(runs))
  io.flush()
end

--- Prints a line of JSON.
function report.print_json(options, plan, runs)
  local out = {
    upstream = plan.about.upstream, requests = plan.count, rate = plan.rate, seconds = plan.seconds,
    seed = options.seed, workers = options.workers, view = options.view,
    service = options.service.text, arrivals = options.arrivals.text,
    runs = {},
  }
  for i, r in ipairs(runs) do
    local run = {}
    for key, value in pairs(r) do
      if key ~= "series" and key ~= "wall" then run[key] = value end
    end
    out.runs[i] = run
  end
  io.write(json.encode(out), "\n")
  io.flush()
end

return report

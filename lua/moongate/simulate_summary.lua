-- moongate.simulate_summary - what a simulated run came to: figures, shares, and series over time.
local ffi = require "ffi"

local S = ffi.C
local NOBODY = 65535
local STATUS_FAILED = 500
local CROWD_SHOWN = 32

local summary = {}

local quantiles = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p999", 0.999 } }

-- The value below which this share of the sorted ones lies (the nearest rank).
local function quantile(values, count, share)
  if count == 0 then return nil end
  return values[math.min(count - 1, math.max(0, math.ceil(share * count) - 1))]
end

-- Latencies of the answers among requests from..to, sorted; how many, and their sum.
local function collect(sim, from, to, values)
  local outcomes, count, sum = sim.outcomes, 0, 0
  for i = from, to - 1 do
    local o = outcomes[i]
    if o.latency >= 0 and o.status > 0 and o.status < STATUS_FAILED then
      values[count] = o.latency
      count, sum = count + 1, sum + o.latency
    end
  end
  S.mg_simulation_sort(values, count)
  return count, sum
end

-- The first request that comes at `at` or later.
local function first_at(sim, at)
  local low, high = 0, sim.count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sim.at[middle] < at then low = middle + 1 else high = middle end
  end
  return low
end

-- How many clients' requests met another server than that client's before, and how many could have.
local function count_moves(sim, from)
  local last, moved, known = ffi.new("uint16_t[?]", math.max(1, sim.clients.count)), 0, 0
  for i = 0, sim.count - 1 do
    local client, backend = sim.client[i], sim.outcomes[i].backend
    if backend ~= NOBODY then
      if i >= from and last[client] > 0 then
        known = known + 1
        if last[client] ~= backend + 1 then moved = moved + 1 end
      end
      last[client] = backend + 1
    end
  end
  return moved, known
end

local function largest(list)
  local most = 0
  for _, value in ipairs(list) do most = math.max(most, value) end
  return most
end

local function mean(list)
  local sum = 0
  for _, value in ipairs(list) do sum = sum + value end
  return #list > 0 and sum / #list or 0
end

-- Largest against mean, each for its weight.
local function imbalance(list, servers)
  local each = {}
  for i, value in ipairs(list) do each[i] = value / (servers[i] and servers[i].weight or 1) end
  local middle = mean(each)
  return middle > 0 and largest(each) / middle or nil
end

-- Tries by server after the warm-up, to the next column: outcomes know the last try only.
local function count_sent(sim, warm)
  local sent, width = {}, sim.served_backends
  local first = math.floor(warm / sim.bucket + 0.5)
  for b = 1, width do
    local sum = 0
    for i = first, sim.bucket_count - 1 do sum = sum + sim.sent[i * width + b - 1] end
    sent[b] = sum
  end
  return sent
end

local function read_series(sim, values)
  local s = { at = {}, load = {}, sent = {}, failed = {} }
  for _, q in ipairs(quantiles) do s[q[1]] = {} end
  local width = sim.served_backends
  for b = 1, width do s.load[b], s.sent[b] = {}, {} end
  for i = 0, sim.bucket_count - 1 do
    local from, to = first_at(sim, i * sim.bucket), first_at(sim, (i + 1) * sim.bucket)
    if i == sim.bucket_count - 1 then to = sim.count end
    local count = collect(sim, from, to, values)
    s.at[i + 1] = i * sim.bucket
    for _, q in ipairs(quantiles) do s[q[1]][i + 1] = quantile(values, count, q[2]) or false end
    s.failed[i + 1] = to - from - count
    for b = 1, width do
      s.load[b][i + 1] = sim.load[i * width + b - 1]
      s.sent[b][i + 1] = sim.sent[i * width + b - 1]
    end
  end
  return s
end

-- [k]: the share of servers and time with at least k requests, k from 1.
local function read_crowd(sim)
  local at_least, sum = {}, 0
  for n = S.MG_CROWD_MOST - 1, 1, -1 do
    sum = sum + sim.crowd[n]
    if n <= CROWD_SHOWN then at_least[n] = sum end
  end
  return at_least
end

local slice = ffi.new "mg_slice"

local function address_of(number)
  S.mg_simulation_address(number, slice)
  return ffi.string(slice.ptr, slice.len)
end

--- The figures of the run that has just ended.
---@param sim ffi.cdata* mg_simulation
---@param plan table
---@param label string
function summary.make(sim, plan, label)
  local from = first_at(sim, sim.warm_up)
  local values = ffi.new("float[?]", math.max(1, sim.count))
  local count, sum = collect(sim, from, sim.count, values)
  local span = sim.ended - sim.warm_up
  local r = {
    name = label, requests = sim.count - from, answered = count, failed = sim.count - from - count,
    throughput = span > 0 and count / span or 0, mean = count > 0 and sum / count or nil,
    max = count > 0 and values[count - 1] or nil, retries = sim.retries, ejections = sim.ejections,
    events = sim.events, wall = sim.wall, seconds = span, at_least = read_crowd(sim),
  }
  for _, q in ipairs(quantiles) do r[q[1]] = quantile(values, count, q[2]) end
  local sent = count_sent(sim, sim.warm_up)
  local all = math.max(1, mean(sent) * #sent)
  r.imbalance = imbalance(sent, plan.servers)
  r.series = read_series(sim, values)
  r.servers = {}
  local last = sim.at[sim.count - 1]
  for b = 1, sim.served_backends do
    local server = plan.servers[b]
    r.servers[b] = {
      address = address_of(b - 1), zone = server and server.zone,
      requests = sent[b], share = sent[b] / all, load = mean(r.series.load[b]), most = largest(r.series.load[b]),
      busy = server and server.model.capacity > 0 and sim.busy[b - 1] / ((last - sim.warm_up) * server.model.capacity)
        or nil,
    }
  end
  local moved, known = count_moves(sim, from)
  r.moved = known > 0 and moved / known or nil
  return r
end

return summary

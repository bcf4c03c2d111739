-- moongate.simulate_plan - a simulation's plan, as the core reads it: when requests come, whose they are, what servers
-- do.
local ffi = require "ffi"
local problem = require "moongate.problem"
local recorded = require "moongate.simulate_log"

local plan = {}

local S = ffi.C
local BUCKETS = 120
local CLIENT, TARGET, ARRIVAL = 16, 17, 18          -- what chance is asked for; mg_chance_of leaves these to us
local DEFAULT_REQUESTS, DEFAULT_LOAD, DEFAULT_RATE = 100000, 0.7, 1000
local NO_BOUND = 2 ^ 32 - 1
local PATIENCE = 300                                -- seconds after the last request

local function raise(format, ...)
  error("moongate sim: " .. format:format(...), 0)
end

-- ---- Words. ----

-- The texts as an mg_words; `keep` holds what it points to.
local function words(list, keep)
  local ends, at = ffi.new("uint32_t[?]", math.max(1, #list)), 0
  for i = 1, #list do
    at = at + #list[i]
    ends[i - 1] = at
  end
  local bytes = table.concat(list)
  local w = ffi.new "mg_words"
  w.bytes, w.ends, w.count = bytes, ends, #list
  table.insert(keep, bytes)
  table.insert(keep, ends)
  return w
end

local function slice(to, text, keep)
  to.ptr, to.len = text, #text
  table.insert(keep, text)
end

local function made_up(count, text_of)
  local list = {}
  for i = 1, count do list[i] = text_of(i) end
  return list
end

local function client_address(i)
  return ("10.%d.%d.%d"):format(math.floor(i / 65536) % 256, math.floor(i / 256) % 256, i % 256)
end

-- ---- When they come. ----

-- Fills `at`; given are unit-rate times, one after the other.
local fillers = {}

function fillers.poisson(at, count, seed, rate)
  local now = 0
  for i = 0, count - 1 do
    now = now - math.log(1 - S.mg_chance(seed, ARRIVAL, i)) / rate
    at[i] = now
  end
end

function fillers.constant(at, count, _, rate)
  for i = 0, count - 1 do at[i] = (i + 1) / rate end
end

function fillers.bursts(at, count, seed, rate, arrivals)
  local now = 0
  for i = 0, count - 1 do
    if i % arrivals.size == 0 then now = now - math.log(1 - S.mg_chance(seed, ARRIVAL, i)) * arrivals.size / rate end
    at[i] = now
  end
end

-- The times at which the integral of the rate passes those of a process of rate 1.
function fillers.ramp(at, count, seed, _, arrivals)
  local from, to = arrivals.from, arrivals.to
  local a, passed = (to - from) * (from + to) / (4 * count), 0
  for i = 0, count - 1 do
    passed = passed - math.log(1 - S.mg_chance(seed, ARRIVAL, i))
    local root = math.max(0, from * from + 4 * a * passed)
    at[i] = a == 0 and passed / from or (math.sqrt(root) - from) / (2 * a)
    if i > 0 and at[i] < at[i - 1] then at[i] = at[i - 1] end
  end
end

-- ---- Who asks, and for what. ----

-- Numbers below `many`, by Zipf's law: the nth as often as 1 / n^skew.
local function draw_numbers(to, count, seed, what, many, skew)
  if skew == 0 then
    for i = 0, count - 1 do to[i] = math.floor(S.mg_chance(seed, what, i) * many) end
    return
  end
  local up_to, sum = ffi.new("double[?]", many), 0
  for n = 1, many do
    sum = sum + n ^ -skew
    up_to[n - 1] = sum
  end
  for i = 0, count - 1 do
    local place, low, high = S.mg_chance(seed, what, i) * sum, 0, many - 1
    while low < high do
      local middle = math.floor((low + high) / 2)
      if up_to[middle] > place then high = middle else low = middle + 1 end
    end
    to[i] = low
  end
end

local function read_headers(list, clients)
  local fields = {}
  for _, text in ipairs(list or {}) do
    local name, value = text:match "^([%w!#$%%&'*+.^_`|~-]+):%s*(.-)%s*$"
    if not name then raise("--header %s: it must be like 'x-user: user-%%d'", text) end
    fields[#fields + 1] = { name = name, list = made_up(#clients, function(i) return (value:gsub("%%d", i)) end) }
  end
  return fields
end

local function write_fields(to, fields, keep)
  local array = ffi.new("mg_field_plan[?]", math.max(1, #fields))
  for i, field in ipairs(fields) do
    slice(array[i - 1].name, field.name, keep)
    array[i - 1].values = words(field.list, keep)
    array[i - 1].chosen = field.chosen
  end
  table.insert(keep, array)
  to.fields, to.field_count = array, #fields
end

-- ---- Servers. ----

local kinds = {
  constant = S.MG_LAW_CONSTANT, exponential = S.MG_LAW_EXPONENTIAL, lognormal = S.MG_LAW_LOGNORMAL,
  pareto = S.MG_LAW_PARETO, bimodal = S.MG_LAW_BIMODAL, file = S.MG_LAW_SAMPLES,
}

local function write_law(to, law, keep)
  if law.kind == "recorded" then return end
  to.kind, to.mean, to.shape, to.share = kinds[law.kind], law.mean or law.quick or 0,
    law.sigma or law.alpha or law.slow or 0, law.share or 0
  if law.samples then
    local samples = ffi.new("double[?]", #law.samples, law.samples)
    to.samples, to.sample_count = samples, #law.samples
    table.insert(keep, samples)
  end
end

-- One server an address: a peer may stand twice in an upstream.
local function list_servers(about)
  local servers, known = {}, {}
  for i, peer in ipairs(about.peers) do
    local server = known[peer.address]
    if not server then
      server = { address = peer.address, zone = peer.zone, weight = 0, first = i }
      known[peer.address] = server
      servers[#servers + 1] = server
    end
    server.weight = server.weight + peer.weight
  end
  return servers
end

-- The servers that "2", "10.0.0.1:80", "zone:a" or "all" mean.
local function find_servers(servers, about, which, place)
  local zone, found = tostring(which):match "^zone:(.*)$", {}
  local peer = about.peers[tonumber(which)]
  for _, server in ipairs(servers) do
    if which == "all" or server.address == which or zone and server.zone == zone or
      peer and server.address == peer.address then
      found[#found + 1] = server
    end
  end
  if #found == 0 then
    raise('%s: the upstream has no peer %s; write an address, a number from 1 to %d, "zone:NAME" or "all"', place,
      problem.show(which), #about.peers)
  end
  return found
end

local function usual_model(options)
  return { service = options.service, slowness = 1, capacity = options.capacity, queue = options.queue, fails = 0,
    fails_with = 500 }
end

local function settle_servers(servers, options, about)
  for _, server in ipairs(servers) do server.model = usual_model(options) end
  for _, entry in ipairs(options.peers) do
    for _, server in ipairs(find_servers(servers, about, entry.which, "peers")) do
      for key, value in pairs(entry.model) do
        if entry.given[key] ~= nil then server.model[key] = value end
      end
    end
  end
end

local function write_model(to, model, keep)
  write_law(to.service, model.service, keep)
  to.slowness, to.capacity, to.queue = model.slowness, model.capacity, model.queue or NO_BOUND
  to.fails, to.fails_with = model.fails, model.fails_with
end

local function write_servers(to, servers, options, keep)
  local array = ffi.new("mg_backend_plan[?]", math.max(1, #servers))
  local zones = options.zones or {}
  local delays = ffi.new("double[?]", math.max(1, #servers * options.workers))
  for i, server in ipairs(servers) do
    local b, model = array[i - 1], server.model
    slice(b.address, server.address, keep)
    write_model(b, model, keep)
    for worker = 0, options.workers - 1 do
      local here = #zones == 0 or zones[worker % #zones + 1] == server.zone
      delays[worker * #servers + i - 1] = model.delay or not here and options.far_delay or options.delay
    end
  end
  table.insert(keep, array)
  table.insert(keep, delays)
  write_model(to.usual, usual_model(options), keep)
  to.backends, to.backend_count, to.delays = array, #servers, delays
end

-- ---- What happens to them. ----

local outages = { kill = S.MG_CHANGE_KILLED, freeze = S.MG_CHANGE_FROZEN, unreachable = S.MG_CHANGE_UNREACHABLE }

-- "2=10@30-60": which, value, from, to.
local function read_change(option, text)
  local which, rest = text:match "^(.-)(@[%d.]+%-?[%d.]*)$"
  which = which or text
  local from, to = (rest or ""):match "^@([%d.]+)%-?([%d.]*)$"
  local name, value = which:match "^(.*)=([^=]*)$"
  if outages[option] then name, value = which, 0 end
  value, from, to = tonumber(value), tonumber(from), tonumber(to)
  if not value or value < 0 or option == "slow" and value == 0 or option == "fail" and value > 1 then
    raise("--%s %s: it must be like %s", option, text, outages[option] and "2@30-60" or
      option == "slow" and "2=10@30-60 (10 times as slow)" or "2=0.5@30-60 (half of its answers)")
  elseif outages[option] and not from then
    raise("--%s %s: when? Write it like 2@30-60, seconds from the beginning", option, text)
  elseif to and to <= from then
    raise("--%s %s: it ends before it begins", option, text)
  end
  return name, value, from, to
end

local function collect_changes(servers, options, about)
  local changes = {}
  local function add(at, what, server, value)
    changes[#changes + 1] = { at = at, what = what, number = server.number, value = value, order = #changes }
  end
  for _, option in ipairs { "slow", "fail", "kill", "freeze", "unreachable" } do
    for _, text in ipairs(options[option] or {}) do
      local which, value, from, to = read_change(option, text)
      for _, server in ipairs(find_servers(servers, about, which, "--" .. option .. " " .. text)) do
        if outages[option] then
          add(from, outages[option], server, 0)
          if to then add(to, S.MG_CHANGE_UP, server, 0) end
          if options.noticed then
            add(from + options.noticed, S.MG_CHANGE_HEALTHY, server, 0)
            if to then add(to + options.noticed, S.MG_CHANGE_HEALTHY, server, 1) end
          end
        else
          local key = option == "slow" and "slowness" or "fails"
          local what = option == "slow" and S.MG_CHANGE_SLOWNESS or S.MG_CHANGE_FAILS
          if from then
            add(from, what, server, value)
            if to then add(to, what, server, server.model[key]) end
          else
            server.model[key] = value
          end
        end
      end
    end
  end
  table.sort(changes, function(a, b) return a.at < b.at or a.at == b.at and a.order < b.order end)
  return changes
end

local function write_changes(to, changes, keep)
  local array = ffi.new("mg_change[?]", math.max(1, #changes))
  for i, change in ipairs(changes) do
    array[i - 1] = { at = change.at, value = change.value, backend = change.number, what = change.what }
  end
  table.insert(keep, array)
  to.changes, to.change_count = array, #changes
end

-- ---- The whole. ----

-- Requests a second that keep the servers as busy as it is asked for.
local function rate_of(options, servers)
  if options.rate then return options.rate end
  if options.arrivals.kind == "ramp" then return (options.arrivals.from + options.arrivals.to) / 2 end
  local all = 0
  for _, server in ipairs(servers) do
    local model = server.model
    if model.capacity == 0 then
      if options.load then raise("--load: servers without a bound (capacity 0) are never full; give --rate instead") end
      return DEFAULT_RATE
    end
    all = all + model.capacity / (model.service.average * model.slowness)
  end
  if all == 0 then raise("the upstream declares no peers, so --load has no meaning: give --rate") end
  return all * (options.load or DEFAULT_LOAD)
end

local function write_requests(to, requests, keep)
  for _, key in ipairs { "at", "client", "target", "service" } do
    if requests[key] then table.insert(keep, requests[key]) end
    to[key] = requests[key]
  end
  to.count = requests.count
  to.clients, to.targets = words(requests.clients, keep), words(requests.targets, keep)
  write_fields(to, requests.fields, keep)
end

local function invent(options, rate)
  local count = options.requests or options.seconds and math.ceil(options.seconds * rate) or DEFAULT_REQUESTS
  local r = {
    count = count, at = ffi.new("double[?]", count), client = ffi.new("uint32_t[?]", count),
    target = ffi.new("uint32_t[?]", count),
    clients = made_up(options.clients, client_address),
    targets = made_up(options.paths, function(i) return "/" .. i end),
  }
  fillers[options.arrivals.kind](r.at, count, options.seed, rate, options.arrivals)
  draw_numbers(r.client, count, options.seed, CLIENT, options.clients, options.skew)
  draw_numbers(r.target, count, options.seed, TARGET, options.paths, options.skew)
  r.fields = read_headers(options.header, r.clients)
  return r
end

--- The plan for an upstream, written into the core's struct.
---@param to ffi.cdata* mg_simulation
---@param options table what moongate.simulate_options has read
---@param about table what moongate.simulated says of the upstream
---@return table plan { keep, servers, changes, rate, count, seconds }
function plan.write(to, options, about)
  local keep, servers = {}, list_servers(about)
  for i, server in ipairs(servers) do server.number = i - 1 end
  settle_servers(servers, options, about)
  local changes = collect_changes(servers, options, about)
  local rate = not options.replay and rate_of(options, servers)
  local requests = options.replay and recorded.read(options) or invent(options, rate)
  if options.replay then
    local own = read_headers(options.header, requests.clients)
    for _, field in ipairs(own) do table.insert(requests.fields, field) end
  end
  write_requests(to, requests, keep)
  write_servers(to, servers, options, keep)
  write_changes(to, changes, keep)
  local last = requests.at[requests.count - 1]
  local seconds = last > 0 and last or 1
  slice(to.upstream, about.upstream, keep)
  to.seed, to.warm_up, to.patience = options.seed, options.warm_up, PATIENCE
  to.bucket, to.bucket_count = seconds / BUCKETS, BUCKETS
  if options.warm_up >= seconds then
    raise("--warm-up: the last request comes after %.3g s, and nothing would be counted", seconds)
  end
  return { keep = keep, servers = servers, changes = changes, rate = rate or requests.count / seconds,
    count = requests.count, seconds = seconds, about = about, requests = requests }
end

return plan

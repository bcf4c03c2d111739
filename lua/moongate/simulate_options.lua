-- moongate.simulate_options - what is to be simulated: of the command line, and of a scenario, by the same names.
local problem = require "moongate.problem"
local schema = require "moongate.schema"
local units = require "moongate.simulate_units"

local options = {}

options.help = [[
moongate sim FILE: tries out how balancers spread the requests of an upstream, in simulated time.

The functions are the script's own, and so is all that they see: the core's engine runs as it does in traffic, with its
retries, queues and peers' state. Only time, clients and servers are simulated. Each balancer meets the same requests,
which take the same time, and the same seed gives the same result.

  --upstream NAME      which of the script's upstreams (needed if there are several)
  --balance LIST       which balancers, side by side: names with commas, "script" for the script's own, "all"; also
                       with options, 'maglev { size = 131071 }'. May be repeated. Default:
                       script,round_robin,least_conn,random,p2c
  --scenario FILE      a table of these options, and of servers and what happens to them (a file that returns it)

Requests
  --requests N         how many (default: 100000); or --seconds S
  --rate R             requests a second; or --load L, as a share of what all servers can do (default: 0.7)
  --arrivals KIND      poisson (default), constant, "bursts 20", "ramp 100 2000" (from and to requests a second)
  --replay LOG         the requests of an access log: Moongate's JSON, common or combined
  --speed X            the log X times as fast (default: 1)
  --clients N          addresses that they come from (default: 1000)
  --paths N            paths that they ask for, "/1" and so on (default: 1000)
  --skew S             how uneven clients and paths are: exponent of Zipf's law (default: 0, all alike)
  --header TEXT        a field of each request: 'x-user: user-%d', with the client's number. May be repeated
  --policies           requests take their whole way by the script's routes and policies, not only to the upstream

Servers
  --service LAW        how long a request takes: "exponential 10ms" (default), "constant 10ms", "lognormal 10ms 0.8",
                       "pareto 10ms 1.5", "bimodal 10ms 200ms 0.05", "file PATH", or "recorded" with --replay
  --capacity N         requests that a server works at at once (default: 1; 0: any number)
  --queue N            requests that may wait there; more get 503 (default: no bound)
  --delay T            there and back (default: 0); --far-delay T to a server of another zone
  --zones LIST         where the gateways are (their scripts see it as os.getenv "ZONE")
  --slow PEER=X        X times as slow; PEER is an address, a number, "zone:NAME" or "all". These may be repeated, and
                       each may end in @FROM or @FROM-TO, seconds from the beginning: --slow 2=10@30-60
  --fail PEER=SHARE    this share of its answers are 500
  --kill PEER@FROM-TO  it refuses connections, and what it had is cut
  --freeze PEER@FROM-TO        it answers nothing
  --unreachable PEER@FROM-TO   connections to it time out
  --noticed T          a health check finds that after T (default: none does)

Gateways
  --workers N          of them (default: 1); --view own if they know nothing of each other (default: shared)

Results
  --warm-up T          what comes before is not counted (default: 0)
  --seed N             of all chance (default: 1)
  --html PATH          a page with charts
  --json               one line of JSON instead of tables
  --help
]]

-- ---- Kinds. ----

local function duration(rest)
  return schema.any('a duration like 0.01 or "10ms"', units.seconds, rest)
end

-- Text of the command line, as the numbers that these kinds take.
local function number(kind)
  kind.text = function(text) return tonumber(text) or text end
  return kind
end

-- Given several times, the values make a list.
local function repeated(kind)
  kind.repeated = true
  return kind
end

local function list_of(expect)
  return repeated(schema.any(expect, function(value)
    if type(value) == "string" then return { value } end
    return type(value) == "table" and value or nil
  end))
end

local function read_arrivals(value)
  if type(value) == "string" then
    local words = {}
    for word in value:gmatch "%S+" do words[#words + 1] = tonumber(word) or word end
    value = words
  end
  if type(value) ~= "table" then return nil end
  local kind, a, b = value[1], value.size or value.from or value[2], value.to or value[3]
  if (kind == "poisson" or kind == "constant") and not a then return { kind = kind, text = kind } end
  if kind == "bursts" and type(a) == "number" and a >= 1 and a % 1 == 0 then
    return { kind = kind, size = a, text = ("in bursts of %d"):format(a) }
  end
  if kind == "ramp" and type(a) == "number" and type(b) == "number" and a >= 0 and b >= 0 and a + b > 0 then
    return { kind = kind, from = a, to = b, text = ("from %g to %g a second"):format(a, b) }
  end
end

local function read_law(value)
  if value == "recorded" then return { kind = "recorded", text = "as recorded" } end
  return units.law(value)
end

local keys = {
  upstream = schema.text(),
  balance = list_of "names of balancers",
  scenario = schema.text(),
  requests = number(schema.count { min = 1, max = 1e8 }),
  seconds = number(schema.seconds { above = 0 }),
  rate = number(schema.number { above = 0 }),
  load = number(schema.number { above = 0 }),
  arrivals = schema.any('"poisson", "constant", "bursts 20" or "ramp 100 2000"', read_arrivals,
    { default = { kind = "poisson", text = "poisson" } }),
  replay = schema.text(),
  speed = number(schema.number { above = 0, default = 1 }),
  clients = number(schema.count { min = 1, max = 1e7, default = 1000 }),
  paths = number(schema.count { min = 1, max = 1e7, default = 1000 }),
  skew = number(schema.number { max = 10, default = 0 }),
  header = list_of "fields like 'x-user: user-%d'",
  policies = schema.flag { default = false },
  service = schema.any(units.laws_expected .. ', or "recorded"', read_law, { default = units.law "exponential 10ms" }),
  capacity = number(schema.count { default = 1 }),
  queue = number(schema.count()),
  delay = duration { default = 0 },
  far_delay = duration(),
  zones = schema.words { expect = 'names with commas, like "a,b"' },
  slow = list_of "changes like 2=10@30-60",
  fail = list_of "changes like 2=0.5@30-60",
  kill = list_of "outages like 2@30-60",
  freeze = list_of "outages like 2@30-60",
  unreachable = list_of "outages like 2@30-60",
  noticed = duration(),
  workers = number(schema.count { min = 1, max = 64, default = 1 }),
  view = schema.choice({ "shared", "own" }, { default = "shared" }),
  warm_up = duration { default = 0 },
  seed = number(schema.count { default = 1 }),
  html = schema.text(),
  json = schema.flag { default = false },
  peers = schema.table { expect = 'a table like { ["10.0.0.1:80"] = { slowness = 3 } }' },
}

local peer_keys = {
  service = schema.any(units.laws_expected, units.law),
  slowness = schema.number { above = 0, default = 1 },
  capacity = schema.count(),
  queue = schema.count(),
  delay = duration(),
  fails = schema.number { max = 1, default = 0 },
  fails_with = schema.any("a status from 400 to 599, or 0: the connection is cut", function(value)
    local fits = type(value) == "number" and value % 1 == 0 and (value == 0 or value >= 400 and value <= 599)
    return fits and value or nil
  end, { default = 500 }),
}

-- ---- The command line. ----

local function raise(format, ...)
  error("moongate sim: " .. format:format(...), 0)
end

local function take(given, key, value)
  local kind = keys[key]
  if kind.text then value = kind.text(value) end
  if kind.repeated then
    given[key] = given[key] or {}
    table.insert(given[key], value)
  else
    given[key] = value
  end
end

local function read_words(words)
  local given, files, i = {}, {}, 1
  while words[i] do
    local name, value = words[i]:match "^%-%-([%w-]+)=?(.*)$"
    local key = name and name:gsub("-", "_")
    if words[i] == "--help" or words[i] == "-h" then
      return nil
    elseif not name then
      files[#files + 1] = words[i]
    elseif key == "json" or key == "policies" then
      given[key] = true
    elseif not keys[key] or key == "peers" then
      local known = {}
      for known_key in pairs(keys) do known[(known_key:gsub("_", "-"))] = true end
      raise("there is no option --%s%s; moongate sim --help tells more", name, (problem.nearest(name, known)
        and "; did you mean --" .. problem.nearest(name, known) .. "?" or ""))
    else
      if not words[i]:find("=", 1, true) then
        i = i + 1
        value = words[i] or raise("a value is needed after --%s", name)
      end
      take(given, key, value)
    end
    i = i + 1
  end
  return given, files
end

local function add_scenario(given)
  local path = given.scenario
  local chunk, why = loadfile(path)
  if not chunk then raise("--scenario %s: %s", path, why) end
  local ok, scenario = pcall(chunk)
  if not ok then raise("--scenario %s: %s", path, scenario) end
  if type(scenario) ~= "table" then
    raise("--scenario %s: it must return a table, got %s", path, problem.show(scenario))
  end
  for key, value in pairs(scenario) do
    if given[key] == nil then given[key] = value end
  end
end

local function read_peers(given)
  local peers = {}
  for which, model in pairs(given or {}) do
    local function fail(message) raise("peers: %s: %s", tostring(which), message) end
    if type(model) ~= "table" then fail("it must be a table like { slowness = 3 }, got " .. problem.show(model)) end
    peers[#peers + 1] = { which = which, model = schema.read(model, peer_keys, fail), given = model }
  end
  table.sort(peers, function(a, b) return tostring(a.which) < tostring(b.which) end)
  return peers
end

local exclusive = { { "requests", "seconds" }, { "rate", "load" }, { "replay", "rate" }, { "replay", "load" },
  { "replay", "seconds" } }

--- The options that these words of the command line give; nil: help is asked for. Raises what is wrong.
---@param words string[]
---@return table? options, string? script
function options.read(words)
  local given, files = read_words(words)
  if not given then return nil end
  if #files ~= 1 then
    local text = #files == 0 and "a script is needed: moongate sim gateway.lua" or "one script only; what is this: %s"
    raise(text, files[2])
  end
  if given.scenario then add_scenario(given) end
  local function fail(message)
    raise("%s", (message:gsub("^[%w_]+", function(key) return (key:gsub("_", "-")) end)))
  end
  local read = schema.read(given, keys, fail)
  for _, pair in ipairs(exclusive) do
    if given[pair[1]] ~= nil and given[pair[2]] ~= nil then
      raise("--%s and --%s exclude each other", pair[1], pair[2])
    end
  end
  if read.service.kind == "recorded" and not read.replay then raise("--service recorded needs --replay") end
  read.peers = read_peers(read.peers)
  return read, files[1]
end

-- ---- Balancers. ----

local DEFAULT_BALANCERS = "script,round_robin,least_conn,random,p2c"
local needless = "round_robin,least_conn,random,p2c,ewma,maglev,ring,rendezvous,source_hash,slow_start,sticky,tiers"

-- The parts between commas that stand in no brackets.
local function split(text)
  local parts, depth, from = {}, 0, 1
  for at, c in text:gmatch "()([,(){}])" do
    if c == "," and depth == 0 then
      parts[#parts + 1] = text:sub(from, at - 1)
      from = at + 1
    elseif c ~= "," then
      depth = depth + ((c == "(" or c == "{") and 1 or -1)
    end
  end
  parts[#parts + 1] = text:sub(from)
  return parts
end

-- "p2c", or "maglev { size = 131071 }".
local function read_balancer(text)
  text = text:match "^%s*(.-)%s*$"
  if not text:find "[{(]" then return { label = text, kind = text == "script" and "script" or "name", text = text } end
  local name, rest = text:match "^([%w_]+)%s*(.*)$"
  if not name or not loadstring(("return require 'balance.%s' %s"):format(name, rest)) then
    raise("--balance %s: it must be a name, or a name and a table of options: 'maglev { size = 131071 }'", text)
  end
  return { label = text, kind = "code", text = name .. "' " .. rest }
end

--- The balancers that are to be tried: { label, kind: "script"|"name"|"code"|"scenario", text?, key? }.
function options.balancers(read)
  local list = {}
  local function add(entry)
    list[#list + 1] = entry
  end
  for key, value in pairs(read.balance or { DEFAULT_BALANCERS }) do
    if type(value) == "function" or type(value) == "table" then
      add { label = type(key) == "string" and key or "balancer " .. key, kind = "scenario", key = key }
    elseif type(value) ~= "string" then
      raise("balance: %s must be a name or a function, got %s", tostring(key), problem.show(value))
    else
      for _, text in ipairs(split((value:gsub("^all%f[,%z]", needless)))) do add(read_balancer(text)) end
    end
  end
  return list
end

return options

-- moongate.health - what an upstream's options say of its peers' health: health, eject, breaker, panic.
local core = require "moongate.core"
local schema = require "moongate.schema"

local health = {}

local count, seconds, text = schema.count, schema.seconds, schema.text

-- A set of statuses: numbers, and words like "2xx".
local function read_statuses(value)
  local set = {}
  if type(value) ~= "table" then value = { value } end
  for _, one in ipairs(value) do
    local hundred = type(one) == "string" and one:match "^([1-5])xx$"
    if hundred then
      for status = hundred * 100, hundred * 100 + 99 do set[status] = true end
    elseif type(one) == "number" and one % 1 == 0 and one >= 100 and one <= 599 then
      set[one] = true
    else
      return nil
    end
  end
  return next(set) and set
end

local function read_pattern(value)
  if type(value) == "string" and pcall(string.find, "", value) then return value end
end

local function read_patterns(value)
  if type(value) ~= "table" then return nil end
  for name, pattern in pairs(value) do
    if type(name) ~= "string" or not read_pattern(pattern) then return nil end
  end
  return value
end

local expect_keys = {
  status = schema.any('a status, or a list like { 200, "3xx" }', read_statuses, { default = read_statuses "2xx" }),
  headers = schema.any('a table like { ["x-ready"] = "^yes" } of Lua patterns', read_patterns, { default = {} }),
  body = schema.any("a Lua pattern", read_pattern),
}

local check_keys = {
  path = schema.any('a path like "/healthz"', function(value)
    if type(value) == "string" and value:find "^/" then return value end
  end),
  tcp = schema.flag(),
  grpc = schema.any("true, or the name of a service of at most 120 bytes", function(value)
    if value == true or type(value) == "string" and value ~= "" and #value <= 120 then return value end
  end),
  check = schema.func(),
  interval = seconds { above = 0, default = 5 },
  jitter = schema.number { max = 1, default = 0.1 },
  timeout = seconds { above = 0, default = 1 },
  rise = count { min = 1, default = 2 },
  fall = count { min = 1, default = 3 },
  method = text { default = "GET" },
  host = text(),
  headers = schema.table(),
  port = count { min = 1, max = 65535 },
  expect = schema.table { expect = 'a table like { status = 200, body = "ready" }' },
}

local eject_keys = {
  consecutive = count(), errors = schema.number { max = 1 }, least = count { min = 1 },
  latency = schema.number { expect = "0, or a number above 1" }, window = seconds { above = 0 },
  time = seconds { above = 0 }, time_most = seconds { above = 0 }, share = schema.number { max = 1 },
}

local breaker_keys = {
  consecutive = count(), errors = schema.number { max = 1 }, least = count { min = 1 }, max_active = count(),
  max_waiting = count(), tries = count { min = 1 }, window = seconds { above = 0 }, time = seconds { above = 0 },
  time_most = seconds { above = 0 },
}

local function true_or_table(value)
  if value == true then return {} end
  if type(value) == "table" then return value end
end

--- Those of gate.upstream's.
health.keys = {
  health = schema.table { expect = 'a table like { path = "/healthz", interval = 2 }' },
  eject = schema.any("true or a table of options", true_or_table),
  breaker = schema.any("true or a table of options", true_or_table),
  panic = schema.number { max = 1 },
  load_header = text { expect = "the name of a header field" },
  error_statuses = schema.any("a list of at most 16 statuses from 100 to 599", function(value)
    if type(value) ~= "table" or #value > 16 then return nil end
    for _, status in ipairs(value) do
      if type(status) ~= "number" or status % 1 ~= 0 or status < 100 or status > 599 then return nil end
    end
    return value
  end),
}

local function put(spec, given, keys, name, fail)
  local function own_fail(message) fail(name .. ": " .. message) end
  for key, value in pairs(schema.read(given, keys, own_fail)) do spec[key] = value end
  if spec.time_most < spec.time then
    own_fail(("time_most (%g s) is less than time (%g s)"):format(spec.time_most, spec.time))
  end
  spec.on = true
end

--- Into the mg_upstream_spec.
function health.fill(spec, read, fail)
  if read.eject then
    put(spec.eject, read.eject, eject_keys, "eject", fail)
    local latency = spec.eject.latency
    if latency > 0 and latency <= 1 then
      fail(("eject: latency must be 0, or a number above 1, got %g"):format(latency))
    end
  end
  if read.breaker then put(spec.breaker, read.breaker, breaker_keys, "breaker", fail) end
  if read.panic then spec.panic = read.panic end
  if read.load_header then core.put(spec.load_header, read.load_header) end
  if read.error_statuses then
    for i, status in ipairs(read.error_statuses) do spec.error_status[i - 1] = status end
    spec.error_status_count = #read.error_statuses
  end
end

-- Which of the kinds it is.
local function kind_of(options, fail)
  local found
  for _, kind in ipairs { "path", "tcp", "grpc", "check" } do
    if options[kind] then
      if found then fail(("it has both %s and %s; a check is of one kind"):format(found, kind)) end
      found = kind
    end
  end
  if not found then
    fail 'what is to be checked? give it path = "/healthz", tcp = true, grpc = true or check = a function'
  end
  return found
end

local only_with = {
  method = { path = true }, headers = { path = true }, expect = { path = true },
  host = { path = true, grpc = true }, port = { path = true, tcp = true, grpc = true },
}

local function headers_of(options)
  local headers = { host = options.host }
  for name, value in pairs(options.headers or {}) do headers[name] = value end
  return headers
end

--- The options of the checks, checked; fills in rise and fall.
---@return table?
function health.read(spec, read, fail)
  if not read.health then return nil end
  local function own_fail(message) fail("health: " .. message) end
  local options = schema.read(read.health, check_keys, own_fail)
  local kind = kind_of(options, own_fail)
  for key, kinds in pairs(only_with) do
    if read.health[key] ~= nil and not kinds[kind] then own_fail(("%s is not for checks by %s"):format(key, kind)) end
  end
  if kind == "grpc" and read.protocol == "http/1.1" then
    own_fail 'grpc is spoken over HTTP/2; give the upstream protocol = "h2"'
  elseif kind == "tcp" and read.tls and read.proxy_protocol then
    own_fail "tcp can't shake hands behind a PROXY header; check by path, or by a function"
  end
  local function expect_fail(message) own_fail("expect: " .. message) end
  options.expected = schema.read(options.expect or {}, expect_keys, expect_fail)
  options.headers, options.tls = headers_of(options), read.tls
  spec.rise, spec.fall = options.rise, options.fall
  return options
end

--- For `moongate check`: what is declared, in words.
function health.text(read)
  local words, given = {}, read.health
  if given then
    local what = given.path and (given.method or "GET") .. " " .. given.path or given.tcp and "tcp"
      or given.grpc and "grpc" or "a function"
    words[1] = ("checked by %s every %g s"):format(what, given.interval or check_keys.interval.default)
  end
  if read.eject then words[#words + 1] = "ejects" end
  if read.breaker then words[#words + 1] = "breaker" end
  return table.concat(words, ", ")
end

return health

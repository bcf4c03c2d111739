-- moongate.simulate_log - the requests of an access log: when they came, from whom, for what, and how long they took.
local ffi = require "ffi"
local json = require "moongate.json"
local problem = require "moongate.problem"

local recorded = {}

local function raise(format, ...)
  error("moongate sim: " .. format:format(...), 0)
end

local months = {}
for name in ("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"):gmatch "%a+" do
  months[#months + 1], months[name] = name, #months + 1
end

-- Days from 1970-01-01, by the proleptic Gregorian calendar: March begins the year, so that leap days end it.
local function days(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

local function unix(year, month, day, hour, minute, second)
  return days(tonumber(year), tonumber(month), tonumber(day)) * 86400 + hour * 3600 + minute * 60 + second
end

-- "2026-11-23T10:11:12.345Z".
local function iso_time(text)
  local y, mo, d, h, mi, s = tostring(text):match "^(%d+)-(%d+)-(%d+)T(%d+):(%d+):([%d.]+)Z$"
  return y and unix(y, mo, d, h, mi, s)
end

-- "23/Nov/2026:10:11:12 +0000".
local function common_time(text)
  local d, mo, y, h, mi, s, sign, zh, zm = text:match "^(%d+)/(%a+)/(%d+):(%d+):(%d+):(%d+) ([+-])(%d%d)(%d%d)$"
  if not d or not months[mo] then return nil end
  local offset = (zh * 3600 + zm * 60) * (sign == "-" and -1 or 1)
  return unix(y, months[mo], d, h, mi, s) - offset
end

local function read_json(line)
  local ok, value = pcall(json.decode, line)
  if not ok or type(value) ~= "table" then return nil end
  local at, path = iso_time(value.time), value.path
  if not at or type(path) ~= "string" then return nil end
  if type(value.query) == "string" then path = path .. "?" .. value.query end
  local took = type(value.latency) == "number" and value.latency or type(value.duration) == "number" and value.duration
  return { at = at, client = value.client, path = path, took = took or nil, agent = value.user_agent }
end

local function read_common(line)
  local client, stamp, target, rest = line:match '^(%S+) %S+ %S+ %[([^%]]+)%] "%S+ (%S+)[^"]*"(.*)$'
  local at = client and common_time(stamp)
  if not at then return nil end
  return { at = at, client = client, path = target, agent = rest:match '" "([^"]*)"%s*$' }
end

-- Numbers of the texts, in the order in which they were first seen.
local function new_index()
  local list, numbers = {}, {}
  return list, function(text)
    local n = numbers[text]
    if not n then
      n = #list
      numbers[text], list[n + 1] = n, text
    end
    return n
  end
end

local function is_address(text)
  return type(text) == "string" and (text:find "^%d+%.%d+%.%d+%.%d+$" or text:find "^[%x:]*:[%x:.]*$") ~= nil
end

local function read_lines(path)
  local file, why = io.open(path)
  if not file then raise("--replay %s: %s", path, why) end
  local list, number = {}, 0
  for line in file:lines() do
    number = number + 1
    if line:find "%S" then
      local entry = line:find "^%s*{" and read_json(line) or read_common(line)
      if not entry then
        file:close()
        raise("--replay %s: line %d is not of an access log (JSON with time and path, common or combined): %s", path,
          number, problem.show(line))
      end
      list[#list + 1] = entry
    end
  end
  file:close()
  if #list == 0 then raise("--replay %s: it has no requests", path) end
  return list
end

-- Lines are written when requests end. Stamps of whole seconds are spread over their second.
local function sort_and_spread(list)
  for i, entry in ipairs(list) do entry.order = i end
  table.sort(list, function(a, b) return a.at < b.at or a.at == b.at and a.order < b.order end)
  local from = 1
  while from <= #list do
    local to = from
    while list[to + 1] and list[to + 1].at == list[from].at do to = to + 1 end
    if list[from].at % 1 == 0 then
      local many, at = to - from + 1, list[from].at
      for i = from, to do list[i].at = at + (i - from) / many end
    end
    from = to + 1
  end
end

local function target_of(path)
  return path:sub(1, 1) == "/" and not path:find "[^\33-\126]" and path or "/"
end

--- The requests, as moongate.simulate_plan has them.
---@param options table
function recorded.read(options)
  local list = read_lines(options.replay)
  sort_and_spread(list)
  local count = math.min(#list, options.requests or #list)
  local clients, client_of = new_index()
  local targets, target = new_index()
  local agents, agent_of = new_index()
  local r = {
    count = count, at = ffi.new("double[?]", count), client = ffi.new("uint32_t[?]", count),
    target = ffi.new("uint32_t[?]", count), clients = clients, targets = targets,
  }
  local agent = ffi.new("uint32_t[?]", count)
  local wants_service = options.service.kind == "recorded"
  if wants_service then r.service = ffi.new("double[?]", count) end
  for i = 1, count do
    local entry = list[i]
    r.at[i - 1] = (entry.at - list[1].at) / options.speed
    r.client[i - 1] = client_of(is_address(entry.client) and entry.client or "127.0.0.1")
    r.target[i - 1] = target(target_of(entry.path))
    agent[i - 1] = agent_of(type(entry.agent) == "string" and entry.agent ~= "-" and entry.agent or "")
    if wants_service then
      if not entry.took then raise("--service recorded: the log has no latency or duration, only JSON has them") end
      r.service[i - 1] = entry.took
    end
  end
  r.fields = { { name = "user-agent", list = agents, chosen = agent } }
  return r
end

return recorded

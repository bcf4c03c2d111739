-- moongate.probe - looks after the peers of an upstream: its health checks, and the judge of its ejections and breaker.
--
-- Every worker has the timers, one of them leads: that one does the work. A sweep
-- goes from peer to peer, so that the checks of many are spread over the interval.
local C = require "moongate.seam"
local declared = require "moongate.declared"
local fetch = require "moongate.fetch"
local fiber = require "moongate.fiber"
local hook = require "moongate.hook"
local owner = require "moongate.owner"
local peer = require "moongate.peer"
local socket = require "moongate.socket"
local spawn = require "moongate.spawn"
local timer = require "moongate.timer"
local at = hook.at

local probe = {}

local STEP_LEAST = 0.01         -- seconds between two steps of a sweep
local LOOK, LEADS = 1, 3        -- seconds between two looks at who leads, and that somebody leads without one
local AT_ONCE_MOST = 256        -- peers that nobody has checked yet, at a time
local BODY_MOST = 64 * 1024
local JUDGED_LEAST, JUDGED_MOST = 0.05, 1       -- seconds between two looks of the judge

-- ---- How a peer is checked: functions of the peer that say true, or false and the reason. ----

local function note_load(p, name, headers)
  local load = name and headers[name]
  if load and load:find "^%d*%.?%d*$" and tonumber(load) then C.mg_peer_set_load(p[1], tonumber(load)) end
end

local function meets(expected, got)
  if not expected.status[got.status] then return false, "status " .. got.status end
  for name, pattern in pairs(expected.headers) do
    local value = got.headers[name]
    if not value then return false, ("it has no %s"):format(name) end
    if not value:find(pattern) then return false, ("%s is %q"):format(name, value:sub(1, 40)) end
  end
  if expected.body and not got.body:find(expected.body) then return false, "the body is not what is expected" end
  return true
end

local function over_http(options, load_header)
  local asked = {
    method = options.method, headers = options.headers, port = options.port, timeout = options.timeout,
    max_size = BODY_MOST,
  }
  return function(p)
    local got, problem = fetch.of_peer(p[1], options.path, asked)
    if got.status == 0 then return false, problem end
    note_load(p, load_header, got.headers)
    return meets(options.expected, got)
  end
end

local function over_tcp(options)
  local asked = { timeout = options.timeout, tls = options.tls, fresh = true }
  return function(p)
    local host, port = p.address:match "^%[?(.-)%]?:(%d+)$"
    local s, problem
    if host and not p.address:find "^unix:" then
      s, problem = socket.connect(host, options.port or tonumber(port), asked)
    else
      s, problem = socket.connect(p.address, asked)
    end
    if not s then return false, problem end
    s:close()
    return true
  end
end

-- grpc.health.v1.Health/Check: a message is a byte 0, its length in four, and fields of protobuf: 10 is the text that
-- is field 1 of a request, 8 the number that is field 1 of an answer. 1 is SERVING.
local function over_grpc(options)
  local service = options.grpc == true and "" or options.grpc
  local message = service == "" and "" or "\10" .. string.char(#service) .. service
  local asked = {
    method = "POST", headers = { ["content-type"] = "application/grpc", host = options.host }, port = options.port,
    timeout = options.timeout, max_size = BODY_MOST, body = "\0\0\0\0" .. string.char(#message) .. message,
  }
  local words = { [0] = "UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN" }
  return function(p)
    local got, problem = fetch.of_peer(p[1], "/grpc.health.v1.Health/Check", asked)
    if got.status == 0 then return false, problem end
    if got.status ~= 200 then return false, "status " .. got.status end
    local code = got.trailers and got.trailers["grpc-status"] or got.headers["grpc-status"]
    if code ~= "0" then return false, "grpc-status " .. tostring(code) end
    local answer = got.body:byte(6) == 8 and got.body:byte(7) or 0
    return answer == 1, words[answer] or "an answer that is none"
  end
end

local function by_function(options)
  return function(p) return options.check(p) end
end

-- ---- One check. ----

local function work(self, p)
  local seconds = self.options.timeout
  local worked, passed, reason = pcall(spawn.timeout, seconds, function() return self.run(p) end)
  if not worked then
    if passed == fiber.gone then error(passed, 0) end
    passed, reason = false, "the check threw: " .. tostring(passed)
  elseif not passed and reason == "timeout" then
    reason = ("no answer within %g s"):format(seconds)
  end
  local why = passed and "" or tostring(reason or "it says no")
  C.mg_peer_checked(p[1], passed and true or false, why, #why)
end

local function ended(f)
  f.a.under_way[f.b] = nil
  f.owner:close()
end

local function begin(self, p)
  if self.under_way[p] then return end
  local own = owner.new()
  if not own then return end
  self.under_way[p] = own
  at.hook = self.entry.number
  fiber.later(own, work, self, p, ended)
end

-- ---- The sweep. ----

-- Those that nobody has checked yet need not wait for their turn.
local function begin_unknown(self, count)
  local begun = 0
  for i = 0, count - 1 do
    local p = C.mg_upstream_peer(self.pointer, i)
    if C.mg_peer_look(p).checked == 0 and begun < AT_ONCE_MOST then
      begun = begun + 1
      begin(self, peer.of(p))
    end
  end
end

-- The next peers in turn; the seconds until their successors are due.
local function step(self, count)
  local interval = self.options.interval
  local most = math.min(count, math.max(1, math.ceil(count * STEP_LEAST / interval)))
  for _ = 1, most do
    self.at = self.at < count and self.at + 1 or 1
    begin(self, peer.of(C.mg_upstream_peer(self.pointer, self.at - 1)))
  end
  return interval * most / count * (1 + self.options.jitter * (2 * math.random() - 1))
end

local function sweep(self)
  C.mg_upstream_follow(self.pointer)
  local leads, count = C.mg_leader_lead(self.leader, LEADS), C.mg_upstream_count(self.pointer)
  self.timer.seconds = LOOK
  if not leads or count == 0 then
    self.version = false
    return
  end
  local version, now = C.mg_upstream_version(self.pointer), C.mg_now()
  if not self.version then self.due = now end
  if self.version ~= version then
    self.version = version
    begin_unknown(self, count)
  end
  if self.due <= now then self.due = now + step(self, count) end
  self.timer.seconds = math.max(STEP_LEAST / 2, math.min(self.due - now, LOOK))
end

-- ---- Declared with the upstream. ----

local function leader_of(what, record, fail)
  local name = what .. ":" .. record.name
  local leader = C.mg_leader_of(name, #name)
  if leader == nil then fail "the shared memory has no room for its health checks; raise shared_size" end
  return leader
end

--- The upstream's peers are checked as `options` say, which moongate.health has read.
function probe.check(record, options, fail)
  local run = options.path and over_http(options, record.options.load_header) or options.tcp and over_tcp(options)
    or options.grpc and over_grpc(options) or by_function(options)
  local name = ('the health check of upstream "%s"'):format(record.name)
  local self = {
    options = options, pointer = record.pointer, run = run, under_way = {}, at = 0, due = 0, version = false,
    leader = leader_of("check", record, fail), entry = hook.new("check", options.check, name, true),
  }
  self.timer = timer.named(name, STEP_LEAST, function() sweep(self) end)
end

--- Its ejections and its breaker are judged.
---@param spec ffi.cdata* mg_upstream_spec
function probe.judge(record, spec, fail)
  local seconds = JUDGED_MOST
  for _, part in ipairs { spec.eject, spec.breaker } do
    if part.on then seconds = math.min(seconds, part.window / 8, part.time / 4) end
  end
  seconds = math.max(seconds, JUDGED_LEAST)
  local leader = leader_of("judge", record, fail)
  timer.named(('the judge of upstream "%s"'):format(record.name), seconds, function()
    if C.mg_leader_lead(leader, 3 * seconds + 1) then C.mg_upstream_judge(record.pointer) end
  end)
end

--- The generation is in force.
function probe.start()
  for _, record in ipairs(declared.upstreams) do C.mg_upstream_begin(record.pointer) end
end

return probe

-- moongate.discover - peers that come and go as a function of the script says, which one worker calls for all.
--
-- It is called at an interval, and when another one, which waits, says that it is worth it.
-- What it gives is beside the peers that the script declares. A failure, or an
-- empty list, changes nothing: the last good list stays.
local C = require "moongate.seam"
local declared = require "moongate.declared"
local fiber = require "moongate.fiber"
local log = require "moongate.log"
local peer = require "moongate.peer"
local schema = require "moongate.schema"
local timer = require "moongate.timer"

local discover = {}

local SOON = 0.01           -- seconds until it is called first
local LOOK = 1              -- seconds between two looks at whether this worker leads
local LEADS = 15            -- seconds for which a look makes it lead: longer than most questions take

local function read_finder(value)
  if type(value) == "function" then return { find = value } end
  if type(value) ~= "table" or type(value.find) ~= "function" then return nil end
  if value.wait == nil or type(value.wait) == "function" then return value end
end

discover.keys = {
  discover = schema.any("a function, or a table of functions with find, and perhaps wait", read_finder),
  discover_interval = schema.seconds { min = 0.1, default = 5 },
}

local peer_keys = {
  [1] = schema.text { called = "address", needed = true, expect = 'an address like "10.0.0.1:8080"' },
  weight = schema.number { above = 0, default = 1 },
  zone = schema.text(),
  tier = schema.count { max = 65535, default = 1 },
}

local function read_peer(i, given)
  if type(given) == "string" then given = { given } end
  local function fail(message) error({ ("peer %d: %s"):format(i, message) }, 0) end
  if type(given) ~= "table" then fail('an address like "10.0.0.1:8080", or a table that begins with one, is needed') end
  return schema.read(given, peer_keys, fail)
end

-- The list of the user's function, checked; or nil and what is wrong.
local function ask(find)
  local ok, list, why = xpcall(find, function(thrown)
    return thrown == fiber.gone and thrown or debug.traceback(tostring(thrown), 2)
  end)
  if not ok then
    if list == fiber.gone then error(list, 0) end
    return nil, list
  end
  if type(list) ~= "table" then return nil, tostring(why or "the function has returned no list") end
  if #list == 0 then return nil, "the list is empty" end
  local read = {}
  for i, given in ipairs(list) do
    local good, p = pcall(read_peer, i, given)
    if not good then return nil, type(p) == "table" and p[1] or tostring(p) end
    read[i] = p
  end
  return read
end

local function apply(self, list)
  local wanted, pointer = {}, self.pointer
  for _, p in ipairs(list) do
    local address, zone = p[1], p.zone or ""
    local code = C.mg_upstream_add(pointer, address, #address, p.weight, zone, #zone, p.tier, true)
    if code == C.MG_MALFORMED then return ('"%s" is no address of a peer'):format(address) end
    if code ~= 0 then return "there are more peers than can be remembered" end
    wanted[address] = true
  end
  for i = C.mg_upstream_count(pointer) - 1, 0, -1 do
    local p = C.mg_upstream_peer(pointer, i)
    if C.mg_peer_came(p) and not wanted[peer.of(p).address] then C.mg_peer_remove(p) end
  end
end

-- Told once, and once more when it is over.
local function note(self, problem)
  if problem and problem ~= self.problem then
    log.warn(("%s: %s; the peers stay as they are"):format(self.name, problem))
  elseif self.problem and not problem then
    log.info(self.name .. ": there is a good list again")
  end
  self.problem = problem
end

-- The timer's pause, which may end earlier. If it can't be waited so, the timer does as usual from then on.
local function await_change(self)
  local ok, changed = pcall(self.wait, math.min(LOOK, self.interval))
  if not ok then
    if changed == fiber.gone then error(changed, 0) end
    log.warn(("%s: %s; it is asked each discover_interval only"):format(self.name, tostring(changed)))
    self.wait = nil
    return
  end
  if changed then self.due = 0 end
  self.timer.seconds = SOON
end

local function look(self)
  local now = C.mg_now()
  self.timer.seconds = math.min(LOOK, self.interval)
  if not C.mg_leader_lead(self.leader, LEADS + self.interval) then
    self.due = 0
    return
  end
  if now >= self.due then
    self.due = now + self.interval * (0.9 + 0.2 * math.random())
    local list, problem = ask(self.find)
    note(self, problem or apply(self, list))
  end
  if self.wait then await_change(self) end
end

--- The record's upstream has peers that `options.discover` tells of.
---@param fail fun(text: string) raises
function discover.begin(record, options, fail)
  local name = "discover:" .. record.name
  local leader = C.mg_leader_of(name, #name)
  if leader == nil then fail "the shared memory has no room for its discovery; raise shared_size" end
  local self = {
    name = ('the discovery of upstream "%s"'):format(record.name), pointer = record.pointer,
    find = options.discover.find, wait = options.discover.wait,
    interval = options.discover_interval, leader = leader, due = 0, problem = nil,
  }
  self.timer = timer.named(self.name, SOON, function() look(self) end)
end

--- The generation is in force: what other scripts have discovered for upstreams that discover nothing any more goes.
function discover.start()
  for _, record in ipairs(declared.upstreams) do
    if not record.options.discover then C.mg_upstream_forget_found(record.pointer) end
  end
end

return discover

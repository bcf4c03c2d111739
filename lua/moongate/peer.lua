-- moongate.peer - peers and upstreams as policies see them.
--
-- object[1] is the core's pointer. One object stands for one peer or upstream as
-- long as the generation lives, so == works and policies may use them as keys.
local ffi = require "ffi"
local C = require "moongate.seam"
local fetch = require "moongate.fetch"
local state = require "moongate.state"
local text = ffi.string

local peer = {}

local intptr = ffi.typeof "intptr_t"
local peers = {}            -- address of an mg_peer -> object
local upstreams = {}        -- address of an mg_upstream -> object
local address, zone, weight = ffi.new "mg_slice", ffi.new "mg_slice", ffi.new "double[1]"

local function number_of(pointer)
  return tonumber(ffi.cast(intptr, pointer))
end

---@class moongate.Peer
---@field address string as declared
---@field weight number
---@field zone string?
---@field active integer requests in flight, over all workers
---@field latency number seconds to the response's head, averaged; 0 if there was none yet
---@field failures integer in a row
---@field healthy boolean
---@field hash number from 0 to 1, of its address: the same in every worker and on every machine
---@field since number gate.now() when it came, became healthy again, or its draining ended
---@field peak number as latency, but a slower one counts at once, and fades to 1/e in 10 s
---@field requests integer tries begun, of all workers
---@field failed integer those of them that have failed
---@field load number? as it says itself, by the upstream's load_header, or as a script has assigned it
---@field meta table? as declared
---@field tier integer as it was discovered; 1
local peer_methods, peer_readers = {}, {}

function peer_readers.active(p) return C.mg_peer_active(p) end
function peer_readers.latency(p) return C.mg_peer_look(p).latency end
function peer_readers.failures(p) return C.mg_peer_look(p).failures end
function peer_readers.healthy(p) return C.mg_peer_look(p).healthy ~= 0 end
function peer_readers.since(p) return C.mg_peer_look(p).since end
function peer_readers.requests(p) return tonumber(C.mg_peer_look(p).requests) end
function peer_readers.failed(p) return C.mg_peer_look(p).failed end
function peer_readers.load(p)
  local look = C.mg_peer_look(p)
  if look.loaded > 0 then return look.load end
end
function peer_readers.peak(p) return C.mg_peer_peak(p) end

--- Takes no new requests from now on; drain(false) ends that.
---@param on? boolean
function peer_methods:drain(on)
  C.mg_peer_drain(self[1], on ~= false)
end

--- Asks this peer as its upstream's requests would: by its protocol, with its TLS. Nothing is tried again.
---@param target string "/path?query"
---@param options? { method: string?, headers: table?, body: string?, timeout: number?, max_size: integer? }
---@return moongate.Fetched answer, string? problem
function peer_methods:fetch(target, options)
  if type(target) ~= "string" then error("peer:fetch: the target must be a string, got a " .. type(target), 2) end
  local given = options or {}
  return fetch.of_peer(self[1], target, {
    method = given.method or "GET", headers = given.headers, body = given.body, timeout = given.timeout,
    max_size = given.max_size,
  })
end

--- Takes the peer out of its upstream, in all workers, until it is added again.
function peer_methods:remove()
  C.mg_peer_remove(self[1])
end

local peer_meta = {
  __index = function(self, key)
    local read = peer_readers[key]
    if read then return read(self[1]) end
    return peer_methods[key]
  end,
  __newindex = function(self, key, value)
    if key ~= "load" then error(("a peer's %s can't be assigned"):format(tostring(key)), 2) end
    if type(value) ~= "number" then error("a peer's load is a number, got a " .. type(value), 2) end
    C.mg_peer_set_load(self[1], value)
  end,
  __tostring = function(self) return self.address end,
}

local function new_peer(pointer, meta)
  C.mg_peer_about(pointer, address, zone, weight)
  local p = setmetatable({
    pointer, address = text(address.ptr, address.len), weight = weight[0], meta = meta,
    zone = zone.len > 0 and text(zone.ptr, zone.len) or nil, tier = C.mg_peer_tier(pointer),
    hash = C.mg_hash(address.ptr, address.len, C.mg_peer_twin(pointer)),
  }, peer_meta)
  peers[number_of(pointer)] = p
  return p
end

--- The object of an mg_peer.
function peer.of(pointer)
  return peers[number_of(pointer)] or new_peer(pointer)
end

function peer.is(value)
  return getmetatable(value) == peer_meta
end

-- The object of the last peer with this address.
local function find_address(pointer, wanted)
  for i = C.mg_upstream_count(pointer) - 1, 0, -1 do
    local p = peer.of(C.mg_upstream_peer(pointer, i))
    if p.address == wanted then return p end
  end
end

---@class moongate.Upstream
---@field name string
---@field peers moongate.Peer[] all of them, in the order of declaration
---@field panic boolean too few are healthy, so all count
---@field breaker string "closed", "open" or "half open"; "none" if it has none
local upstream_methods = {}

--- Adds a peer while traffic flows, in all workers; or gives one that is there another weight.
---@param new string|{ [1]: string, weight?: number, zone?: string, meta?: table } "host:port", or a table that begins
--- with it; `meta` is known in this worker alone
---@return moongate.Peer? peer, string? reason
function upstream_methods:add(new)
  if type(new) == "string" then new = { new } end
  if type(new) ~= "table" or type(new[1]) ~= "string" then
    error("upstream:add takes an address, or a table that begins with one", 2)
  end
  local own_zone = new.zone or ""
  local code = C.mg_upstream_add(self[1], new[1], #new[1], new.weight or 1, own_zone, #own_zone, 1, false)
  if code == C.MG_MALFORMED then return nil, ('"%s" can\'t be a peer'):format(new[1]) end
  if code ~= 0 then return nil, "too many peers have come, gone or changed" end
  local added = find_address(self[1], new[1])
  if added and new.meta then rawset(added, "meta", new.meta) end
  return added
end

local function all_peers(pointer)
  local list = {}
  C.mg_upstream_follow(pointer)
  for i = 0, C.mg_upstream_count(pointer) - 1 do list[i + 1] = peer.of(C.mg_upstream_peer(pointer, i)) end
  return list
end

local upstream_meta = {
  __index = function(self, key)
    if key == "peers" then return all_peers(self[1]) end
    if key == "panic" then return C.mg_upstream_panics(self[1]) end
    if key == "breaker" then return text(C.mg_breaker_word(self[1])) end
    return upstream_methods[key]
  end,
  __newindex = function(_, key) error(("an upstream's %s can't be assigned"):format(tostring(key)), 2) end,
  __tostring = function(self) return self.name end,
}

--- The object of a declared upstream, whose peers have these `meta`s.
function peer.upstream_new(name, pointer, metas)
  local u = setmetatable({ pointer, name = name, version = false, candidates = false }, upstream_meta)
  upstreams[number_of(pointer)] = u
  for i = 0, C.mg_upstream_count(pointer) - 1 do
    local p = C.mg_upstream_peer(pointer, i)
    peers[number_of(p)] = nil
    new_peer(p, metas[i + 1])
  end
  return u
end

--- The object of an mg_upstream.
function peer.upstream_of(pointer)
  return upstreams[number_of(pointer)]
end

function peer.is_upstream(value)
  return getmetatable(value) == upstream_meta
end

--- An upstream's object, by itself or by its name.
function peer.find_upstream(value)
  if type(value) == "string" then return state.upstreams[value] end
  return peer.is_upstream(value) and value or nil
end

-- Those of an upstream that are not draining, and healthy; in a panic, all that are not draining.
local function healthy(pointer)
  local list, panics = {}, C.mg_upstream_panics(pointer)
  for i = 0, C.mg_upstream_count(pointer) - 1 do
    local p = C.mg_upstream_peer(pointer, i)
    local look = C.mg_peer_look(p)
    if look.draining == 0 and (panics or look.healthy ~= 0) then
      local object = peer.of(p)
      C.mg_peer_about(p, address, zone, weight)
      if object.weight ~= weight[0] then rawset(object, "weight", weight[0]) end
      rawset(object, "tier", C.mg_peer_tier(p))
      list[#list + 1] = object
    end
  end
  return list
end

-- Those of the list that this exchange has not tried and that are below max_connections.
local function untried(view, all)
  local list, n = { all = all, declared = all.declared }, 0
  for i = 1, #all do
    if C.mg_peer_eligible(view, all[i][1]) then
      n = n + 1
      list[n] = all[i]
    end
  end
  return list
end

--- The peers that a balance hook may pick from: a list that all first tries share, or one of another try's own. `all`
--- is the list of first tries, `declared` has all peers of the upstream.
function peer.candidates(view)
  local pointer = view.upstream
  local u = upstreams[number_of(pointer)]
  local version = C.mg_upstream_version(pointer)
  if u.version ~= version then
    local list = healthy(pointer)
    list.all, list.declared = list, all_peers(pointer)
    rawset(u, "candidates", list)
    rawset(u, "version", version)
  end
  local list = u.candidates
  if view.tries ~= 0 then return untried(view, list) end
  return list
end

return peer

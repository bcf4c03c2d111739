-- balance.ring - consistent hashing with bounded loads: the same key goes to the same peer, unless that one is full.
--
--   gate.upstream("cache", { peers = { ... }, balance = require "balance.ring" {
--     key = function(req) return req.path end, bound = 1.25 } })
--
-- By name the key is the client's address. A key of nil leaves the choice to the
-- upstream. Peers and keys lie on a circle, and a key belongs to the peer that
-- follows: when one goes only its own keys move (Karger and others, "Consistent
-- hashing and random trees", 1997). No peer gets more in flight than `bound`
-- times its share of all that is in flight, rounded up; what it can't take goes
-- to the next on the circle (Mirrokni, Thorup and Zadimoghaddam, "Consistent
-- hashing with bounded loads", 2016). So one hot key can't drown one peer.

local gate = require "moongate"

local ceil, floor, hash = math.ceil, math.floor, gate.hash
local POINTS_MOST = 10000       -- of a peer, whatever its weight

local labels = setmetatable({}, { __index = function(t, i)
  t[i] = tostring(i)
  return t[i]
end })

-- Lists of points, one for each of `count` arcs of the same length: first[arc] is the number of its first point,
-- after[n] that of the one behind n, 0 ends. Points are spread evenly, so an arc has about one.
local function throw(list, points)
  local c = { count = 0, weight = 0, of = {} }
  for i, peer in ipairs(list) do
    c.of[i] = math.min(POINTS_MOST, math.max(1, floor(points * peer.weight + 0.5)))
    c.count, c.weight = c.count + c.of[i], c.weight + peer.weight
  end
  local at, owner, first, after, n = {}, {}, {}, {}, 0
  for arc = 1, c.count do first[arc] = 0 end
  for i, peer in ipairs(list) do
    for k = 1, c.of[i] do
      n = n + 1
      at[n], owner[n] = hash(labels[k], peer.hash), peer
      local arc = floor(at[n] * c.count) + 1
      local before, behind = 0, first[arc]
      while behind > 0 and at[behind] < at[n] do before, behind = behind, after[behind] end
      after[n] = behind
      if before > 0 then after[before] = n else first[arc] = n end
    end
  end
  return c, at, owner, first, after
end

-- The points in order, whose each is, and which is the first in or behind an arc.
local function circle(list, points)
  local c, at, owner, first, after = throw(list, points)
  local n = 0
  c.at, c.owner, c.begin = {}, {}, {}
  for arc = 1, c.count do
    c.begin[arc] = n + 1
    local point = first[arc]
    while point > 0 do
      n = n + 1
      c.at[n], c.owner[n] = at[point], owner[point]
      point = after[point]
    end
  end
  return c
end

-- The first point at or behind this place.
local function search(c, place)
  local i = c.begin[floor(place * c.count) + 1]
  while i <= c.count and c.at[i] < place do i = i + 1 end
  return i <= c.count and i or 1
end

local function sum_active(peers)
  local sum = 0
  for i = 1, #peers do sum = sum + peers[i].active end
  return sum
end

---@param given { key: (fun(req): string?)?, bound: number?, points: integer? }? points: of a peer of weight 1
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.ring", given, {
    key = { "function", default = function(req) return req.client.ip end },
    bound = { "number", above = 1, default = 1.25 },
    points = { "count", min = 1, max = POINTS_MOST, default = 100 },
  })
  local circle_of = gate.memoize(function(list) return circle(list, options.points) end)

  return function(req, peers)
    local key = options.key(req)
    if not key then return end
    local all = peers.all
    local c = circle_of(all)
    local owner, at = c.owner, search(c, hash(key))
    local first = owner[at]
    if first.active == 0 and peers == all then return first end

    local function is_left(peer) return peers == all or gate.contains(peers, peer) end
    local each = options.bound * (sum_active(all) + 1) / c.weight
    for _ = 1, c.count do
      local peer = owner[at]
      if peer.active + 1 <= ceil(each * peer.weight) and is_left(peer) then return peer end
      at = at < c.count and at + 1 or 1
    end
  end
end

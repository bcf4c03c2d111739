-- balance.maglev - the same key goes to the same peer, by a table that is looked up in one step.
--
--   gate.upstream("cache", { peers = { ... }, balance = require "balance.maglev" {
--     key = function(req) return req.headers["x-user"] end } })
--
-- By name the key is the client's address. A key of nil leaves the choice to the
-- upstream. Every gateway with the same peers fills the same table.
--
-- Each peer has an order of its own in which it would like the entries; in turn
-- each takes the first that is free. So shares are even within one entry (1 % as
-- long as there are a hundred entries for each peer), and when a peer goes nearly
-- all other entries stay. Eisenbud and others, "Maglev: a fast and reliable
-- software network load balancer", NSDI 2016, section 3.4.

local gate = require "moongate"

local floor, hash = math.floor, gate.hash

local function is_prime(n)
  for d = 2, math.sqrt(n) do
    if n % d == 0 then return false end
  end
  return n > 1
end

-- The peers, in an order that does not depend on how they were declared; where each begins, and its steps.
local function preferences(list, size)
  local peers, at, step, heaviest = {}, {}, {}, 0
  for i = 1, #list do
    peers[i] = list[i]
    heaviest = math.max(heaviest, list[i].weight)
  end
  table.sort(peers, function(a, b) return a.hash < b.hash end)
  for i, peer in ipairs(peers) do
    at[i] = floor(hash("offset", peer.hash) * size)
    step[i] = floor(hash("skip", peer.hash) * (size - 1)) + 1
  end
  return peers, at, step, heaviest
end

-- entries[0 .. size - 1]: a peer each. One with half the heaviest's weight has a turn in every other round.
local function fill(list, size)
  local peers, at, step, heaviest = preferences(list, size)
  local entries, due, left = {}, {}, size
  for i = 0, size - 1 do entries[i] = false end
  for i = 1, #peers do due[i] = 0 end
  while left > 0 do
    for i = 1, #peers do
      due[i] = due[i] + peers[i].weight / heaviest
      if due[i] >= 1 and left > 0 then
        local entry = at[i]
        while entries[entry] do entry = (entry + step[i]) % size end
        entries[entry] = peers[i]
        at[i], due[i], left = entry, due[i] - 1, left - 1
      end
    end
  end
  return entries
end

---@param given { key: (fun(req): string?)?, size: integer? }? size: entries, a prime
---@return fun(req, peers): table? peer
return function(given)
  local options = gate.options("balance.maglev", given, {
    key = { "function", default = function(req) return req.client.ip end },
    size = { "count", default = 65537, min = 2, max = 2 ^ 20 },
  })
  local key_of, size = options.key, options.size
  if not is_prime(size) then error(("balance.maglev: size must be a prime, got %d"):format(size), 2) end
  local entries_of = gate.memoize(function(list) return fill(list, size) end)

  return function(req, peers)
    local key = key_of(req)
    if not key then return end
    local entries, at = entries_of(peers.all), floor(hash(key) * size)
    if peers == peers.all then return entries[at] end
    for _ = 1, size do                                  -- another try: whose the next entry is
      if gate.contains(peers, entries[at]) then return entries[at] end
      at = (at + 1) % size
    end
  end
end

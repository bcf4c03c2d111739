-- store.lru - values by key in this worker's memory, of which those that were used last stay.
--
--   local lru = require "store.lru"
--   local sessions = lru(1000)
--
--   sessions:set(digest, session, gate.time() + 60)      -- until this Unix time; without it, while there is room
--   local session = sessions:get(digest)
--
-- For what is dear to make and may be forgotten. What all workers must see belongs in gate.shared.

local gate = require "moongate"

-- Entries stand in a ring, the one that was used last behind `ring`, which is none itself.
local lru = {}
lru.__index = lru

local function unlink(entry)
  entry.before.after, entry.after.before = entry.after, entry.before
end

local function link(ring, entry)
  local first = ring.after
  entry.before, entry.after = ring, first
  first.before, ring.after = entry, entry
end

---@param key any
---@return any value nil if it is not there, or its time is up
function lru:get(key)
  local entry = self.entries[key]
  if not entry then return nil end
  if entry.ends <= gate.time() then
    self:delete(key)
    return nil
  end
  if self.ring.after ~= entry then
    unlink(entry)
    link(self.ring, entry)
  end
  return entry.value
end

---@param key any
---@param value any
---@param ends? number Unix time
function lru:set(key, value, ends)
  self:delete(key)
  if self.count == self.most then self:delete(self.ring.before.key) end
  local entry = { key = key, value = value, ends = ends or math.huge }
  self.entries[key] = entry
  link(self.ring, entry)
  self.count = self.count + 1
end

---@param key any
function lru:delete(key)
  local entry = self.entries[key]
  if not entry then return end
  unlink(entry)
  self.entries[key] = nil
  self.count = self.count - 1
end

function lru:clear()
  local ring = {}
  ring.before, ring.after = ring, ring
  self.ring, self.entries, self.count = ring, {}, 0
end

---@param most integer entries; the one that was not used for longest goes first
return function(most)
  local self = setmetatable({ most = most }, lru)
  self:clear()
  return self
end

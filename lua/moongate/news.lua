-- moongate.news - the `peer` hooks: they hear what has become of peers, in the worker that has decided it.
local ffi = require "ffi"
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local hook = require "moongate.hook"
local log = require "moongate.log"
local owner = require "moongate.owner"
local peer = require "moongate.peer"
local state = require "moongate.state"
local at = hook.at

local news = {}

local names = {
  [C.MG_NEWS_HEALTHY] = "healthy", [C.MG_NEWS_UNHEALTHY] = "unhealthy", [C.MG_NEWS_EJECTED] = "ejected",
  [C.MG_NEWS_BACK] = "back", [C.MG_NEWS_PANIC] = "panic", [C.MG_NEWS_CALM] = "calm",
  [C.MG_NEWS_BREAKER_OPEN] = "breaker open", [C.MG_NEWS_BREAKER_HALF_OPEN] = "breaker half open",
  [C.MG_NEWS_BREAKER_CLOSED] = "breaker closed",
}

---@class moongate.PeerEvent
---@field name string "healthy", "unhealthy", "ejected", "back"; of the upstream: "panic", "calm", "breaker open", ...
---@field reason string with figures

local function work(entry, told)
  entry.fn(told.upstream, told.peer, told.event)
end

local function ended(f, ok, _, trace)
  if not ok and trace then log.error(("%s: %s"):format(hook.who("peer", f.a), trace)) end
  f.owner:close()
end

-- Each hook has an owner of its own: what it has opened ends with it.
local function tell(told)
  for _, entry in ipairs(state.peer) do
    local own = owner.new()
    if not own then return end
    at.hook = entry.number
    fiber.later(own, work, entry, told, ended)
  end
end

local function listen()
  local item = ffi.new "mg_news_item"
  while true do
    fiber.wait(C.mg_news_wait(state.generation, fiber.task()))
    while C.mg_news_take(state.generation, item) do
      tell {
        upstream = peer.upstream_of(item.upstream), peer = item.peer ~= nil and peer.of(item.peer) or nil,
        event = { name = names[item.kind], reason = ffi.string(item.reason.ptr, item.reason.len) },
      }
    end
  end
end

local listens

--- The generation is in force.
function news.start()
  if listens or #state.peer == 0 then return end
  local own = owner.new()
  if not own then return end
  listens = true
  fiber.later(own, listen, nil, nil, function(f) f.owner:close() end)
end

return news

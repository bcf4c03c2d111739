-- What a pick takes: GET /NAME/PEERS, of upstreams with so many peers.
local gate = require "moongate"
local env, clock = os.getenv, os.clock
local KEYS = 4096

local keys, turn = {}, 0
for i = 1, KEYS do keys[i] = "user-" .. i end
local function by_key()
  turn = turn % KEYS + 1
  return keys[turn]
end

local function make(name)
  local made = require("balance." .. name) {
    key = (name == "maglev" or name == "ring" or name == "rendezvous") and by_key or nil,
    header = name == "header_hash" and "x-client" or nil,
    zone = name == "zone" and "a" or nil,
    share = name == "canary" and 0.1 or nil,
  }
  return type(made) == "table" and made.balance or made
end

-- Seconds a round of fn(count), with as many rounds as half a second has (the clock's steps are large), or some `most`.
local function time(fn, most)
  local rounds, count, began = 0, 1, clock()
  repeat
    fn(count)
    rounds, count = rounds + count, count * 2
  until clock() - began > 0.5 or rounds >= most
  return (clock() - began) / rounds
end

gate.set { workers = 1, access_log = "off", cpu_budget = 60 }
gate.listen(env "IP" .. ":" .. env "PORT")

for _, n in ipairs { 10, 100, 1000 } do
  local peers = {}
  for i = 1, n do
    peers[i] = { env "ORIGIN", zone = i % 2 == 0 and "b" or "a", meta = { canary = i % 10 == 0, tier = i % 2 + 1 } }
  end
  gate.upstream("of" .. n, { peers = peers, balance = function(req, list)
    local ctx = req.ctx
    local pick = make(ctx.name)
    local function picks(count)
      for _ = 1, count do pick(req, list) end
    end
    time(picks, math.huge)
    ctx.each = time(picks, math.huge)
    ctx.first = time(function(count)
      for _ = 1, count do make(ctx.name)(req, list) end
    end, 1000)
  end })
end

gate.route { "/:name/:peers", handler = function(req)
  req.ctx.name = req.params.name
  req:forward("of" .. req.params.peers)
  return 200, { first = req.ctx.first, each = req.ctx.each }
end }
gate.route { "/", handler = function() return 200, "ready" end }

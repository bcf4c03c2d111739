-- moongate - what `require "moongate"` gives to a script.
local ffi = require "ffi"
local C = require "moongate.seam"
local balance = require "moongate.balance"
local escape = require "moongate.escape"
local fiber = require "moongate.fiber"
local spawn = require "moongate.spawn"
local metrics = require "moongate.metrics"
local timer = require "moongate.timer"

---@class moongate
local gate = {
  -- These wait, without blocking the worker.
  fetch = require("moongate.fetch").fetch,
  connect = require("moongate.socket").connect,
  resolve = require "moongate.resolve",
  watch = require "moongate.watch",
  all = spawn.all,
  any = spawn.any,
  timeout = spawn.timeout,
  spawn = spawn.spawn,
  every = timer.every,
  after = timer.after,

  shared = require "moongate.shared",
  cache = require "moongate.cache",
  keep = require("moongate.keep").keep,
  log = require "moongate.log",
  counter = metrics.counter,
  gauge = metrics.gauge,
  histogram = metrics.histogram,
  metrics = metrics.text,
  observe = require("moongate.hook_meter").observe,
  json = require "moongate.json",
  base64 = require "moongate.base64",
  crypto = require "moongate.crypto",
  networks = require "moongate.networks",
  coalesce = require "moongate.coalesce",
  open = require "moongate.file",
  escape = escape.escape,
  unescape = escape.unescape,

  -- For balancers.
  memoize = balance.memoize,
  partition = balance.partition,
  peers_only = balance.peers_only,
  weight_of = balance.weight_of,
  contains = balance.contains,
}

-- LuaJIT begins with the same seed everywhere, and workers that draw alike would run to the same peers.
local drawn = ffi.new "uint32_t[1]"
C.mg_crypto_random(ffi.cast("char *", drawn), 4)
math.randomseed(drawn[0])

--- Waits.
---@param seconds number
function gate.sleep(seconds)
  if type(seconds) ~= "number" then error("gate.sleep takes a number of seconds, got a " .. type(seconds), 2) end
  fiber.wait(C.mg_sleep(fiber.task(), seconds))
end

--- Seconds of a clock that only goes forward: for differences.
---@return number
function gate.now() return C.mg_now() end

--- Unix time.
---@return number
function gate.time() return C.mg_time() end

--- A number from 0 to below 1, evenly spread: the same for the same text and seed in every worker, on every machine.
--- Fast, and no secret: who knows the seed can find texts for any number.
---@param text string
---@param seed? number 0 if not given
---@return number
function gate.hash(text, seed)
  if type(text) ~= "string" then error("gate.hash takes a string, got a " .. type(text), 2) end
  return C.mg_hash(text, #text, seed or 0)
end

--- The number of this worker, from 0.
---@return integer
function gate.worker() return C.mg_worker_number() end

for name, fn in pairs(require "moongate.declare") do gate[name] = fn end

return gate

-- moongate.generation - the init and exit hooks, which belong to no exchange.
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local hook = require "moongate.hook"
local log = require "moongate.log"
local owner = require "moongate.owner"
local state = require "moongate.state"

local at = hook.at

local generation = {}

local function run_init()
  for _, entry in ipairs(state.init) do
    at.hook = entry.number
    entry.fn()
  end
end

local failed

local function init_ended(f, ok, _, trace, waited)
  failed = not ok
  if trace then
    local entry = hook.of(f.hook)
    local fault = ("%s: %s"):format(entry and hook.who("init", entry) or "init", trace)
    C.mg_generation_fault(state.generation, fault, #fault)
  end
  f.owner:close()
  if waited then C.mg_generation_ready(state.generation, ok and C.MG_OK or C.MG_MALFORMED) end
end

--- Runs the init hooks.
---@return integer 1: they wait; 0: done; -1: one threw
function generation.init()
  local own = owner.new()
  if not own then return -1 end
  if fiber.start(own, run_init, nil, nil, init_ended) then return 1 end
  return failed and -1 or 0
end

local function run_exit(entry)
  at.hook = entry.number
  entry.fn()
end

local function exit_ended(f, ok, _, trace)
  if not ok then
    log.error(("exit of policy %s: %s"):format(f.a.label, trace or "it can't wait: the generation is about to end"))
  end
end

--- Runs the exit hooks, whose waits fail, and ends all that works for the generation.
function generation.exit()
  for _, entry in ipairs(state.exit) do
    local own = { task = function() return false end, opened = false }
    fiber.start(own, run_exit, entry, nil, exit_ended)
  end
  owner.close_all()
end

return generation

-- moongate.simulate - the desk of `moongate sim`: reads what is wanted, plans a run for each balancer, and tells what
-- came of them.
--
-- core/sim/simulate.c asks it, in this order: "begin", then for each run "next", "plan" and "take", and "finish".
local buffer = require "string.buffer"
local ffi = require "ffi"
require "moongate.seam"

ffi.cdef "extern const char mg_simulation_text[];"
ffi.cdef(ffi.string(ffi.C.mg_simulation_text))

local options = require "moongate.simulate_options"
local page = require "moongate.simulate_page"
local plan = require "moongate.simulate_plan"
local report = require "moongate.simulate_report"
local summary = require "moongate.simulate_summary"

local sim = ffi.C.mg_simulation_at_hand()
local given                     -- the options
local balancers, at             -- those to be tried, and which one is
local written                   -- the plan
local runs = {}

local desk = {}

-- Of the balancers that nobody has asked for: the script's own need not run twice.
local function drop_twin(name)
  for i = #balancers, 2, -1 do
    if balancers[i].text == name then table.remove(balancers, i) end
  end
end

--- With the words of the command line: "run FILE", or a text to be printed instead.
function desk.begin(text)
  local words, script = {}
  for word in text:gmatch "(%Z*)%z" do words[#words + 1] = word end
  given, script = options.read(words)
  if not given then return options.help end
  balancers, at = options.balancers(given), 0
  if given.html then page.check(given.html) end
  sim.workers, sim.own_view = given.workers, given.view == "own"
  return "run " .. script
end

--- What moongate.simulated needs for the next run; nothing: all are done.
function desk.next()
  at = at + 1
  local balancer = balancers[at]
  return balancer and buffer.encode {
    seed = given.seed, upstream = given.upstream, balance = balancer, scenario = given.scenario, zones = given.zones,
    policies = given.policies,
  }
end

--- The script is loaded: `text` says what it declares.
function desk.plan(text)
  local about = buffer.decode(text)
  written = written or plan.write(sim, given, about)
  local balancer = balancers[at]
  if balancer.kind == "script" then
    balancer.label = ("%s (script)"):format(about.balancer)
    if not given.balance then drop_twin(about.balancer) end
  end
  sim.name.ptr, sim.name.len = balancer.label, #balancer.label
end

--- The run is over.
function desk.take()
  runs[#runs + 1] = summary.make(sim, written, balancers[at].label)
end

--- All runs are.
function desk.finish()
  if given.html then page.write(given.html, given, written, runs) end
  if given.json then report.print_json(given, written, runs) else report.print(given, written, runs) end
end

return function(word, text) return desk[word](text) end

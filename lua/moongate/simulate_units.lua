-- moongate.simulate_units - durations and laws of chance as users write them: "10ms", "lognormal 10ms 0.8".
local problem = require "moongate.problem"

local units = {}

local seconds_of = { us = 1e-6, ms = 1e-3, s = 1, [""] = 1, m = 60, h = 3600 }

--- Seconds of a number, or of a text like "10ms"; nil if it is neither.
---@return number?
function units.seconds(value)
  if type(value) == "number" and value >= 0 and value < math.huge then return value end
  if type(value) ~= "string" then return nil end
  local digits, unit = value:match "^(%d*%.?%d+)(%l*)$"
  return digits and seconds_of[unit] and tonumber(digits) * seconds_of[unit]
end

--- "12.3 ms".
function units.show(seconds)
  if seconds ~= seconds or seconds < 0 then return "-" end
  local value, unit = seconds, "s"
  if seconds < 1e-3 then
    value, unit = seconds * 1e6, "us"
  elseif seconds < 1 then
    value, unit = seconds * 1e3, "ms"
  end
  return (value >= 99.95 and "%.0f %s" or value >= 9.995 and "%.1f %s" or "%.2f %s"):format(value, unit)
end

-- What follows a law's name: durations (true) and plain numbers, with their bounds.
local laws = {
  constant = { "mean" },
  exponential = { "mean" },
  lognormal = { "mean", "sigma" },
  pareto = { "mean", "alpha" },
  bimodal = { "quick", "slow", "share" },
  file = { "path" },
}
local durations = { mean = true, quick = true, slow = true }
local bounds = { sigma = { 0, 10 }, alpha = { 1.001, 1000 }, share = { 0, 1 } }

units.laws_expected = 'a law like "constant 10ms", "exponential 10ms", "lognormal 10ms 0.8" (mean, sigma), '
  .. '"pareto 10ms 1.5" (mean, alpha), "bimodal 10ms 200ms 0.05" (quick, slow, share of slow) or "file PATH"'

local function read_part(name, value)
  if name == "path" then return type(value) == "string" and value or nil end
  if durations[name] then
    local seconds = units.seconds(value)
    return seconds and seconds > 0 and seconds or nil
  end
  local number, bound = tonumber(value), bounds[name]
  return number and number >= bound[1] and number <= bound[2] and number or nil
end

-- The seconds in a file, a number each.
local function read_samples(path)
  local file, why = io.open(path)
  if not file then return nil, why end
  local list = {}
  for line in file:lines() do
    local word = line:match "^%s*(%S*)"
    local seconds = word ~= "" and units.seconds(word)
    if seconds == nil then
      file:close()
      return nil, ("%s: line %d must begin with a duration, got %s"):format(path, #list + 1, problem.show(line))
    elseif seconds then
      list[#list + 1] = seconds
    end
  end
  file:close()
  if #list == 0 then return nil, path .. ": it has no durations" end
  table.sort(list)
  return list
end

local function mean_of(law)
  if law.kind == "bimodal" then return law.quick * (1 - law.share) + law.slow * law.share end
  if law.kind ~= "file" then return law.mean end
  local sum = 0
  for _, seconds in ipairs(law.samples) do sum = sum + seconds end
  return sum / #law.samples
end

--- A law of "lognormal 10ms 0.8", or of { "lognormal", mean = "10ms", sigma = 0.8 }; or nil, and why.
---@return { kind: string, average: number, text: string }? law, string? reason, string? remedy
function units.law(value)
  local given = value
  if type(value) == "string" then
    local words = {}
    for word in value:gmatch "%S+" do words[#words + 1] = word end
    local parts = laws[words[1]]
    if not parts or #words ~= #parts + 1 then return nil end
    given = { words[1] }
    for i, name in ipairs(parts) do given[name] = words[i + 1] end
  end
  if type(given) ~= "table" or not laws[given[1]] then return nil end
  local law, text = { kind = given[1] }, { given[1] }
  for _, name in ipairs(laws[law.kind]) do
    law[name] = read_part(name, given[name])
    if law[name] == nil then return nil end
    text[#text + 1] = durations[name] and units.show(law[name]) or tostring(law[name])
  end
  if law.kind == "file" then
    local samples, why = read_samples(law.path)
    if not samples then return nil, "a file of durations, one a line", "; " .. why end
    law.samples = samples
  end
  law.average, law.text = mean_of(law), table.concat(text, " ")
  return law
end

return units

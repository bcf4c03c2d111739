-- moongate.problem - mistakes in a user's script: where they stand, and how they read.
--
-- Every message is "file:line: what: what is wrong, and the remedy". The line is
-- the user's, however deep in the library the mistake is found; a mistake that
-- shows only when the whole script has run carries the line of the declaration.
local problem = {}

-- What the library's chunknames begin with: of "@moongate/problem.lua" or "=moongate.problem" all but the file.
local own = debug.getinfo(1, "S").source:gsub("problem[%.lua]*$", "")

-- A user's folder may be called moongate too, so the file must be one of ours.
local function is_ours(source)
  if source:sub(1, #own) ~= own then return false end
  local name = source:match("^([%w_]+)%.?l?u?a?$", #own + 1)
  return name ~= nil and package.loaded["moongate." .. name] ~= nil
end

local function place_of(info)
  return ("%s:%d"):format((info.source:gsub("^[@=]", "")), info.currentline)
end

--- Where the user's code stands that led here: "gateway.lua:12", or nil if there is none below this call.
---@param outer? boolean of the user's frames the second: who called the function that called the library
---@return string?
function problem.place(outer)
  for level = 2, 250 do
    local info = debug.getinfo(level, "Sl")
    if not info then return nil end
    if info.currentline > 0 and not is_ours(info.source) then
      if not outer then return place_of(info) end
      outer = false
    end
  end
end

--- Where the user's code stands that led here, and where the outermost of it does; both nil if there is none.
---@return string? place, string? outer
function problem.places()
  local place, outer
  for level = 2, 250 do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    if info.currentline > 0 and not is_ours(info.source) then
      outer = place_of(info)
      place = place or outer
    end
  end
  return place, outer
end

--- Where a function was written: "gateway.lua:12".
function problem.place_of_function(fn)
  local info = debug.getinfo(fn, "S")
  if info.what == "C" then return "a C function" end
  return ("%s:%d"):format((info.source:gsub("^[@=]", "")), info.linedefined)
end

--- Raise a mistake that belongs to `place`.
---@param place string? "gateway.lua:12"; nil if nobody knows
function problem.raise(place, text)
  error(place and place .. ": " .. text or text, 0)
end

--- A value as a message shows it.
function problem.show(value)
  local kind = type(value)
  if kind == "string" then
    if #value > 60 then value = value:sub(1, 57) .. "..." end
    return '"' .. value:gsub("[%c\"\\]", function(c) return ("\\%03d"):format(c:byte()) end) .. '"'
  elseif kind == "number" or kind == "boolean" then
    return tostring(value)
  elseif kind == "nil" then
    return "nothing"
  end
  return "a " .. kind
end

-- How many letters must be changed, added, left out or swapped with their neighbour to make b of a.
local function distance(a, b)
  local before, last, row = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row[0] = i
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(row[j - 1] + 1, last[j] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last, row = last, row, before
  end
  return last[#b]
end

--- The nearest of `names` to `name`, if one is near enough to be meant.
---@param names table<string, any> its keys are the names
---@return string?
function problem.nearest(name, names)
  local best, least = nil, math.max(1, math.floor(#name / 3)) + 1
  for candidate in pairs(names) do
    if type(candidate) == "string" then
      local d = distance(name:lower(), candidate:lower())
      if d < least or (d == least and best and candidate < best) then best, least = candidate, d end
    end
  end
  return best
end

--- "; did you mean ...?", or what there is.
---@param names table<string, any>
function problem.remedy(name, names)
  local near = type(name) == "string" and problem.nearest(name, names)
  if near then return ('; did you mean "%s"?'):format(near) end

  local known = {}
  for candidate in pairs(names) do known[#known + 1] = tostring(candidate) end
  table.sort(known)
  return "; known are: " .. table.concat(known, ", ")
end

return problem

-- moongate.changes - what a reload changes: two outlines, compared.
local json = require "moongate.json"

local NAMES_MOST, NAME_MOST = 50, 120

local kinds = { "listeners", "routes", "upstreams", "policies", "settings" }
local words = { "added", "removed", "changed" }

-- A policy without a name is called by its line: when lines move it is the same one still.
local function pair_moved(added, removed, before, after)
  local by_text = {}
  for i, name in ipairs(removed) do by_text[before[name]] = i end
  for i = #added, 1, -1 do
    local other = by_text[after[added[i]]]
    if other then
      by_text[after[added[i]]] = nil
      table.remove(added, i)
      removed[other] = false
    end
  end
  local left = {}
  for _, name in ipairs(removed) do
    if name then left[#left + 1] = name end
  end
  return left
end

local function compare(before, after, may_move)
  local found = { added = {}, removed = {}, changed = {} }
  for name, text in pairs(after) do
    if before[name] == nil then
      table.insert(found.added, name)
    elseif before[name] ~= text then
      table.insert(found.changed, name)
    end
  end
  for name in pairs(before) do
    if after[name] == nil then table.insert(found.removed, name) end
  end
  if may_move then found.removed = pair_moved(found.added, found.removed, before, after) end
  return found
end

-- Sorted, and cut where it would be too long for anybody.
local function shorten(names)
  table.sort(names)
  local list = {}
  for i = 1, math.min(#names, NAMES_MOST) do list[i] = names[i]:sub(1, NAME_MOST) end
  if #names > NAMES_MOST then list[NAMES_MOST + 1] = ("and %d more"):format(#names - NAMES_MOST) end
  return list
end

local function array(list)
  if #list == 0 then return "[]" end
  return json.encode(list)
end

--- What has changed since an outline: lines to read, and members of a JSON object, with a zero byte between them.
---@param before string an outline
---@param after string another
---@return string
return function(before, after)
  before, after = json.decode(before), json.decode(after)
  local lines, members = {}, {}
  for _, kind in ipairs(kinds) do
    local found = compare(before[kind], after[kind], kind == "policies")
    local inner = {}
    for _, word in ipairs(words) do
      local list = shorten(found[word])
      inner[#inner + 1] = ('"%s":%s'):format(word, array(list))
      if #list > 0 then lines[#lines + 1] = ("%s %s: %s"):format(kind, word, table.concat(list, ", ")) end
    end
    members[#members + 1] = ('"%s":{%s}'):format(kind, table.concat(inner, ","))
  end
  if #lines == 0 then lines[1] = "nothing that is declared has changed" end
  local text = table.concat(lines, "\n")
  return text .. "\0" .. ('"changes":{%s},"text":%s'):format(table.concat(members, ","), json.encode(text))
end

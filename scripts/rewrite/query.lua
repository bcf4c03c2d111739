-- rewrite.query - set, take off and rename arguments of the query on the way to the origin.
--
--   local query = require "rewrite.query" { set = { version = "2" }, remove = { "utm_*" }, rename = { q = "search" } }
--   gate.route { "/search", policies = { query }, upstream = search }
--
-- remove   names; one with "*" at its end stands for all that begin so
-- rename   from names to names
-- set      from names to values, or functions(req) that give one; nil leaves what is there
-- default  the same, for names that are not there
--
-- All others stay as they were written, in their order; what is set comes last.

local gate = require "moongate"

local function matcher(names)
  local exact, beginnings = {}, {}
  for _, name in ipairs(names) do
    local beginning = name:match "^(.*)%*$"
    if beginning then beginnings[#beginnings + 1] = beginning else exact[name] = true end
  end
  return function(name)
    if exact[name] then return true end
    for _, beginning in ipairs(beginnings) do
      if name:sub(1, #beginning) == beginning then return true end
    end
    return false
  end
end

---@param given { set: table?, default: table?, remove: string[]?, rename: table<string, string>? }
---@return table policy
return function(given)
  local options = gate.options("rewrite.query", given, {
    set = { "table", default = {} }, default = { "table", default = {} }, remove = { "strings", default = {} },
    rename = { "table", default = {} },
  })
  local is_removed = matcher(options.remove)

  -- Adds what is set; `there`: names that stand already.
  local function append(pieces, fields, req, there)
    for name, value in pairs(fields) do
      if type(value) == "function" then value = value(req) end
      if value ~= nil and not there[name] then
        pieces[#pieces + 1] = gate.escape(name) .. "=" .. gate.escape(tostring(value))
        there[name] = true
      end
    end
  end

  local function access(req)
    local set, pieces, there = {}, {}, {}
    for name, value in pairs(options.set) do
      if type(value) == "function" then value = value(req) end
      set[name] = value
    end
    for piece in (req.query or ""):gmatch "[^&]+" do
      local written, rest = piece:match "^([^=]*)(.*)$"
      local name = gate.unescape((written:gsub("+", " ")))
      local renamed = options.rename[name]
      if set[renamed or name] == nil and not is_removed(name) then
        pieces[#pieces + 1] = renamed and gate.escape(renamed) .. rest or piece
        there[renamed or name] = true
      end
    end
    append(pieces, set, req, {})
    for name in pairs(set) do there[name] = true end
    append(pieces, options.default, req, there)
    req.query = pieces[1] and table.concat(pieces, "&") or nil
  end

  return { name = "rewrite.query", access = access }
end

-- body.template - texts with places that are filled in: for answers, error pages, and bodies that are made anew.
--
--   local page = require "body.template" { file = "hello.html" }                  -- <p>Hello {{user.name}}!</p>
--   gate.route { "/hello", handler = function(req)
--     return 200, page { user = { name = req.args.name }, items = { { title = "a" }, { title = "b" } } },
--       { ["content-type"] = "text/html; charset=utf-8" }
--   end }
--
-- text, or file   the template; a file is read when the script is loaded
-- escape          how values are written: "html" if not given, "json" (between the quotes of a string), "url", "none"
--
-- {{name}} is a value, escaped; {{{name}}} is one as it is. {{#name}}...{{/name}} stands once for each member of a
-- list, within which names are looked for first; once, if it is anything else but nil, false and an empty list; and
-- {{^name}}...{{/name}} if it is none of that. {{.}} is the member itself. Names with dots lead into tables. What is
-- not there is empty. A mistake in a template names its line.

local gate = require "moongate"

local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local escapes = {
  html = function(s) return (s:gsub("[&<>\"']", HTML)) end,
  json = function(s) return gate.json.encode(s):sub(2, -2) end,
  url = gate.escape,
  none = function(s) return s end,
}

local function line_of(text, at)
  local _, breaks = text:sub(1, at):gsub("\n", "")
  return breaks + 1
end

-- The parts of a template: strings, and { kind, name, parts }. `at` is where to begin, `until_name` what ends it.
local function parse(text, at, until_name, from)
  local parts = {}
  while true do
    local first, last, kind, name, tail = text:find("{{([#^/{]?)%s*([%w_.]+)%s*(}?)}}", at)
    local stray = text:find("{{", at, true)
    if stray and stray < (first or math.huge) then
      error(("line %d: {{ that is no place; write {{name}}"):format(line_of(text, stray)), 0)
    end
    if not first then
      if until_name then error(("line %d: {{#%s}} is not closed"):format(line_of(text, from), until_name), 0) end
      parts[#parts + 1] = text:sub(at)
      return parts, #text + 1
    end
    parts[#parts + 1] = text:sub(at, first - 1)
    at = last + 1
    if (kind == "{") ~= (tail == "}") then
      error(("line %d: {{%s%s: its braces do not go together"):format(line_of(text, first), kind, name), 0)
    elseif kind == "/" then
      if name ~= until_name then
        error(("line %d: {{/%s}} closes nothing"):format(line_of(text, first), name), 0)
      end
      return parts, at
    elseif kind == "#" or kind == "^" then
      local inner
      inner, at = parse(text, at, name, first)
      parts[#parts + 1] = { kind, name, inner }
    else
      parts[#parts + 1] = { kind == "{" and "raw" or "value", name }
    end
  end
end

-- The value of a name: in the innermost table that has its first part.
local function value_of(name, scopes)
  if name == "." then return scopes[#scopes] end
  local first, rest = name:match "^([^.]+)%.?(.*)$"
  for i = #scopes, 1, -1 do
    local value = type(scopes[i]) == "table" and scopes[i][tonumber(first) or first]
    if value ~= nil and value ~= false or value == false and type(scopes[i]) == "table" then
      for part in rest:gmatch "[^.]+" do
        if type(value) ~= "table" then return nil end
        value = value[tonumber(part) or part]
      end
      return value
    end
  end
end

local function is_empty(value)
  return value == nil or value == false or value == gate.json.null or type(value) == "table" and next(value) == nil
end

local function fill(parts, scopes, escape, out)
  for _, part in ipairs(parts) do
    if type(part) == "string" then
      out[#out + 1] = part
    else
      local kind, value = part[1], value_of(part[2], scopes)
      if kind == "value" or kind == "raw" then
        if not is_empty(value) then out[#out + 1] = kind == "raw" and tostring(value) or escape(tostring(value)) end
      elseif kind == "^" then
        if is_empty(value) then fill(part[3], scopes, escape, out) end
      elseif not is_empty(value) then
        local list = type(value) == "table" and value[1] ~= nil and value or { value }
        for _, member in ipairs(list) do
          scopes[#scopes + 1] = member
          fill(part[3], scopes, escape, out)
          scopes[#scopes] = nil
        end
      end
    end
  end
end

---@param given { text: string?, file: string?, escape: string? }
---@return fun(values: table): string
return function(given)
  local options = gate.options("body.template", given, {
    text = { "string" },
    file = { "string" },
    escape = { { "html", "json", "url", "none" }, default = "html" },
  })
  local text, where = options.text, "text"
  if options.file then
    local file, problem = io.open(options.file, "rb")
    if not file then error("body.template: file: " .. problem, 2) end
    text, where = file:read "*a", options.file
    file:close()
  end
  if not text then error("body.template: it needs text or file", 2) end
  local good, parts = pcall(parse, text, 1)
  if not good then error(("body.template: %s: %s"):format(where, parts), 2) end
  local escape = escapes[options.escape]

  return function(values)
    local out = {}
    fill(parts, { values or {} }, escape, out)
    return table.concat(out)
  end
end

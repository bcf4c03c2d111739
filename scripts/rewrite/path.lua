-- rewrite.path - other paths by patterns: on the way to the origin, or by sending the client there.
--
--   gate.use(require "rewrite.path" {
--     { "^/articles/(%d+)$", "/posts?id=%1" },                       -- the origin is asked for this
--     { "^/blog/(.*)$", "https://blog.example.com/%1", status = 301 },     -- the client is sent there
--   })
--
-- A rule has a Lua pattern for the path (percent-decoded, without the query), what it becomes, with %1 to %9 for what
-- the captures found and %0 for all of it, and perhaps a status to send the client there with. The first that matches
-- counts. A query in what it becomes stands in front of the request's own. What captures found is percent-encoded
-- again, and nobody can make another host of it: "//" at the beginning of a path becomes "/".

local gate = require "moongate"

local STATUSES = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

local function fail(i, text)
  error(("rewrite.path: rule %d: %s"):format(i, text), 4)
end

local function check(i, rule)
  if type(rule) ~= "table" or type(rule[1]) ~= "string" or type(rule[2]) ~= "string" then
    fail(i, 'it must be like { "^/old/(.*)$", "/new/%1" }')
  end
  for key in pairs(rule) do
    if key ~= 1 and key ~= 2 and key ~= "status" then fail(i, ("unknown key %s; known is: status"):format(key)) end
  end
  -- LuaJIT looks at a pattern only as far as it matches, so a mistake in it would show with some paths only.
  local bare = rule[1]:gsub("%%.", ""):gsub("%[%^?%]?[^%]]*%]", "")
  local _, opened = bare:gsub("%(", "")
  local _, closed = bare:gsub("%)", "")
  if opened ~= closed or bare:find "[%[%%]" then
    fail(i, ("%s is no pattern: a ( or [ is not closed, or a %% stands at its end"):format(rule[1]))
  end
  if rule.status and not STATUSES[rule.status] then
    fail(i, "status must be 301, 302, 303, 307 or 308, got " .. tostring(rule.status))
  end
  if not rule.status and rule[2]:sub(1, 1) ~= "/" then
    fail(i, "it leads to another host, so it needs a status to send the client there with")
  end
end

local function encode(s)
  return (s:gsub("[^%w%-._~/!$&'()*+,;=:@]", gate.escape))
end

local function fill(template, whole, captures)
  return (template:gsub("%%(%d)", function(digit)
    return encode(digit == "0" and whole or captures[tonumber(digit)] or "")
  end))
end

-- What the path becomes by this rule; nil: it does not match.
local function apply(rule, path)
  local found = { path:find(rule[1]) }
  if not found[1] then return nil end
  local captures = {}
  for i = 3, #found do captures[i - 2] = tostring(found[i]) end
  local to = fill(rule[2], path:sub(found[1], found[2]), captures)
  return to:sub(1, 1) == "/" and to:gsub("^/[/\\]+", "/") or to
end

local function join(to, query)
  if not query then return to end
  return to .. (to:find("?", 1, true) and "&" or "?") .. query
end

---@param rules { [1]: string, [2]: string, status: integer? }[]
---@return table policy
return function(rules)
  if type(rules) ~= "table" or #rules == 0 then error("rewrite.path: it needs a list of rules", 2) end
  for i, rule in ipairs(rules) do check(i, rule) end

  -- In gate.use it runs before a route is looked for.
  local function rewrite(req)
    local path = req.path
    for _, rule in ipairs(rules) do
      local to = apply(rule, path)
      if to and rule.status then return rule.status, "moved\n", { location = join(to, req.query) } end
      if to then
        local raw, query = to:match "^([^?]*)%??(.*)$"
        if query ~= "" then req.query = req.query and query .. "&" .. req.query or query end
        req.raw_path = raw
        return
      end
    end
  end

  return { name = "rewrite.path", access = rewrite }
end

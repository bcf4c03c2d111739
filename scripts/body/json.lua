-- body.json - changes of JSON bodies: fields are set, taken off, renamed, or picked; or a function does it.
--
--   local json = require "body.json" {
--     request = { set = { ["meta.gateway"] = "moon" } },
--     response = { remove = { "password", "users.*.email" }, rename = { ["name"] = "title" } },
--   }
--   gate.route { "/users/*", policies = { json }, upstream = users }
--
-- request, response   what becomes of each side's body:
--   remove   paths of what is taken off;  rename: from paths to new names, in the same place
--   set      from paths to values, or functions(req, body) that give one; objects on the way are made
--   pick     paths of what stays; all else goes
--   map      function(body, req) that gives another body, after all of these
-- max                 bytes of a body that is changed ("1M"); a longer one: 413 for a request, and a response passes by
--
-- A path has names between dots: "user.address.city"; "*" is every member of a list or an object, and a number one of a
-- list, from 1. Only bodies whose Content-Type says JSON are touched; one that is not JSON after all gets 400 as a
-- request, and passes by as a response. A body is read whole for it, decoded if it has a coding that is known.

local gate = require "moongate"

local SIDE_KEYS = { set = "table", rename = "table", remove = "table", pick = "table", map = "function" }

local function is_json(headers)
  local kind = (headers["content-type"] or ""):lower():match "^[^;%s]*"
  return kind == "application/json" or kind:find "%+json$" ~= nil
end

local function split(path)
  local names = {}
  for name in path:gmatch "[^.]+" do names[#names + 1] = tonumber(name) or name end
  return names
end

-- Calls fn(holder, key) for each place that the path leads to. `make`: objects on the way are made.
local function each(value, names, at, fn, make)
  if type(value) ~= "table" then return end
  local name = names[at]
  if name ~= "*" then
    if at == #names then return fn(value, name) end
    if value[name] == nil and make then value[name] = {} end
    return each(value[name], names, at + 1, fn, make)
  end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  for _, key in ipairs(keys) do
    if at == #names then fn(value, key) else each(value[key], names, at + 1, fn, make) end
  end
end

local function take_off(holder, key)
  if type(key) == "number" and #holder >= key then table.remove(holder, key) else holder[key] = nil end
end

-- A copy of what lies at the paths.
local function picked(body, paths)
  local out = {}
  local function copy(from, to, names, at)
    if type(from) ~= "table" then return end
    local keys = { names[at] }
    if names[at] == "*" then
      keys = {}
      for key in pairs(from) do keys[#keys + 1] = key end
    end
    for _, key in ipairs(keys) do
      if from[key] ~= nil and at == #names then
        to[key] = from[key]
      elseif from[key] ~= nil then
        to[key] = to[key] or {}
        copy(from[key], to[key], names, at + 1)
      end
    end
  end
  for _, names in ipairs(paths) do copy(body, out, names, 1) end
  return out
end

local function read_side(value)
  if type(value) ~= "table" then return nil end
  local side = { remove = {}, rename = {}, set = {}, map = value.map }
  for key, given in pairs(value) do
    if type(given) ~= SIDE_KEYS[key] then
      return nil, nil, (": %s: known are set, remove, rename, pick (tables) and map (a function)"):format(tostring(key))
    end
  end
  for i, path in ipairs(value.remove or {}) do side.remove[i] = split(path) end
  for path, name in pairs(value.rename or {}) do side.rename[#side.rename + 1] = { split(path), name } end
  for path, to in pairs(value.set or {}) do side.set[#side.set + 1] = { split(path), to } end
  if value.pick then
    side.pick = {}
    for i, path in ipairs(value.pick) do side.pick[i] = split(path) end
  end
  return side
end

local function change(side, body, req)
  for _, names in ipairs(side.remove) do each(body, names, 1, take_off) end
  for _, rule in ipairs(side.rename) do
    each(body, rule[1], 1, function(holder, key)
      if holder[key] ~= nil then holder[rule[2]], holder[key] = holder[key], nil end
    end)
  end
  for _, rule in ipairs(side.set) do
    local value = rule[2]
    if type(value) == "function" then value = value(req, body) end
    each(body, rule[1], 1, function(holder, key) holder[key] = value end, true)
  end
  if side.pick then body = picked(body, side.pick) end
  if side.map then
    local mapped = side.map(body, req)
    if mapped ~= nil then body = mapped end
  end
  return body
end

---@param given { request: table?, response: table?, max: (number|string)? }
---@return table policy
return function(given)
  local options = gate.options("body.json", given, {
    request = { "any", expect = 'a table like { set = { ["a.b"] = 1 } }', read = read_side },
    response = { "any", expect = 'a table like { remove = { "a.b" } }', read = read_side },
    max = { "size", default = 2 ^ 20 },
  })
  local policy = { name = "body.json" }

  if options.request then
    function policy.handle(req, next)
      if not is_json(req.headers) then return next(req) end
      local text, reason, status = req:text()
      if not text then return status, reason .. "\n" end
      if #text > options.max then return 413, "the body is too long to be changed\n" end
      local body = gate.json.decode(text)
      if type(body) ~= "table" then return 400, "the body is not JSON\n" end
      req.ctx["body.json"] = assert(gate.json.encode(change(options.request, body, req)))
      req.headers["content-encoding"] = nil             -- it was read decoded
      return next(req)
    end
    function policy.request_body(req, chunk)
      local changed = req.ctx["body.json"]
      if not changed then return nil end
      if chunk then return "" end
      return changed
    end
  end

  if options.response then
    function policy.response(req, res)
      local length = tonumber(res.headers["content-length"])
      if not is_json(res.headers) or length and length > options.max then return end
      local pieces, length_so_far = {}, 0
      res:map(function(chunk)
        if not pieces then return chunk end
        if chunk then
          pieces[#pieces + 1] = chunk
          length_so_far = length_so_far + #chunk
          if length_so_far <= options.max then return "" end
        end
        local text = table.concat(pieces)
        pieces = nil
        if chunk then return text end                   -- too long: from here on it passes by
        local body = gate.json.decode(text)
        return type(body) == "table" and assert(gate.json.encode(change(options.response, body, req))) or text
      end)
    end
  end
  return policy
end

-- moongate.outline - what the script declared, as one text a thing: equal texts mean that nothing has changed.
--
-- Made when a script has been loaded, and compared with a later load's by
-- moongate.changes. Functions are told apart by their code and by what they
-- took along: options, numbers, other functions.
local ffi = require "ffi"
local C = require "moongate.seam"
local declared = require "moongate.declared"
local json = require "moongate.json"
local keep = require "moongate.keep"
local policy = require "moongate.policy"

local DEEPEST, ENTRIES_MOST, FILE_MOST = 5, 200, 1024 * 1024

local digest = ffi.new "char[64]"

local function digest_of(text)
  return ffi.string(digest, C.mg_crypto_digest(C.MG_DIGEST_SHA256, text, #text, digest))
end

local describe
local kept = {}                -- tables of gate.keep, as keys

-- The same function taken along by a thousand policies is looked at once.
local codes = setmetatable({}, { __mode = "k" })

local function code_of(fn, depth)
  if codes[fn] then return codes[fn] end
  codes[fn] = "function"                -- for one that refers to itself
  local dumped, code = pcall(string.dump, fn, true)
  local parts = { dumped and code or tostring(fn) }
  for i = 1, 60 do
    local name, value = debug.getupvalue(fn, i)
    if not name then break end
    parts[#parts + 1] = describe(value, depth + 1)
  end
  codes[fn] = digest_of(table.concat(parts, "\0"))
  return codes[fn]
end

local function table_text(t, depth)
  local keys = {}
  for key in next, t do
    if type(key) == "string" or type(key) == "number" then keys[#keys + 1] = key end
    if #keys > ENTRIES_MOST then return "a large table" end
  end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  local parts = {}
  for i, key in ipairs(keys) do parts[i] = tostring(key) .. "=" .. describe(rawget(t, key), depth + 1) end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- The library's own objects and its modules are not the script's.
function describe(value, depth)
  local kind = type(value)
  if kind == "function" then
    return depth < DEEPEST and code_of(value, depth) or kind
  elseif kind == "table" then
    if kept[value] or value == _G or getmetatable(value) or depth >= DEEPEST then return kind end
    for _, module in pairs(package.loaded) do
      if module == value then return "module" end
    end
    return table_text(value, depth)
  elseif kind == "cdata" or kind == "userdata" or kind == "thread" then
    return kind
  end
  return kind .. " " .. tostring(value)
end

-- A file that TLS reads: that it is another one now is a change, too.
local function with_files(value)
  if type(value) == "table" then
    local parts = {}
    for key, inner in pairs(value) do parts[#parts + 1] = tostring(key) .. "=" .. with_files(inner) end
    table.sort(parts)
    return "{" .. table.concat(parts, ",") .. "}"
  end
  local file = type(value) == "string" and not value:find "\n" and io.open(value, "rb")
  if not file then return tostring(value) end
  local text = file:read(FILE_MOST) or ""
  file:close()
  return value .. " " .. digest_of(text)
end

local function policy_text(p)
  local parts = {}
  for _, name in ipairs(policy.order) do
    if p.hooks[name] then parts[#parts + 1] = name .. "=" .. code_of(p.hooks[name], 0) end
  end
  return (p.on_fail or "") .. table.concat(parts, ",")
end

local function named_policies(list)
  local parts = {}
  for i, p in ipairs(list) do parts[i] = (p.given.name or "") .. "=" .. policy_text(p) end
  return table.concat(parts, ";")
end

local function put(list, name, text)
  local before = list[name]
  list[name] = digest_of(before and before .. text or text)
end

local function upstream_text(u)
  local options = {}
  for key, value in pairs(u.options) do
    if key ~= "peers" then options[key] = key == "tls" and with_files(value) or value end
  end
  return table_text(options, 0) .. table_text(u.peers, 0)
end

-- Where a TCP route leads: to upstreams, which are called by their names.
local function tcp_text(given)
  local u = given ~= nil and declared.upstreams[given]
  if u then return u.name end
  if type(given) ~= "table" then return describe(given, 0) end
  local hosts = {}
  for host, upstream in pairs(given) do hosts[host] = tcp_text(upstream) end
  return table_text(hosts, 0)
end

local function listener_text(l)
  return table.concat({
    table_text(l.limits, 0), tcp_text(l.tcp), tostring(l.sni), tostring(l.name), describe(l.trusted, 0),
    tostring(l.backlog), tostring(l.http2), tostring(l.proxy_protocol), with_files(l.tls_options),
  }, "\n")
end

local function route_text(r)
  return table.concat({
    r.ends_at and r.ends_at.name or "", r.handler and code_of(r.handler, 0) or "", named_policies(r.policies),
    table_text(r.limits, 0), r.name or "", tostring(r.attempts), table_text(r.mirror or {}, 0),
  }, "\n")
end

--- Names and texts, a table for each kind of thing.
---@return table<string, table<string, string>>
local function outline()
  local all = { listeners = {}, routes = {}, upstreams = {}, policies = {}, settings = {} }
  kept = keep.tables()
  for key, value in pairs(declared.set) do put(all.settings, key, describe(value, 0)) end
  for _, l in ipairs(declared.listens) do put(all.listeners, l.address, listener_text(l)) end
  for _, u in ipairs(declared.upstreams) do put(all.upstreams, u.name, upstream_text(u)) end

  local seen = {}
  local function put_policies(list)
    for _, p in ipairs(list) do
      if not seen[p] then put(all.policies, p.label, policy_text(p)) end
      seen[p] = true
    end
  end
  put_policies(declared.uses)
  for _, r in ipairs(declared.routes) do
    put(all.routes, (r.methods_text ~= "" and r.methods_text .. " " or "") .. r.pattern, route_text(r))
    put_policies(r.policies)
  end
  return all
end

--- The outline as text, for moongate.changes in the VM that comes after this one.
return function()
  local all = outline()
  for _, list in pairs(all) do
    for name, text in pairs(list) do
      list[name] = (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end)):sub(1, 16)
    end
  end
  return json.encode(all)
end

-- auth.key - let a request pass if it brings a known API key, in a header or in the query.
--
--   local key = require "auth.key" { keys = { ["sha256:9f86d08188..."] = "alice", ["sha256:60303ae22b..."] = "bob" } }
--   gate.route { "api.example.com/*", policies = { key }, upstream = api }
--
-- keys     a table from keys to whose they are. A key may stand there as it is, or, so that nobody can read it, as what
--          `printf %s KEY | sha256sum` makes of it
-- header   where it stands, "x-api-key" if neither is given
-- arg      or the argument of the query where it stands
--
-- The origin is told in x-user whose it was, and does not see a key that came in the header. Keys are known by
-- their digests only, so the time that it takes tells nothing about them, and many take no longer than one.

local gate = require "moongate"

local function read_keys(keys)
  if type(keys) ~= "table" then return nil end
  local owners = {}
  for key, owner in pairs(keys) do
    local digits = tostring(key):match "^sha256:(.*)$"
    if digits and not digits:find("^" .. ("%x"):rep(64) .. "$") then
      return nil, nil, ": behind sha256: there must be 64 hexadecimal digits"
    end
    local digest = digits and digits:gsub("%x%x", function(two) return string.char(tonumber(two, 16)) end)
    owners[digest or gate.crypto.sha256(tostring(key))] = tostring(owner)
  end
  return owners
end

---@param given { keys: table<string, string>, header: string?, arg: string? }
---@return table policy
return function(given)
  local options = gate.options("auth.key", given, {
    keys = { "any", needed = true, expect = "a table of keys and whose they are", read = read_keys },
    header = { "string" },
    arg = { "string" },
  })
  local owners = options.keys
  local header = options.header or not options.arg and "x-api-key"

  local function access(req)
    req.headers["x-user"] = nil
    local sent = header and req.headers[header] or options.arg and req.args[options.arg]
    local owner = type(sent) == "string" and owners[gate.crypto.sha256(sent)]
    if not owner then return 401, "an API key is needed\n", { ["www-authenticate"] = 'ApiKey realm="api"' } end
    req.headers["x-user"] = owner
    if header then req.headers[header] = nil end
  end

  return { name = "auth.key", access = access }
end

-- auth.key - let a request pass if it brings a known API key, in a header or in the query.
--
--   local key = require "auth.key" { keys = { ["2f1c0a..."] = "alice", ["77d0e1..."] = "bob" } }
--   gate.route { "api.example.com/*", policies = { key }, upstream = api }
--
-- The key stands in `x-api-key`, or where `header` or `arg` says. The origin is
-- told in x-user whose it was, and does not see a key that came in the header.

local gate = require "moongate"

---@param given { keys: table<string, string>, header: string?, arg: string? }
---@return table policy
return function(given)
  local options = gate.options("auth.key", given, {
    keys = { "table", needed = true, expect = "a table of keys and whose they are" },
    header = { "string" },
    arg = { "string" },
  })
  local header = options.header or not options.arg and "x-api-key"

  local function owner_of(sent)
    local owner
    for key, name in pairs(options.keys) do
      if gate.crypto.equal(sent, key) then owner = name end      -- no early end: time tells nothing
    end
    return owner
  end

  local function access(req)
    req.headers["x-user"] = nil
    local sent = header and req.headers[header] or options.arg and req.args[options.arg]
    local owner = type(sent) == "string" and owner_of(sent)
    if not owner then return 401, "an API key is needed\n", { ["www-authenticate"] = 'ApiKey realm="api"' } end
    req.headers["x-user"] = tostring(owner)
    if header then req.headers[header] = nil end
  end

  return { name = "auth.key", access = access }
end

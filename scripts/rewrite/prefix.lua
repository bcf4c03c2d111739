-- rewrite.prefix - take a prefix off the path, or put one in front, on the way to the origin.
--
--   local prefix = require "rewrite.prefix" { strip = "/api", add = "/v1" }
--   gate.route { "/api/*", policies = { prefix }, upstream = api }      -- /api/users goes as /v1/users

local gate = require "moongate"

local function tail(text, strip)
  if strip == "" then return text end
  local rest = text:sub(#strip + 1)
  if text:sub(1, #strip) ~= strip or rest ~= "" and rest:sub(1, 1) ~= "/" then return nil end
  return rest == "" and "/" or rest
end

---@param given { strip: string?, add: string? }
---@return table policy
return function(given)
  local options = gate.options("rewrite.prefix", given, {
    strip = { "string", default = "" },
    add = { "string", default = "" },
  })
  for name, value in pairs(options) do
    if value ~= "" and not value:find("^/[%w._~/-]*[%w._~-]$") then
      error(('rewrite.prefix: %s must be a path like "/api", got "%s"'):format(name, value), 2)
    end
  end
  local strip, add = options.strip, options.add

  local function access(req)
    local path = tail(req.path, strip)
    if not path then return end
    -- The path as it was written keeps its encoding, unless dot segments in it lead elsewhere than they seem to.
    local raw = req.raw_path
    local plain = not raw:find("/.", 1, true) and not raw:lower():find("%2e", 1, true)
    raw = plain and tail(raw, strip)
    if raw then req.raw_path = add .. raw else req.path = add .. path end
  end

  return { name = "rewrite.prefix", access = access }
end

-- rewrite.canonical - one address for each page: clients that use another are sent there.
--
--   gate.use(require "rewrite.canonical" { https = true, host = "www.example.com", slash = "remove" })
--
-- https    true: from http to https
-- host     the one name of the site; without it every name stays
-- slash    "add": a path whose last segment has no dot ends with "/"; "remove": none does but "/"
-- status   308 (the method stays), or 301, 302, 307
-- except   paths that stay, from their beginning; "/.well-known/" if not given, for certificates' sake

local gate = require "moongate"

local function with_slash(path)
  local last = path:match "([^/]*)$"
  return (last == "" or last:find(".", 1, true)) and path or path .. "/"
end

local function without_slash(path)
  return path:match "^(.-)/+$" or path
end

---@param given { https: boolean?, host: string?, slash: string?, status: integer?, except: string[]? }
---@return table policy
return function(given)
  local options = gate.options("rewrite.canonical", given, {
    https = { "boolean", default = false },
    host = { "string" },
    slash = { { "add", "remove" } },
    status = { { 301, 302, 307, 308 }, default = 308 },
    except = { "strings", default = { "/.well-known/" } },
  })
  local host = options.host and options.host:lower()
  if host and host:find "[^%w.:%[%]-]" then
    error(('rewrite.canonical: host must be a name like "www.example.com", got "%s"'):format(options.host), 2)
  end

  local function is_excepted(path)
    for _, beginning in ipairs(options.except) do
      if path:sub(1, #beginning) == beginning then return true end
    end
    return false
  end

  local function path_of(raw)
    local path = options.slash == "add" and with_slash(raw) or options.slash == "remove" and without_slash(raw) or raw
    return path == "" and "/" or path:gsub("^/[/\\]+", "/")
  end

  local function request(req)
    if is_excepted(req.path) or req.host == "" then return end
    local scheme, name, path = options.https and "https" or req.scheme, host or req.host, path_of(req.raw_path)
    if scheme == req.scheme and name == req.host and path == req.raw_path then return end
    -- With the same scheme and name the port is the one that was asked.
    local same = scheme == req.scheme and name == req.host and req.headers.host or name
    local query = req.query and "?" .. req.query or ""
    return options.status, "moved\n", { location = scheme .. "://" .. same .. path .. query }
  end

  return { name = "rewrite.canonical", request = request }
end

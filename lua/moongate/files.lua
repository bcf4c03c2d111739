-- moongate.files - which files a script was made of: itself, what it required, and what TLS has read.
local declared = require "moongate.declared"

local FILES_MOST = 500

-- Strings that name files; PEM text does not.
local function collect(value, found)
  if type(value) == "table" then
    for _, inner in pairs(value) do collect(inner, found) end
  elseif type(value) == "string" and not value:find "\n" then
    local file = io.open(value, "rb")
    if file then
      file:close()
      found[#found + 1] = value
    end
  end
end

--- Their paths, one a line.
---@param script string
---@return string
return function(script)
  local found = { script }
  for name in pairs(package.loaded) do
    local path = not name:find "^moongate%f[%W]" and package.searchpath(name, package.path)
    if path then found[#found + 1] = path end
  end
  for _, l in ipairs(declared.listens) do collect(l.tls_options, found) end
  for _, u in ipairs(declared.upstreams) do collect(u.options.tls, found) end
  return table.concat(found, "\n", 1, math.min(#found, FILES_MOST))
end

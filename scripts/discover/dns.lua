-- discover.dns - a peer for each address of a name.
--
--   gate.upstream("app", { discover = require "discover.dns" { name = "app.internal", port = 8080 } })
--
-- A peer that is declared by a name is one peer, whose addresses are used in turn. This makes a peer of each of them,
-- with counts and health of its own. Answers are kept for their time to live, so asking each `discover_interval` costs
-- nothing till that is over.

local gate = require "moongate"

---@param given { name: string, port: integer }
---@return fun(): table?, string?
return function(given)
  local options = gate.options("discover.dns", given, {
    name = { "string", needed = true },
    port = { "count", min = 1, max = 65535, needed = true },
  })

  return function()
    local addresses, problem = gate.resolve(options.name)
    if not addresses then return nil, ("%s: %s"):format(options.name, problem) end
    local list = {}
    for i, address in ipairs(addresses) do
      list[i] = (address:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(address, options.port)
    end
    return list
  end
end

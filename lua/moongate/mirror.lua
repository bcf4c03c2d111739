-- moongate.mirror - a route's mirror: who gets copies of its requests, and of which.
local C = require "moongate.seam"
local declared = require "moongate.declared"
local fiber = require "moongate.fiber"
local log = require "moongate.log"
local problem = require "moongate.problem"
local schema = require "moongate.schema"

local mirror = {}

local SEED = 20         -- of keys: other shares by the same keys, of gate.hash(key), choose others

local keys = {
  upstream = schema.any("an upstream or its name", function(value)
    if type(value) == "string" or type(value) == "table" and declared.upstreams[value] then return value end
  end, { needed = true }),
  share = schema.number { max = 1, default = 1 },
  key = schema.func(),
  max_body = schema.size { max = 2 ^ 28, default = 2 ^ 16 },
  max_active = schema.count { min = 1, max = 1000000, default = 100 },
}

-- What the client gets does not depend on a mirror, nor on a mistake in its key.
local function key_of(fn, req)
  local ok, key = xpcall(fn, function(thrown)
    return thrown == fiber.gone and thrown or debug.traceback(tostring(thrown), 2)
  end, req)
  if ok and (key == nil or type(key) == "string" or type(key) == "number") then return key end
  if key == fiber.gone then error(key, 0) end
  log.error("mirror: key: " .. (ok and "a string is needed, got " .. problem.show(key) or key))
  return nil, true
end

-- Says of each request whether it is mirrored: always the same of the same key.
local function chooser(record)
  return { name = "mirror", access = function(req)
    local key, wrong = key_of(record.key, req)
    if key == nil and not wrong then return end
    local chosen = not wrong and C.mg_hash(tostring(key), #tostring(key), SEED) < record.share
    C.mg_view_mirror(req[1], chosen)
  end }
end

--- The mirror that a route has been given, checked, and a policy that goes with it, if it needs one.
---@param given table
---@param fail fun(text: string) raises
---@return table record, table? policy
function mirror.read(given, fail)
  local record = schema.read(given, keys, function(message) fail("mirror: " .. message) end)
  return record, record.key and chooser(record) or nil
end

return mirror

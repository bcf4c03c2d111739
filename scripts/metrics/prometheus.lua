-- metrics.prometheus - a handler for Prometheus and all who scrape as it does.
--
--   gate.route { "/metrics", handler = require "metrics.prometheus" {} }
--
-- Gives all that the gateway and its scripts count, over all workers: as OpenMetrics 1.0, with exemplars, to who asks
-- for it by Accept, and else in the text format 0.0.4. Whoever may read it learns names of routes, upstreams and peers:
-- put it on a listener of its own, or behind auth.ip. What is there to read: lua/metrics.md.

local gate = require "moongate"

local OPEN = "application/openmetrics-text"

-- Does this member of an Accept field ask for OpenMetrics, and with more than q=0?
local function asks_for_open(member)
  return member:lower():find(OPEN, 1, true) and not member:find ";%s*q=0%.?0*%s*$"
end

local function wants_open(accept)
  for member in (accept or ""):gmatch "[^,]+" do
    if asks_for_open(member) then return true end
  end
  return false
end

---@param given {}?
---@return fun(req): integer, string, table handler
return function(given)
  gate.options("metrics.prometheus", given, {})

  return function(req)
    if wants_open(req.headers.accept) then
      return 200, gate.metrics "openmetrics", { ["content-type"] = OPEN .. "; version=1.0.0; charset=utf-8" }
    end
    return 200, gate.metrics(), { ["content-type"] = "text/plain; version=0.0.4; charset=utf-8" }
  end
end

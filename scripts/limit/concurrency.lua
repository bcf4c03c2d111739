-- limit.concurrency - so many requests at once, for each client or in all.
--
--   local few = require "limit.concurrency" { most = 4 }                                          -- for each address
--   local render = require "limit.concurrency" { most = 20, by = function() return "render" end, status = 503 }
--
-- One more gets 429, or `status`. A request counts from here until its response has ended, also one that is cut, and
-- those of a worker that dies count no longer. `by` as in limit.rate. With `store = "redis://..."` a fleet counts
-- together: what a gateway that died had in progress counts for `lease` seconds more. `store`, `on_fail`, `size`:
-- limit/counts.lua.

local gate = require "moongate"
local counts = require "limit.counts"

local function client_address(req)
  return req.client.ip
end

---@param given { most: integer, by: (fun(req): string?)?, status: integer?, lease: number?, name: string?,
---  store: string?, on_fail: string?, size: number|string? }
---@return table policy
return function(given)
  local options = gate.options("limit.concurrency", given, counts.shape {
    most = { "count", min = 1, needed = true },
    by = { "function", default = client_address },
    status = { { 429, 503 }, default = 429 },
    lease = { "seconds", min = 3, default = 30 },
    name = { "string", default = "limit.concurrency" },
  })
  local store = counts.open("limit.concurrency", options)

  local function access(req)
    local client = options.by(req)
    if not client then return end
    local wait = store:hold(req, client, options.most)
    if not wait then return counts.failed(options) end
    if wait > 0 then return options.status, "too many requests at once\n", { ["retry-after"] = "1" } end
  end

  local function log(req)
    store:give(req)
  end

  return { name = "limit.concurrency", access = access, log = options.store and log or nil }
end

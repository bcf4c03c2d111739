-- limit.bandwidth - so many bytes a second.
--
--   local slow = require "limit.bandwidth" { down = "1M", up = "256K" }
--   local fair = require "limit.bandwidth" { down = "10M", by = function(req) return req.client.ip end }
--
-- `down` is for the responses' bodies, `up` for the requests'. Without `by` each exchange has that much of its own;
-- with it, all those together for which it gives the same text, in all workers. `burst` (as much as goes in a tenth of
-- a second) may go at once. Whoever sends is held back by flow control; nothing is buffered.

local gate = require "moongate"
local counts = require "limit.counts"

---@param given { down: number|string?, up: number|string?, burst: number|string?, by: (fun(req): string?)?,
---  name: string?, size: number|string? }
---@return table policy
return function(given)
  local options = gate.options("limit.bandwidth", given, {
    down = { "size", min = 1 },
    up = { "size", min = 1 },
    burst = { "size", min = 1 },
    by = { "function" },
    name = { "string", default = "limit.bandwidth" },
    size = { "size", min = 65536, default = 2 ^ 20 },
  })
  if not options.down and not options.up then error("limit.bandwidth: give it down, up, or both", 2) end
  local store = counts.open("limit.bandwidth", { name = options.name, size = options.size })

  -- A hook that lets pieces of one direction go on at this rate.
  local function paced(direction, rate)
    local step = 1 / rate
    local most = (options.burst or math.max(1, rate / 10)) * step
    return function(req, chunk)
      if not chunk then return end
      local key = options.by and options.by(req) or req.id
      local wait = store:bucket(direction .. key, #chunk, step, most, true)
      if wait and wait > 0 then gate.sleep(wait) end
    end
  end

  local policy = { name = "limit.bandwidth", request_body = options.up and paced("up ", options.up) or nil }
  if options.down then
    local pace = paced("down ", options.down)
    function policy.response_body(req, _, chunk) pace(req, chunk) end
  end
  return policy
end

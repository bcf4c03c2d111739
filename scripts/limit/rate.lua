-- limit.rate - so many requests a second for each client, in all workers together.
--
--   local rate = require "limit.rate" { rate = 10, burst = 20 }
--   gate.route { "/search", policies = { rate }, upstream = search }
--
-- `by` says what counts as one client: a function(req), the client's address if
-- absent; requests for which it gives nil pass. Who is over it gets 429 and when to try again.
--
-- A client's entry is the time at which its bucket will be full again (the generic cell
-- rate algorithm): a request moves it on by 1/rate, and may not move it further
-- than burst/rate from now. One number, one atomic step.

local gate = require "moongate"

local function client_address(req)
  return req.client.ip
end

---@param given { rate: number, burst: number?, by: (fun(req): string?)?, name: string?, size: number|string? }
---@return table policy
return function(given)
  local options = gate.options("limit.rate", given, {
    rate = { "number", above = 0, needed = true },
    burst = { "count", min = 1 },
    by = { "function", default = client_address },
    name = { "string", default = "limit.rate" },       -- of the dictionary: policies that share it share their counts
    size = { "size", min = 65536, default = 2 ^ 22 },
  })
  local step = 1 / options.rate
  local most = step * (options.burst or math.max(1, math.ceil(options.rate)))
  local full_at = gate.shared(options.name, options.size)

  -- Seconds until a request of this client may pass; 0: now.
  local function wait_for(client, now)
    local at = full_at:get(client)
    if not at or at < now then
      full_at:set(client, now + step)
      return 0
    end
    at = full_at:incr(client, step, now)
    local over = at - now - most
    if over <= 1e-9 then return 0 end
    full_at:incr(client, -step, now)
    return over
  end

  local function access(req)
    local client = options.by(req)
    if not client then return end
    local wait = wait_for(client, gate.now())
    if wait > 0 then
      return 429, "too many requests\n", { ["retry-after"] = tostring(math.ceil(wait)) }
    end
  end

  return { name = "limit.rate", access = access }
end

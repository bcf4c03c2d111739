-- limit.body - how long a request's body may be, by the request.
--
--   local small = require "limit.body" { most = "64K" }
--   local by_user = require "limit.body" { most = function(req)
--     return req.headers["x-plan"] == "paid" and 1e9 or 1e7         -- bytes; nil: no other bound
--   end }
--
-- A longer one gets 413: at once if it says its length, or else when it has become too long. What max_body_size says of
-- the route or listener holds as well.

local gate = require "moongate"

---@param given { most: number|string|fun(req): number? }
---@return table policy
return function(given)
  local kind = type(given) == "table" and type(given.most) == "function" and "function" or "size"
  local options = gate.options("limit.body", given, { most = { kind, needed = true } })
  local most = options.most

  local function access(req)
    local bytes = most
    if kind == "function" then bytes = most(req) end
    if not bytes then return end
    local ok, problem, status = req:limit_body(bytes)
    if not ok then return status, problem .. "\n" end
  end

  return { name = "limit.body", access = access }
end

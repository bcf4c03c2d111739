-- aggregate - one answer made of several services' ones, asked at the same time.
--
--   USERS=http://127.0.0.1:3001 ORDERS=http://127.0.0.1:3002 moongate aggregate.lua
--   curl http://localhost:8080/dashboard/7
--
-- It takes as long as the slowest, at most half a second. Without the user there is no page; without the orders there
-- is one that says so.

local gate = require "moongate"

local users, orders = os.getenv "USERS" or "http://127.0.0.1:3001", os.getenv "ORDERS" or "http://127.0.0.1:3002"

gate.listen(os.getenv "LISTEN" or ":8080")

local function ask(url)
  return function()
    local answer = gate.fetch(url, { timeout = 0.5 })
    return answer.ok and answer:json() or false
  end
end

gate.route { "/dashboard/:id", methods = "GET", handler = function(req)
  local id = gate.escape(req.params.id)
  local found = gate.all(ask(users .. "/users/" .. id), ask(orders .. "/orders?user=" .. id))
  if not found[1] then return 502, { problem = "the users' service does not answer" } end
  return 200, { user = found[1], orders = found[2] or gate.json.null, complete = found[2] and true or false }
end }

-- balance.two_choices - of two peers picked by chance, the one with less in flight.
--
--   gate.upstream("app", { peers = { ... }, balance = require "balance.two_choices" {} })
--
-- Nearly as even as asking all of them, and no crowd runs to the one that was
-- idle a moment ago. A peer with twice the weight takes twice as many.

local gate = require "moongate"

local random = math.random

---@param given {}?
---@return fun(req, peers): table? peer
return function(given)
  gate.options("balance.two_choices", given, {})

  return function(_, peers)
    local n = #peers
    if n < 2 then return peers[1] end

    local i, j = random(n), random(n - 1)
    if j >= i then j = j + 1 end
    local a, b = peers[i], peers[j]
    if (a.active + 1) / a.weight <= (b.active + 1) / b.weight then return a end
    return b
  end
end

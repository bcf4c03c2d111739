-- balance.random - any peer, by chance, in proportion to the weights.
--
--   gate.upstream("app", { peers = { ... }, balance = "random" })
--
-- It looks at no counts, so it needs none. Of m requests to n peers the busiest
-- gets about m/n + sqrt(2 m log(n) / n) (Raab and Steger, "Balls into bins", 1998).
--
-- Weights by the alias method: one draw picks a column, another one of the two
-- peers in it (Vose, "A linear algorithm for generating random numbers with a
-- given distribution", IEEE Trans. Software Eng. 17, 1991).

local gate = require "moongate"

local random = math.random

-- Column i is peer i's for the share keep[i], and peer other[i]'s for the rest.
local function columns(peers)
  local n, sum, even = #peers, 0, true
  for i = 1, n do
    sum = sum + peers[i].weight
    even = even and peers[i].weight == peers[1].weight
  end
  local keep, other, short, long = {}, {}, {}, {}
  for i = 1, n do
    keep[i], other[i] = peers[i].weight * n / sum, i
    table.insert(keep[i] < 1 and short or long, i)
  end
  while #short > 0 and #long > 0 do
    local i, j = table.remove(short), long[#long]
    other[i] = j
    keep[j] = keep[j] + keep[i] - 1
    if keep[j] < 1 then table.insert(short, table.remove(long)) end
  end
  return { n = n, even = even, keep = keep, other = other }
end

---@param given {}?
---@return fun(req, peers, but): table peer not `but`, if there is another
return function(given)
  gate.options("balance.random", given, {})
  local columns_of = gate.memoize(columns)

  return gate.peers_only(function(peers, but)
    local c = columns_of(peers)
    local n = c.n
    local i = random(n)
    if not c.even and random() >= c.keep[i] then i = c.other[i] end
    if peers[i] == but and n > 1 then i = (i - 1 + random(n - 1)) % n + 1 end     -- any of the others
    return peers[i]
  end)
end

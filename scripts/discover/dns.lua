-- discover.dns - peers by name: one for each address of a name, or of the targets of its SRV records (RFC 2782).
--
--   gate.upstream("app", { discover = require "discover.dns" { name = "app.internal", port = 8080 } })
--   gate.upstream("users", { discover = require "discover.dns" { srv = "_http._tcp.users.internal" },
--     balance = require "balance.tiers" { spare = math.huge } })
--
-- A peer that is declared by a name is one peer, whose addresses are used in turn. This makes a peer of each of them,
-- with counts and health of its own. Answers are kept for their time to live, at least a second and at most an hour, so
-- asking each `discover_interval` costs nothing till that is over.
--
-- By SRV records ports come with the targets. A target's weight is spread over its addresses; a weight of 0 counts as
-- 0.01, or, where all are 0, as 1. A priority is the peers' `tier`, which balance.tiers goes by, as above: the next
-- tier serves when none of those before it is healthy. Other balancers use all of them at once. With TLS give
-- tls = { sni = ... }, since peers are addresses. A target without an address is left out, and the log says so. If
-- there is no answer, or the service is not offered (its target is "."), the peers stay as they are.

local gate = require "moongate"

local FEW = 0.01        -- "a very small chance", where others have a weight

local function peer_text(address, port)
  return (address:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(address, port)
end

local function by_name(name, port)
  return function()
    local addresses, problem = gate.resolve(name)
    if not addresses then return nil, ("%s: %s"):format(name, problem) end
    local list = {}
    for i, address in ipairs(addresses) do list[i] = peer_text(address, port) end
    return list
  end
end

-- The addresses of all targets at once: a list a record.
local function resolve_targets(records, told)
  local works = {}
  for i, record in ipairs(records) do
    works[i] = function()
      local addresses, problem = gate.resolve(record.target)
      if not addresses and not told[record.target] then
        gate.log.warn(("discover.dns: target %s: %s; it is left out"):format(record.target, problem))
      end
      told[record.target] = not addresses
      return addresses or {}
    end
  end
  return gate.all(unpack(works))
end

-- The weight of a record's peers, as a number above 0.
local function weights_of(records)
  local most = {}
  for _, record in ipairs(records) do
    most[record.priority] = math.max(most[record.priority] or 0, record.weight)
  end
  return function(record)
    if most[record.priority] == 0 then return 1 end
    return record.weight > 0 and record.weight or FEW
  end
end

-- Two targets may share an address: then it is one peer, of the first tier of both.
local function to_peers(records, told)
  local found, weight_of = resolve_targets(records, told), weights_of(records)
  local list, by_text = {}, {}
  for i, record in ipairs(records) do
    for _, address in ipairs(found[i]) do
      local text, weight = peer_text(address, record.port), weight_of(record) / #found[i]
      local peer = by_text[text]
      if not peer then
        peer = { text, weight = weight, tier = record.priority }
        list[#list + 1], by_text[text] = peer, peer
      elseif peer.tier == record.priority then
        peer.weight = peer.weight + weight
      end
    end
  end
  return list
end

local function by_srv(name)
  local records, due = nil, 0
  local told = {}
  return function()
    if gate.now() >= due then
      local answer, problem = gate.resolve(name, { type = "SRV" })
      if not answer then return nil, ("%s: %s"):format(name, problem) end
      table.sort(answer, function(a, b) return a.priority < b.priority end)
      records, due = answer, gate.now() + answer.ttl
    end
    if records[1].target == "." then return nil, name .. ': its target is ".": the service is not offered' end
    local list = to_peers(records, told)
    if #list == 0 then return nil, name .. ": none of its targets has an address" end
    return list
  end
end

---@param given { name: string?, port: integer?, srv: string? } name and port, or srv
---@return fun(): table?, string?
return function(given)
  local options = gate.options("discover.dns", given, {
    name = { "string" },
    port = { "count", min = 1, max = 65535 },
    srv = { "string" },
  })
  if options.srv and not (options.name or options.port) then return by_srv(options.srv) end
  if options.name and options.port and not options.srv then return by_name(options.name, options.port) end
  error('discover.dns: give a name and a port, { name = "app.internal", port = 8080 }, or SRV records, '
    .. '{ srv = "_http._tcp.app.internal" }', 2)
end

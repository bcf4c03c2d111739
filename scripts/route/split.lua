-- route.split - a part of the requests, or of the users, to each of several upstreams: A/B tests, canaries, blue-green.
--
--   local split = require "route.split" { to = { { "canary", 5 }, { "stable", 95 } }, cookie = "side" }
--   gate.route { "/*", policies = { split }, upstream = "stable" }
--
-- to        a list of upstreams (or their names) with their weights; 0: only by `header`. When the first one's weight
--           grows, those who were there stay
-- key       function(req): the same text goes to the same side, on every machine; nil: by chance
-- cookie    the side that a user had stands in this cookie, for `max_age` seconds (30 days). It counts as long as its
--           upstream has a weight above 0
-- header    a field with an upstream's name in it leads there, whatever else is said: "x-side". `header_from`: networks
--           that it counts from, everybody if not given
-- tell      a field in which the origin is told its side: "x-split" if not given, or false
--
-- The side is req.ctx["route.split"], and the upstream in the access log.

local gate = require "moongate"

local SEED = 2

local function read_list(value)
  if type(value) ~= "table" or #value == 0 then return nil end
  local list, sum = {}, 0
  for i, entry in ipairs(value) do
    local upstream, weight = entry[1], entry[2]
    if type(upstream) == "table" then upstream = upstream.name end
    if type(upstream) ~= "string" or type(weight) ~= "number" or not (weight >= 0 and weight < math.huge) then
      return nil, nil, (": entry %d must be an upstream and a weight, 0 or more"):format(i)
    end
    list[i], sum = { name = upstream, weight = weight }, sum + weight
  end
  if sum == 0 then return nil, nil, ": one weight must be above 0" end
  for _, entry in ipairs(list) do entry.share = entry.weight / sum end
  return list
end

local function read_networks(value)
  local networks, reason = gate.networks(value)
  if not networks then return nil, nil, ": " .. reason end
  return networks
end

---@param given { to: table[], key: (fun(req): string?)?, cookie: string?, max_age: number?, header: string?,
---  header_from: string[]?, tell: (string|false)? }
---@return table policy
return function(given)
  local options = gate.options("route.split", given, {
    to = { "any", needed = true, expect = 'a list like { { "canary", 5 }, { "stable", 95 } }', read = read_list },
    key = { "function" },
    cookie = { "string" },
    max_age = { "count", default = 30 * 86400 },
    header = { "string" },
    header_from = { "any", expect = "a list of networks", read = read_networks },
    tell = { "any", default = "x-split", expect = "a field's name or false", read = function(value)
      if value == false or type(value) == "string" then return value end
    end },
  })
  local sides = {}
  for _, entry in ipairs(options.to) do sides[entry.name] = entry end

  local function by_header(req)
    local named = options.header and sides[req.headers[options.header] or ""]
    if named and (not options.header_from or options.header_from:find(req.client.ip)) then return named end
  end

  local function by_cookie(req)
    local named = options.cookie and sides[req.cookies[options.cookie] or ""]
    return named and named.weight > 0 and named or nil
  end

  local function by_share(req)
    local key = options.key and options.key(req)
    local at = key and gate.hash(key, SEED) or math.random()
    for _, entry in ipairs(options.to) do
      at = at - entry.share
      if at < 0 then return entry end
    end
    return options.to[#options.to]
  end

  local function access(req)
    local side = by_header(req)
    if not side then
      side = by_cookie(req)
      if not side then
        side = by_share(req)
        req.ctx["route.split.new"] = true
      end
    end
    req.ctx["route.split"] = side.name
    req.upstream = side.name
    if options.tell then req.headers[options.tell] = side.name end
  end

  local function response(req, res)
    if not req.ctx["route.split.new"] then return end
    res.headers:add("set-cookie", ("%s=%s; Path=/; Max-Age=%d; SameSite=Lax; HttpOnly%s"):format(options.cookie,
      req.ctx["route.split"], options.max_age, req.scheme == "https" and "; Secure" or ""))
  end

  return { name = "route.split", access = access, response = options.cookie and response or nil }
end

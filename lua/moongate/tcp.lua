-- moongate.tcp - TCP routes: what a listener's `tcp` says, and the core's route made of it.
local ffi = require "ffi"
local C = require "moongate.seam"
local bit = require "bit"
local declared = require "moongate.declared"
local hook = require "moongate.hook"
local problem = require "moongate.problem"

local tcp = {}

local IDLE = 600        -- seconds: connections of databases rest longer than those of browsers
local phases = 2 ^ C.MG_PHASE_BALANCE + 2 ^ C.MG_PHASE_LOG

--- What a listener's record needs of its options.
---@param fail fun(text: string) raises
function tcp.read(record, options, fail)
  local given = options.tcp
  local single = type(given) == "string" or declared.upstreams[given] ~= nil
  if not single and options.tls then
    fail("tls: where a connection goes is chosen by its ClientHello, before TLS is ended; name one upstream")
  end
  record.tcp, record.single, record.name = given, single, options.name
  record.sni = options.sni
  if record.sni == nil then record.sni = not single end
  if record.sni and options.tls then fail("sni: TLS is ended here, and knows the name by itself; leave sni out") end
end

-- The record of an upstream that is named by its object or its name.
local function find(given, fail)
  local u = declared.upstreams[given]
  if not u then
    local names = {}
    for _, other in ipairs(declared.upstreams) do names[other.name] = true end
    local remedy = next(names) and problem.remedy(given, names) or "; declare it with gate.upstream"
    fail(("tcp: there is no upstream %s%s"):format(problem.show(given), remedy))
  end
  if u.http2 then fail(('tcp: upstream "%s" speaks HTTP/2, which a TCP route can\'t'):format(u.name)) end
  return u
end

-- An exact name beats a wildcard, the longer the better, beats "*".
local function by_name(hosts)
  return function(conn)
    local name = conn.sni
    if not name then return hosts["*"] end
    if hosts[name] then return hosts[name] end
    local rest = name:match "%.(.+)$"
    while rest do
      local found = hosts["*." .. rest]
      if found then return found end
      rest = rest:match "%.(.+)$"
    end
    return hosts["*"]
  end
end

local function read_hosts(given, fail)
  local hosts = {}
  for name, upstream in pairs(given) do
    if type(name) ~= "string" or not (name == "*" or name:find "^[%w_-][%w_.-]*$" or name:find "^%*%.[%w_.-]+$") then
      fail(('tcp: %s is not a host name; write one like "db.example.com", "*.example.com" or "*"')
        :format(problem.show(name)))
    end
    hosts[name:lower()] = find(upstream, fail).object
  end
  return hosts
end

--- Where it leads: one upstream, or what chooses one for a connection.
---@return table? upstream, table? chooser { fn =, label = }
function tcp.resolve(record, fail)
  local given = record.tcp
  if record.single then return find(given, fail), nil end
  local fn = type(given) == "function" and given or by_name(read_hosts(given, fail))
  return nil, hook.new("tcp", fn, ('tcp of the listener at "%s"'):format(record.address), true)
end

--- The hooks that its connections meet, of those that were found for it.
function tcp.hooks(hooks, wants)
  return {
    [C.MG_PHASE_BALANCE] = hooks[C.MG_PHASE_BALANCE], [C.MG_PHASE_LOG] = hooks[C.MG_PHASE_LOG],
  }, bit.band(wants, phases)
end

--- Fills in its part of the spec.
function tcp.fill(spec, record, upstream, wants)
  spec.tcp, spec.sni, spec.wants = true, record.sni, wants
  spec.upstream = upstream and upstream.pointer or nil
  spec.name.ptr, spec.name.len = ffi.cast("const char *", record.name or ""), #(record.name or "")
  if not record.limits.idle_timeout then spec.limits.idle_timeout = IDLE end
end

return tcp

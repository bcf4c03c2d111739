-- discover.consul - the instances of a service that pass their checks, by Consul's HTTP interface.
--
--   local app = require "discover.consul" { url = "http://127.0.0.1:8500", service = "app", tag = "blue" }
--   gate.upstream("app", { discover = app, discover_interval = 2 })
--
-- A peer's weight is the service's weight for passing checks, its zone the service's metadata `zone`. `token` goes
-- along as X-Consul-Token; `tls` as in gate.fetch.

local gate = require "moongate"

---@param given { url: string, service: string, tag: string?, datacenter: string?, token: string?, timeout: number? }
---@return fun(): table?, string?
return function(given)
  local options = gate.options("discover.consul", given, {
    url = { "string", default = "http://127.0.0.1:8500" },
    service = { "string", needed = true },
    tag = { "string" },
    datacenter = { "string" },
    token = { "string" },
    timeout = { "seconds", above = 0, default = 5 },
    tls = { "any" },
  })
  local url = options.url:gsub("/$", "") .. "/v1/health/service/" .. gate.escape(options.service)

  return function()
    local answer = gate.fetch(url, {
      query = { passing = "1", tag = options.tag, dc = options.datacenter },
      headers = { ["x-consul-token"] = options.token }, timeout = options.timeout, tls = options.tls,
    })
    local entries = answer.ok and answer:json()
    if type(entries) ~= "table" then
      return nil, ("%s: %s"):format(options.url, answer.problem or "status " .. answer.status)
    end
    local list = {}
    for i, entry in ipairs(entries) do
      local service = entry.Service
      local host = service.Address ~= "" and service.Address or entry.Node.Address
      local weight = type(service.Weights) == "table" and service.Weights.Passing or 1
      list[i] = {
        (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, service.Port), weight = weight,
        zone = type(service.Meta) == "table" and service.Meta.zone or nil,
      }
    end
    return list
  end
end

-- discover.kubernetes - the ready endpoints of a service, by Kubernetes' EndpointSlices (discovery.k8s.io/v1).
--
--   local app = require "discover.kubernetes" { service = "app", namespace = "shop", port = "http" }
--   gate.upstream("app", { discover = app, discover_interval = 2 })
--
-- In a pod it needs no more: the token and the authority of the service account are read from their files, the token
-- each time, since it is renewed. The account must be allowed to list endpointslices. `port` is a port's name or
-- number; it may be left out if there is one only. A peer's zone is the endpoint's.

local gate = require "moongate"

local ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/"

local function read(path)
  local file, problem = io.open(path)
  if not file then return nil, problem end
  local text = file:read "*a"
  file:close()
  return (text:gsub("%s+$", ""))
end

local function find_port(slice, wanted)
  for _, port in ipairs(slice.ports or {}) do
    if not wanted or port.name == wanted or port.port == wanted then return port.port end
  end
end

-- Unknown counts as ready, as the API says.
local function is_ready(endpoint)
  local conditions = endpoint.conditions or {}
  return conditions.ready ~= false and conditions.terminating ~= true
end

local function add_slice(list, slice, wanted)
  local port = find_port(slice, wanted)
  for _, endpoint in ipairs(port and slice.endpoints or {}) do
    local host = is_ready(endpoint) and endpoint.addresses[1]
    if host then
      list[#list + 1] = {
        (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, port),
        zone = type(endpoint.zone) == "string" and endpoint.zone or nil,
      }
    end
  end
end

---@param given { service: string, namespace: string?, port: string|integer?, url: string?, token_file: string?,
---  tls: table|true?, timeout: number? }
---@return fun(): table?, string?
return function(given)
  local options = gate.options("discover.kubernetes", given, {
    service = { "string", needed = true },
    namespace = { "string", default = "default" },
    port = { "any" },
    url = { "string", default = "https://kubernetes.default.svc" },
    token_file = { "string", default = ACCOUNT .. "token" },
    tls = { "any", default = { ca = ACCOUNT .. "ca.crt" } },
    timeout = { "seconds", above = 0, default = 5 },
  })
  local url = ("%s/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices"):format(options.url:gsub("/$", ""),
    gate.escape(options.namespace))

  return function()
    local token, problem = read(options.token_file)
    if not token then return nil, problem end
    local answer = gate.fetch(url, {
      query = { labelSelector = "kubernetes.io/service-name=" .. options.service },
      headers = { authorization = "Bearer " .. token }, timeout = options.timeout,
      tls = options.url:match "^https:" and options.tls or nil,
    })
    local found = answer.ok and answer:json()
    if type(found) ~= "table" then
      return nil, ("%s: %s"):format(options.url, answer.problem or "status " .. answer.status)
    end
    local list = {}
    for _, slice in ipairs(found.items or {}) do add_slice(list, slice, options.port) end
    return list
  end
end

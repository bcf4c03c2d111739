-- headers.cors - which pages of other origins may use this one's answers (Fetch standard, 3.2).
--
--   local cors = require "headers.cors" { origins = { "https://app.example.com", "https://*.example.org" } }
--   gate.route { "api.example.com/*", policies = { cors }, upstream = api }
--
-- origins      a list: "https://app.example.com", "https://*.example.com" (any name below it), "*" (everybody), "null";
--              or a function(origin, req) that says true
-- methods      what they may ask for: GET, HEAD, POST, PUT, PATCH and DELETE if not given
-- headers      which fields they may send, besides those that all may: any that they ask for if not given
-- expose       which fields of the answer they may read, besides those that all may
-- credentials  true: cookies and Authorization may come along; then "*" is no origin
-- max_age      seconds for which a browser may remember that it may: 600
-- private_network  true: pages from the internet may reach this server in a private network
--
-- It answers preflight requests by itself; a route with `methods` must name OPTIONS for that. What the origin says of
-- CORS is replaced. Others than `origins` get no such field, so that their pages can't read the answer; and 403 as the
-- answer to a preflight. This is not access control: who is no browser asks as before.

local gate = require "moongate"

local OWN = {
  "access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers",
  "access-control-allow-methods", "access-control-allow-headers", "access-control-max-age",
  "access-control-allow-private-network",
}

-- A test of origins: exact ones by a look-up, "https://*.example.com" by their ends.
local function tester(list)
  local exact, ends = {}, {}
  for _, origin in ipairs(list) do
    local scheme, below = origin:match "^(%a[%w+.-]*://)%*(%.[%w.:%[%]-]+)$"
    if scheme then
      ends[#ends + 1] = { scheme:lower(), below:lower() }
    elseif origin == "*" or origin == "null" or origin:find "^%a[%w+.-]*://[%w.%[%]:-]+$" then
      exact[origin:lower()] = true
    else
      return nil, ('"%s" is no origin; write one like "https://app.example.com"'):format(origin)
    end
  end
  return function(origin)
    origin = origin:lower()
    if exact[origin] or exact["*"] then return true end
    for _, pair in ipairs(ends) do
      local scheme, below = pair[1], pair[2]
      local host = origin:sub(1, #scheme) == scheme and origin:sub(#scheme + 1)
      if host and #host > #below and host:sub(-#below) == below and not host:find "[^%w.:-]" then return true end
    end
    return false
  end, nil, exact["*"]
end

local function read_origins(value)
  if type(value) == "function" then return { test = value } end
  if type(value) ~= "table" or #value == 0 then return nil end
  for _, origin in ipairs(value) do
    if type(origin) ~= "string" then return nil end
  end
  local test, wrong, everybody = tester(value)
  if not test then return nil, nil, ": " .. wrong end
  return { test = test, everybody = everybody }
end

local function add_vary(headers, name)
  local vary = headers.vary
  if not vary then
    headers.vary = name
  elseif vary ~= "*" and not ("," .. vary:lower():gsub("%s", "") .. ","):find("," .. name:lower() .. ",", 1, true) then
    headers.vary = vary .. ", " .. name
  end
end

---@param given { origins: string[]|fun(origin: string, req): boolean, methods: string[]?, headers: string[]?,
---  expose: string[]?, credentials: boolean?, max_age: number?, private_network: boolean? }
---@return table policy
return function(given)
  local options = gate.options("headers.cors", given, {
    origins = { "any", needed = true, expect = 'a list like { "https://app.example.com" }, or a function',
      read = read_origins },
    methods = { "strings", default = { "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE" } },
    headers = { "strings" }, expose = { "strings" },
    credentials = { "boolean", default = false },
    max_age = { "count", default = 600 },
    private_network = { "boolean", default = false },
  })
  local origins, credentials = options.origins, options.credentials
  if credentials and origins.everybody then
    error('headers.cors: with credentials the origins must be named; "*" would open every session to every page', 2)
  end
  local methods = table.concat(options.methods, ", ")
  local allowed = options.headers and table.concat(options.headers, ", ")
  local expose = options.expose and table.concat(options.expose, ", ")
  local same_for_all = origins.everybody and not credentials

  -- The fields for a page of this origin; nil: it may not.
  local function grant(req, origin)
    if not origins.test(origin, req) then return nil end
    return {
      ["access-control-allow-origin"] = same_for_all and "*" or origin,
      ["access-control-allow-credentials"] = credentials and "true" or nil,
    }
  end

  local function preflight(req, origin)
    local fields = grant(req, origin)
    local vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    if not fields then return 403, "pages of this origin may not\n", { vary = vary } end
    fields.vary = vary
    fields["access-control-allow-methods"] = methods
    fields["access-control-allow-headers"] = allowed or req.headers["access-control-request-headers"]
    fields["access-control-max-age"] = tostring(options.max_age)
    if options.private_network and req.headers["access-control-request-private-network"] == "true" then
      fields["access-control-allow-private-network"] = "true"
    end
    return 204, nil, fields
  end

  local function access(req)
    local origin = req.headers.origin
    if origin and req.method == "OPTIONS" and req.headers["access-control-request-method"] then
      req.ctx["headers.cors"] = true
      return preflight(req, origin)
    end
  end

  local function response(req, res)
    if req.ctx["headers.cors"] then return end
    local headers, origin = res.headers, req.headers.origin
    for _, name in ipairs(OWN) do headers[name] = nil end
    if not same_for_all then add_vary(headers, "Origin") end
    local fields = origin and grant(req, origin)
    if not fields then return end
    for name, value in pairs(fields) do headers[name] = value end
    headers["access-control-expose-headers"] = expose
  end

  return { name = "headers.cors", access = access, response = response }
end

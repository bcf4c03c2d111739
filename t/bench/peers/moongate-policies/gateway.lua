-- One route for each policy, at /NAME, and /plain without any; /fields tells what a request must bring.
local gate = require "moongate"
local env = os.getenv
package.path = env "SCRIPTS" .. "/?.lua;" .. package.path

gate.set { workers = tonumber(env "WORKERS"), access_log = "off", max_connections = 20000 }
gate.listen { env "IP" .. ":" .. env "PORT", idle_timeout = 300 }
local origin = gate.upstream("origin", { peers = { env "ORIGIN" }, keepalive = 1024 })
local decider = ("http://%s:%s/decider"):format(env "IP", env "PORT")

local secret = "the secret of this benchmark, of some length"
local hash = "$6$rounds=1000$moongate$2ucMW8Bucd/IktM4X/5uFLLzB0hFSTSS"     -- of "secret"
  .. ".4p4GKegiHcqfTgmg6H/b8rEwOKF5NlJEEXarJoMfu8OSvU5nTVrd."
local cookies = require "store.cookie" { name = "oidc", secrets = { secret } }
local key = assert(gate.crypto.key(env "TOKEN_KEY"))

local function rate(fields)
  return require "limit.rate" { rate = 1e9, burst = 1000000, fields = fields }
end
local function jwt(more)
  local options = { keys = { env "TOKEN_KEY" }, audience = "bench" }
  for name, value in pairs(more or {}) do options[name] = value end
  return require "auth.jwt"(options)
end

-- What counts only in gate.use, as the policy of one route.
local function on_route(policy)
  policy.access, policy.request = policy.request, nil
  return policy
end

local policies = {
  plain = {},
  ["auth.ip"] = { require "auth.ip" { allow = { "127.0.0.0/8", "10.0.0.0/8", "192.168.0.0/16", "2001:db8::/32" } } },
  ["auth.key"] = { require "auth.key" { keys = { ["3b9f0c1d2e"] = "alice" } } },
  ["auth.basic"] = { require "auth.basic" { users = { alice = hash } } },
  ["auth.jwt"] = { jwt() },
  ["auth.jwt + limit.rate"] = { jwt(), rate(false) },
  ["limit.rate"] = { rate(false) },
  ["limit.rate with RateLimit"] = { rate(true) },
  ["auth.introspection"] = { require "auth.introspection" { url = decider, token = "t" } },
  ["auth.signature"] = {
    require "auth.signature" { keys = { bench = { secret = secret } }, replay = true, max_age = 1e6 },
  },
  ["auth.oidc"] = {
    require "auth.oidc" { issuer = decider, client_id = "bench", secrets = { secret } },
  },
  cache = { require "cache" { ttl = 3600 } },
  ["auth.csrf"] = { require "auth.csrf" {} },
  ["block.scanners"] = { require "block.scanners" {} },
  ["headers.cors"] = { require "headers.cors" { origins = { "https://app.example.com" } } },
  ["headers.request_id"] = { on_route(require "headers.request_id" { format = "uuid7" }) },
  ["headers.security"] = { require "headers.security" { policy = "default-src 'self'" } },
  ["headers.set"] = { require "headers.set" { request = { ["x-gateway"] = "moon" }, response = { server = false } } },
  ["limit.bandwidth"] = { require "limit.bandwidth" { down = "1G" } },
  ["limit.body"] = { require "limit.body" { most = "1M" } },
  ["limit.concurrency"] = { require "limit.concurrency" { most = 100000 } },
  ["limit.quota"] = { require "limit.quota" { most = 1e12, per = "day", by = function(req) return req.client.ip end } },
  ["answer.maintenance"] = { require "answer.maintenance" { file = "/nonexistent/maintenance" } },
  ["body.compress"] = { require "body.compress" {} },
  ["body.replace"] = { require "body.replace" { words = { moongate = "MOONGATE" }, types = { "text/plain" } } },
  ["rewrite.canonical"] = { on_route(require "rewrite.canonical" { slash = "remove" }) },
  ["rewrite.path"] = {
    require "rewrite.path" { { "^/nothing/(%d+)$", "/thing?id=%1" }, { "^/rewrite(.*)$", "/path%1" } },
  },
  ["rewrite.prefix"] = { require "rewrite.prefix" { strip = "/rewrite.prefix" } },
  ["rewrite.query"] = { require "rewrite.query" { set = { a = "1" }, remove = { "utm_*" } } },
  ["route.split"] = { require "route.split" {
    to = { { "origin", 1 }, { "other", 0 } }, key = function(req) return req.client.ip end,
  } },
  ["trace.context"] = { on_route(require "trace.context" {}) },
  ["trace.otlp"] = { on_route(require "trace.otlp" { url = decider, sample = 0.01 }) },
  ["auth.forward"] = { require "auth.forward" { url = "http://" .. env "ORIGIN" .. "/" } },
}

gate.upstream("other", { peers = { env "ORIGIN" } })
for name, list in pairs(policies) do
  gate.route { "/" .. name:gsub("[ +]+", "-"), policies = list, upstream = origin }
end
-- Balancers in Lua, of ten peers.
local ten = {}
for i = 1, 10 do ten[i] = env "ORIGIN" end
local balancers = {
  "p2c", "ewma", "random", "maglev", "ring", "rendezvous", "source_hash", "sticky", "zone", "tiers",
}
for _, name in ipairs(balancers) do
  local options = (name == "maglev" or name == "ring" or name == "rendezvous")
    and { key = function(req) return req.client.ip end } or name == "zone" and { zone = "a" } or {}
  gate.route { "/balance." .. name, upstream = gate.upstream("balance." .. name, {
    peers = ten, keepalive = 1024, balance = require("balance." .. name)(options),
  }) }
end
gate.route { "/decider", handler = function() return 200, { active = true, sub = "alice" } end }

local function token()
  local parts = gate.base64.encode_url '{"alg":"ES256","typ":"JWT"}' .. "." .. gate.base64.encode_url(gate.json.encode {
    sub = "alice", iss = "https://id.example.com", aud = "bench", exp = math.floor(gate.time()) + 3600,
    iat = math.floor(gate.time()), jti = "0123456789abcdef", scope = "read write",
  })
  return parts .. "." .. gate.base64.encode_url(assert(key:sign("ES256", parts)))
end

local function signature(req)
  local input = ('("@method" "@authority" "@path" "@query");created=%d;keyid="bench"'):format(gate.time())
  local base = ('"@method": GET\n"@authority": %s\n"@path": /auth.signature\n"@query": ?\n"@signature-params": %s')
    :format(req.headers.host, input)
  return ("Signature-Input: sig=%s\r\nSignature: sig=:%s:"):format(input,
    gate.base64.encode(gate.crypto.hmac("sha256", secret, base)))
end

gate.route { "/fields", handler = function(req)
  local bearer = "Authorization: Bearer " .. token()
  local session = { claims = { sub = "alice", name = "Alice", email = "alice@example.com" }, id_token = token(),
    token = token(), ends = gate.time() + 3600 }
  return 200, {
    ["auth.key"] = "X-Api-Key: 3b9f0c1d2e", ["auth.basic"] = "Authorization: Basic YWxpY2U6c2VjcmV0",
    ["auth.jwt"] = bearer, ["auth.jwt + limit.rate"] = bearer, ["auth.introspection"] = bearer,
    ["auth.signature"] = signature(req),
    ["auth.oidc"] = "Cookie: " .. cookies:write(req, session, 3600)[1]:match "^[^;]+",
  }
end }
gate.route { "/*", upstream = origin }

-- auth.introspection - ask the issuer of a bearer token whether it is good (OAuth 2.0 Token Introspection, RFC 7662).
--
--   local introspection = require "auth.introspection" {
--     url = "https://id.example.com/introspect", client_id = "gateway", client_secret = os.getenv "SECRET",
--   }
--   gate.route { "api.example.com/*", policies = { introspection }, upstream = api }
--
-- url             where it is asked
-- client_id       who asks, and client_secret: sent by the Basic scheme; by = "post": in the body. Or token: a bearer
--                 token
-- audience        for whom (one, or a list), if the answer must say so; issuer: of whom
-- remember        seconds that a worker takes a token for good without asking again, 30 if not given, and never longer
--                 than it is; a token that was revoked passes for so long
-- remember_bad    the same for those that are not, 5 if not given
-- cache           tokens that a worker remembers, 1000; max_size: of a token, "8K"
-- timeout         seconds, 2 if not given; tls: options for https, as in gate.fetch
-- fields, scope, check, cookie, optional, realm: as token.bearer
--
-- Requests with one token that come together ask once. If the issuer can't be asked, what is not remembered gets 503.

local gate = require "moongate"
local bearer = require "token.bearer"
local jwt = require "token.jwt"
local lru = require "store.lru"

local DRY = 0.25        -- seconds that a token is not asked about again when nobody could tell

---@return table policy
return function(given)
  local options = gate.options("auth.introspection", given, bearer.shape {
    url = { "string", needed = true },
    client_id = { "string" },
    client_secret = { "string" },
    token = { "string" },
    by = { { "basic", "post" }, default = "basic" },
    audience = { "strings" },
    issuer = { "strings" },
    remember = { "seconds", default = 30 },
    remember_bad = { "seconds", default = 5 },
    cache = { "count", min = 1, default = 1000 },
    max_size = { "size", min = 16, max = 2 ^ 20, default = 8192 },
    timeout = { "seconds", above = 0, default = 2 },
    tls = { "table" },
  })
  if (options.client_id == nil) ~= (options.client_secret == nil) then
    error("auth.introspection: client_id and client_secret belong together", 2)
  end
  if (options.client_id == nil) == (options.token == nil) then
    error("auth.introspection: who asks? Give client_id and client_secret, or token", 2)
  end
  local known = lru(options.cache)

  local function question(token)
    local headers = { ["content-type"] = "application/x-www-form-urlencoded", accept = "application/json" }
    local body = "token_type_hint=access_token&token=" .. gate.escape(token)
    if options.token then
      headers.authorization = "Bearer " .. options.token
    elseif options.by == "post" then
      body = ("%s&client_id=%s&client_secret=%s"):format(body, gate.escape(options.client_id),
        gate.escape(options.client_secret))
    else        -- RFC 6749 section 2.3.1: encoded twice
      headers.authorization = "Basic " .. gate.base64.encode(
        gate.escape(options.client_id) .. ":" .. gate.escape(options.client_secret))
    end
    return { method = "POST", headers = headers, body = body, timeout = options.timeout, tls = options.tls,
      max_size = "256K" }
  end

  -- What is said of a token; nil if nothing could be learnt.
  local function ask(token)
    local answer, problem = gate.fetch(options.url, question(token))
    if not problem and answer.status ~= 200 then problem = "it answers with " .. answer.status end
    local said
    if not problem then said, problem = answer:json() end
    if not problem and (type(said) ~= "table" or type(said.active) ~= "boolean") then
      problem = "its answer does not say whether the token is active"
    end
    if not problem then return said end
    gate.log.warn(("auth.introspection: %s can't tell: %s"):format(options.url, problem))
  end

  -- { entry =, reason = } or, with neither, nobody can tell; and how long that holds.
  local function judge(token)
    local said = ask(token)
    if not said then return {}, DRY end
    local named = type(said.aud) == "table" and said.aud or { said.aud }      -- without an option, the issuer decides
    local reason = not said.active and "it is not active" or jwt.check(said, {
      issuer = options.issuer, audience = options.audience or said.aud and named,
    })
    local entry
    if not reason then entry, reason = bearer.entry(said, options) end
    if reason then return { reason = reason }, options.remember_bad end
    return { entry = entry }, math.min(options.remember, said.exp and said.exp - gate.time() or math.huge)
  end

  local learn = gate.coalesce(function(digest, token)
    local verdict, holds = judge(token)
    if holds > 0 then known:set(digest, verdict, gate.time() + holds) end
    return verdict
  end)

  local function find(token)
    if #token > options.max_size then return nil, "it is too long" end
    local digest = gate.crypto.sha256(token)
    local verdict = known:get(digest) or learn(digest, token)
    return verdict.entry, verdict.reason
  end

  return { name = "auth.introspection", access = bearer.access(options, find) }
end

-- auth.jwt - let a request pass if it brings a JSON Web Token that is good (RFC 7519, RFC 6750).
--
--   local jwt = require "auth.jwt" {
--     jwks = "https://id.example.com/jwks.json", issuer = "https://id.example.com",
--     audience = "https://api.example.com",
--   }
--   gate.route { "api.example.com/*", policies = { jwt }, upstream = api }
--
-- jwks         where the issuer's keys are fetched; they are kept and fetched anew as token.jwks says
-- keys         or the keys themselves, a list: PEM text, a path of a PEM file, a JWK as a table, { secret = "..." }
-- issuer       of whom (one, or a list); needed with jwks
-- audience     for whom (one, or a list). Without it, a token that names an audience is refused
-- algorithms   by which, as in { "ES256", "RS256" }; if not given, whatever goes with the key. Never "none"
-- required     claims that must be there: { "exp" } if not given
-- types        of the header's typ, as in { "at+jwt" }; any if not given
-- leeway       seconds that clocks may differ by, 30 if not given
-- cache        tokens that a worker remembers, 1000; max_size: of a token, "8K"
-- refresh, pause, timeout, tls: as token.jwks; fields, scope, check, cookie, optional, realm: as token.bearer
--
-- A token is verified once in a worker and then known by its digest until it expires, or the issuer's keys change. Its
-- claims are in req.ctx.claims.

local gate = require "moongate"
local bearer = require "token.bearer"
local jwks = require "token.jwks"
local lru = require "store.lru"
local tokens = require "token.jwt"

local function read_algorithms(list)
  if type(list) == "string" then list = { list } end
  if type(list) ~= "table" or #list == 0 then return nil end
  local set = {}
  for _, name in ipairs(list) do
    if not tokens.algorithms[name] then return nil, nil, (": there is no %s"):format(tostring(name)) end
    set[name] = true
  end
  return set
end

local function read_keys(list)
  if type(list) ~= "table" or #list == 0 then return nil end
  local keys, reason = jwks { keys = list }
  if not keys then return nil, nil, ": " .. reason end
  return keys
end

---@return table policy
return function(given)
  local options = gate.options("auth.jwt", given, bearer.shape {
    jwks = { "string" },
    keys = { "any", expect = "a list of keys: PEM, JWKs, or { secret = ... }", read = read_keys },
    issuer = { "strings" },
    audience = { "strings" },
    algorithms = { "any", expect = 'a list like { "ES256", "RS256" }', read = read_algorithms },
    required = { "strings", default = { "exp" } },
    types = { "strings" },
    leeway = { "seconds", default = 30 },
    cache = { "count", min = 1, default = 1000 },
    max_size = { "size", min = 256, max = 2 ^ 20, default = 8192 },
    refresh = { "seconds", above = 0, default = 600 },
    pause = { "seconds", above = 0, default = 10 },
    timeout = { "seconds", above = 0, default = 2 },
    tls = { "table" },
  })
  if (options.jwks == nil) == (options.keys == nil) then error("auth.jwt: it takes either jwks or keys", 2) end
  if options.jwks and not options.issuer then error("auth.jwt: jwks needs issuer: whose tokens are they?", 2) end
  local keys = options.keys or jwks { url = options.jwks, refresh = options.refresh, pause = options.pause,
    timeout = options.timeout, tls = options.tls }
  local known, version = lru(options.cache), keys.version

  local function verify(token)
    local claims, reason = tokens.verify(token, keys, options)
    if not claims then return nil, reason end
    local entry, problem = bearer.entry(claims, options)
    if not entry then return nil, problem end
    return entry, claims.exp and claims.exp + options.leeway
  end

  local function find(token)
    keys:look()
    if keys.version ~= version then
      known:clear()
      version = keys.version
    end
    local digest = gate.crypto.sha256(token)
    local entry = known:get(digest)
    if entry then return entry end
    local made, more = verify(token)
    if made then known:set(digest, made, more) end
    return made, more
  end

  return { name = "auth.jwt", access = bearer.access(options, find) }
end

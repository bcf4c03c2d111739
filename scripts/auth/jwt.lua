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
-- scope        words that the scope claim must have, or the answer is 403
-- fields       request fields from claims, { ["x-user"] = "sub" } if not given; a client's own are dropped
-- check        a function(claims, req): false refuses with 403; may wait
-- cookie       the name of a cookie that has the token, if no Authorization field does
-- optional     true: without a token a request passes too, as nobody's; with a bad one it does not
-- realm        "api" if not given; cache: tokens that a worker remembers, 1000; max_size: of a token, "8K"
-- refresh, pause, timeout, tls: as token.jwks
--
-- A token is verified once in a worker and then known by its digest until it expires, or the issuer's keys change. Its
-- claims are in req.ctx.claims.

local gate = require "moongate"
local jwks = require "token.jwks"
local lru = require "store.lru"
local token_jwt = require "token.jwt"

local function read_algorithms(list)
  if type(list) == "string" then list = { list } end
  if type(list) ~= "table" or #list == 0 then return nil end
  local set = {}
  for _, name in ipairs(list) do
    if not token_jwt.algorithms[name] then return nil, nil, (": there is no %s"):format(tostring(name)) end
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

-- A claim as a field says it: text, a list of words with commas, or JSON; false if there is none. nil and a reason if
-- it can't stand in one.
local function field_of(value)
  if value == nil or value == gate.json.null then return false end
  if type(value) == "table" then
    local ok, words = pcall(table.concat, value, ",")
    value = ok and words ~= "" and words or gate.json.encode(value)
  end
  local text = tostring(value)
  if text:find "[%z\1-\31\127]" then return nil, "a claim has bytes that can't stand in a field" end
  return text
end

-- "openid profile", or the list that some issuers make of it, as a set.
local function words_of(scope)
  local set = {}
  if type(scope) == "table" then scope = table.concat(scope, " ") end
  for word in tostring(scope or ""):gmatch "%S+" do set[word] = true end
  return set
end

---@return table policy
return function(given)
  local options = gate.options("auth.jwt", given, {
    jwks = { "string" },
    keys = { "any", expect = "a list of keys: PEM, JWKs, or { secret = ... }", read = read_keys },
    issuer = { "strings" },
    audience = { "strings" },
    algorithms = { "any", expect = 'a list like { "ES256", "RS256" }', read = read_algorithms },
    required = { "strings", default = { "exp" } },
    types = { "strings" },
    leeway = { "seconds", default = 30 },
    scope = { "strings", default = {} },
    fields = { "table", default = { ["x-user"] = "sub" } },
    check = { "function" },
    cookie = { "string" },
    optional = { "boolean", default = false },
    realm = { "string", default = "api" },
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
  local sha256 = gate.crypto.sha256
  local fields = {}
  for field in pairs(options.fields) do fields[#fields + 1] = field end

  local function challenge(code, reason)
    local text = ('Bearer realm="%s"'):format(options.realm)
    if code then text = ('%s, error="%s", error_description="%s"'):format(text, code, reason) end
    return { ["www-authenticate"] = text }
  end
  local asked = challenge()
  local too_narrow = challenge("insufficient_scope", "the token's scope does not reach")
  too_narrow["www-authenticate"] = ('%s, scope="%s"'):format(too_narrow["www-authenticate"],
    table.concat(options.scope, " "))

  local function token_of(req)
    local token = req:bearer()
    if not token and options.cookie then token = req.cookies[options.cookie] end
    return token
  end

  local function has_scope(claims)
    local words = words_of(claims.scope or claims.scp)
    for _, word in ipairs(options.scope) do
      if not words[word] then return false end
    end
    return true
  end

  -- What is to be known of a token from now on.
  local function verify(token)
    local claims, reason = token_jwt.verify(token, keys, options)
    if not claims then return nil, reason end
    local entry = { claims = claims, values = {}, in_scope = has_scope(claims) }
    for i, field in ipairs(fields) do
      local value, problem = field_of(claims[options.fields[field]])
      if value == nil then return nil, problem end
      entry.values[i] = value
    end
    return entry, claims.exp and claims.exp + options.leeway
  end

  local function find(token)
    keys:look()
    if keys.version ~= version then
      known:clear()
      version = keys.version
    end
    local digest = sha256(token)
    local entry = known:get(digest)
    if entry then return entry end
    local made, more = verify(token)
    if not made then return nil, more end
    known:set(digest, made, more)
    return made
  end

  local function access(req)
    local headers, token = req.headers, token_of(req)
    if not token then
      if not options.optional then return 401, "a token is needed\n", asked end
      for i = 1, #fields do headers[fields[i]] = nil end
      return
    end
    local entry, reason = find(token)
    if not entry then
      if not reason then return 503, "tokens can't be checked now\n" end
      return 401, "the token is refused: " .. reason .. "\n", challenge("invalid_token", reason)
    end
    if not entry.in_scope then return 403, "the token's scope does not reach\n", too_narrow end
    if options.check and options.check(entry.claims, req) == false then return 403 end
    local values = entry.values
    for i = 1, #fields do headers[fields[i]] = values[i] or nil end
    req.ctx.claims = entry.claims
  end

  return { name = "auth.jwt", access = access }
end

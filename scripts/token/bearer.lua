-- token.bearer - what policies for bearer tokens (RFC 6750) have in common: where the token stands, scopes, what the
-- origin is told of its claims, and how a client hears what is wrong.
--
--   local bearer = require "token.bearer"
--   local options = gate.options("auth.mine", given, bearer.shape { url = { "string", needed = true } })
--   return { name = "auth.mine", access = bearer.access(options, find) }
--
-- find(token) gives what bearer.entry has made of the token's claims; or nil and the reason; or nil, nil if nobody can
-- tell for now. These options go with it:
--
-- fields     request fields from claims, { ["x-user"] = "sub" } if not given; a client's own are dropped
-- scope      words that the scope claim must have, or the answer is 403
-- check      a function(claims, req): false refuses with 403; may wait
-- cookie     the name of a cookie that has the token, if no Authorization field does
-- optional   true: without a token a request passes too, as nobody's; with a bad one it does not
-- realm      "api" if not given
--
-- The claims are in req.ctx.claims for hooks behind it: one table for all requests with that token, not to be changed.

local gate = require "moongate"

local bearer = {}

--- The options above, and a policy's own.
function bearer.shape(own)
  local shape = {
    fields = { "table", default = { ["x-user"] = "sub" } },
    scope = { "strings", default = {} },
    check = { "function" },
    cookie = { "string" },
    optional = { "boolean", default = false },
    realm = { "string", default = "api" },
  }
  for key, kind in pairs(own) do shape[key] = kind end
  return shape
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

--- What is to be known of a good token: its claims, its scope, and the values of the fields.
---@return table? entry, string? reason
function bearer.entry(claims, options)
  local entry, words = { claims = claims, fields = {}, in_scope = true }, words_of(claims.scope or claims.scp)
  for _, word in ipairs(options.scope) do entry.in_scope = entry.in_scope and words[word] or false end
  for field, name in pairs(options.fields) do
    local value, problem = field_of(claims[name])
    if value == nil then return nil, problem end
    table.insert(entry.fields, field)
    table.insert(entry.fields, value)
  end
  return entry
end

local function challenge(realm, code, reason)
  local text = ('Bearer realm="%s"'):format(realm)
  if code then text = ('%s, error="%s", error_description="%s"'):format(text, code, reason) end
  return { ["www-authenticate"] = text }
end

--- The access hook of a policy.
---@param find fun(token: string): table?, string?
---@return fun(req): ...
function bearer.access(options, find)
  local asked = challenge(options.realm)
  local narrow = challenge(options.realm, "insufficient_scope", "the token's scope does not reach")
  narrow["www-authenticate"] = ('%s, scope="%s"'):format(narrow["www-authenticate"], table.concat(options.scope, " "))

  local function without(req)
    local tried = (req.headers.authorization or ""):lower():find "^bearer"      -- but it is no token
    if tried or not options.optional then return 401, "a token is needed\n", asked end
    for field in pairs(options.fields) do req.headers[field] = nil end
  end

  return function(req)
    local token = req:bearer() or options.cookie and req.cookies[options.cookie]
    if not token then return without(req) end
    local entry, reason = find(token)
    if not entry then
      if not reason then return 503, "tokens can't be checked now\n" end
      return 401, "the token is refused: " .. reason .. "\n", challenge(options.realm, "invalid_token", reason)
    end
    if not entry.in_scope then return 403, "the token's scope does not reach\n", narrow end
    if options.check and options.check(entry.claims, req) == false then return 403 end

    local headers, fields = req.headers, entry.fields
    for i = 1, #fields, 2 do headers[fields[i]] = fields[i + 1] or nil end
    req.ctx.claims = entry.claims
  end
end

return bearer

-- body.compress - compress responses for clients that take it: zstd, br, gzip.
--
--   local compress = require "body.compress" { level = { gzip = 4 } }
--   gate.route { "/*", policies = { compress }, upstream = app }
--
-- Put it first in the list: response hooks run in reverse, so it sees what the others have made of the response. The
-- client's q-values decide, and among its equals the order of `codings`. Pieces go out as they arrive. What is coded
-- already, a part (206), or marked no-transform passes as it is. A response that might be coded gets Vary, one
-- that is loses Content-Length and Accept-Ranges, and its ETag becomes a weak one: `If-None-Match` goes on working,
-- `If-Match` and `If-Range`, which want strong ones, do not.
--
-- A page that repeats what a request said beside a secret (a token against CSRF, say) tells that secret by its
-- compressed length to who can make many requests and watch (the BREACH attack). Give such routes no compression, or
-- change the secret's bytes with each response.

local gate = require "moongate"

local usual_types = {
  "text/html", "text/plain", "text/css", "text/csv", "text/xml", "text/javascript", "text/markdown",
  "application/javascript", "application/json", "application/ld+json", "application/manifest+json",
  "application/problem+json", "application/rss+xml", "application/atom+xml", "application/xhtml+xml",
  "application/xml", "application/wasm", "image/svg+xml", "font/ttf", "font/otf",
}

-- The q-values of an Accept-Encoding, by coding (RFC 9110 12.5.3).
local function read_accept(value)
  local accepted = {}
  for item in (value or ""):lower():gmatch "[^,]+" do
    local name, parameters = item:match "^%s*([^%s;]+)%s*(.-)%s*$"
    if name then
      local q = tonumber(parameters:match ";%s*q=([^;%s]*)" or 1) or 0
      accepted[name == "x-gzip" and "gzip" or name] = q
    end
  end
  return accepted
end

-- The coding to use, if any; and whether the client refuses an uncoded body.
local function negotiate(value, codings)
  local accepted = read_accept(value)
  local best, best_q = nil, 0
  for _, name in ipairs(codings) do
    local q = accepted[name] or accepted["*"] or 0
    if q > best_q then best, best_q = name, q end
  end
  local identity = accepted.identity
  if best and identity and identity > best_q then best = nil end
  return best, (identity or accepted["*"]) == 0
end

local function has_directive(value, wanted)
  for directive in (value or ""):lower():gmatch "[^,]+" do
    if directive:match "^%s*(.-)%s*$" == wanted then return true end
  end
  return false
end

local function is_coded(coding)
  return coding and coding:lower() ~= "identity"
end

local function read_types(list)
  local types = {}
  for _, name in ipairs(list) do types[name:lower()] = true end
  return function(content_type)
    local name = (content_type or ""):lower():match "^%s*([^;%s]+)"
    if not name then return false end
    -- A stream of events is asked for by its own name: most servers flush it line by line, which compresses badly.
    return types[name] or name ~= "text/event-stream" and types[name:match "^[^/]+" .. "/*"] or false
  end
end

local function add_vary(headers)
  local vary = headers.vary
  if has_directive(vary, "*") or has_directive(vary, "accept-encoding") then return end
  headers.vary = vary and vary .. ", Accept-Encoding" or "Accept-Encoding"
end

-- A client that was given the weak form of this tag is asked by it again: its copy is still the one (RFC 9110 8.8.1).
local function weaken_confirmed(req, res)
  local etag = res.headers.etag
  if etag and etag:sub(1, 1) == '"' and (req.headers["if-none-match"] or ""):find("W/" .. etag, 1, true) then
    res.headers.etag = "W/" .. etag
  end
end

local shape = {
  codings = { "strings", default = { "zstd", "br", "gzip" } },
  types = { "strings", default = usual_types },
  min_size = { "size", default = 1024 },
  level = { "any", default = {}, expect = 'a table like { gzip = 6, br = 5, zstd = 3 }, or a number for all' },
}

local bounds = { gzip = { 1, 9 }, br = { 0, 9 }, zstd = { 1, 19 } }

local function read_levels(level, codings)
  local levels = {}
  local function fail(text) error("body.compress: " .. text, 4) end
  for _, name in ipairs(codings) do
    local b = bounds[name]
    if not b then fail(('codings are "zstd", "br" and "gzip", got "%s"'):format(name)) end
    local n = type(level) == "table" and level[name] or type(level) ~= "table" and level or nil
    if n ~= nil and (type(n) ~= "number" or n % 1 ~= 0 or n < b[1] or n > b[2]) then
      fail(("the level of %s must be a whole number from %d to %d, got %s"):format(name, b[1], b[2], tostring(n)))
    end
    levels[name] = n
  end
  for name in pairs(type(level) == "table" and level or {}) do
    if not bounds[name] then fail(('level has an unknown coding "%s"'):format(tostring(name))) end
  end
  return levels
end

---@class body.compress.Options
---@field codings? string[] in the order of preference: zstd, br, gzip if absent
---@field level? integer|table<string, integer> the libraries' own: gzip 6, br 5, zstd 3
---@field types? string[] media types, exact or like "text/*"
---@field min_size? integer|string a body that is known to be shorter passes as it is; 1024 if absent

---@param given body.compress.Options?
---@return table policy
return function(given)
  local options = gate.options("body.compress", given or {}, shape)
  local codings, wants_type = options.codings, read_types(options.types)
  local levels = read_levels(options.level, codings)

  local function may_be_coded(res)
    local h = res.headers
    if res.status == 206 or res.status == 204 or is_coded(h["content-encoding"]) then return false end
    return not has_directive(h["cache-control"], "no-transform")
  end

  local function is_worth_it(res)
    local length = tonumber(res.headers["content-length"])
    return wants_type(res.headers["content-type"]) and (not length or length >= options.min_size)
  end

  local function response(req, res)
    if res.status == 304 then
      add_vary(res.headers)
      return weaken_confirmed(req, res)
    end
    if not may_be_coded(res) then return end

    local coding, must = negotiate(req.headers["accept-encoding"], codings)
    if is_worth_it(res) then add_vary(res.headers) elseif not (must and coding) then return end
    if coding and not has_directive(req.headers["cache-control"], "no-transform") then
      res:encode(coding, levels[coding])
    end
  end

  return { name = "body.compress", response = response }
end

-- auth.csrf - no page of another site may make a browser change something here.
--
--   gate.use(require "auth.csrf" {})
--   gate.use(require "auth.csrf" { trusted = { "https://admin.example.com" }, token = { secret = os.getenv "CSRF" } })
--
-- Browsers say themselves where a request comes from: Sec-Fetch-Site, and in older ones Origin. A request that may
-- change something (not GET, HEAD or OPTIONS) passes if it comes from this very site, or straight from its user; if its
-- Origin is one of `trusted`; or if it says neither, as none but a browser has cookies that a page could use.
--
-- trusted   origins whose pages may
-- except    paths that everybody may ask, from their beginning: { "/hooks/" }
-- token     for browsers from before 2020 too: { secret = 32 bytes or more, cookie = "csrf", header = "x-csrf-token",
--           session = function(req) return req.cookies.session end }. A page reads the cookie and sends it back in the
--           field; it holds a random part and a signature over it and the session, so that nobody can bring one of his
--           own. Safe requests without the cookie get one.
--
-- Refused ones get 403. It is a hook of `access`, so it runs before a session is looked at.

local gate = require "moongate"

local SAFE = { GET = true, HEAD = true, OPTIONS = true }

local function read_token(value)
  if type(value) ~= "table" or type(value.secret) ~= "string" then return nil end
  if #value.secret < 32 then return nil, nil, ": the secret needs 32 bytes or more" end
  return value
end

local function origin_of(req)
  local host = req.headers.host or req.host
  return req.scheme .. "://" .. host:lower()
end

-- Where the page stood, as far as the browser tells: true: it may; false: it may not; nil: it is not said.
local function verdict(req, trusted)
  local site, origin = req.headers["sec-fetch-site"], req.headers.origin
  if site == "same-origin" or site == "none" then return true end
  if origin and trusted[origin:lower()] then return true end
  if site then return false end
  if origin then return origin:lower() == origin_of(req) end
  return nil
end

-- ---- Tokens. ----

local function sign(token, req, random)
  local session = token.session and token.session(req) or ""
  return gate.base64.encode_url(gate.crypto.hmac("sha256", token.secret, random .. "." .. session))
end

local function new_token(token, req)
  local random = gate.base64.encode_url(gate.crypto.random(18))
  return random .. "." .. sign(token, req, random)
end

local function is_own(token, req, text)
  local random, signature = (text or ""):match "^([%w_-]+)%.([%w_-]+)$"
  return random and gate.crypto.equal(signature, sign(token, req, random))
end

local function is_sent_back(token, req)
  local cookie, sent = req.cookies[token.cookie], req.headers[token.header]
  return cookie and sent and gate.crypto.equal(cookie, sent) and is_own(token, req, sent)
end

---@param given { trusted: string[]?, except: string[]?, token: table? }?
---@return table policy
return function(given)
  local options = gate.options("auth.csrf", given, {
    trusted = { "strings", default = {} },
    except = { "strings", default = {} },
    token = { "any", expect = "a table like { secret = 32 bytes or more }", read = read_token },
  })
  local trusted = {}
  for _, origin in ipairs(options.trusted) do
    if not origin:find "^%a[%w+.-]*://[^/]+$" then
      error(('auth.csrf: trusted: "%s" is no origin; write one like "https://app.example.com"'):format(origin), 2)
    end
    trusted[origin:lower()] = true
  end
  local token = options.token and {
    secret = options.token.secret, session = options.token.session, cookie = options.token.cookie or "csrf",
    header = options.token.header or "x-csrf-token",
  }

  local function is_excepted(path)
    for _, beginning in ipairs(options.except) do
      if path:sub(1, #beginning) == beginning then return true end
    end
    return false
  end

  local function access(req)
    if SAFE[req.method] or is_excepted(req.path) then return end
    local passes = verdict(req, trusted)
    local needs_token = token and not trusted[(req.headers.origin or ""):lower()]
    if passes == false or needs_token and not is_sent_back(token, req) then
      return 403, "this came from a page of another site\n"
    end
  end

  local function response(req, res)
    if not SAFE[req.method] or is_own(token, req, req.cookies[token.cookie]) then return end
    res.headers:add("set-cookie", ("%s=%s; Path=/; SameSite=Lax%s"):format(token.cookie, new_token(token, req),
      req.scheme == "https" and "; Secure" or ""))
  end

  return { name = "auth.csrf", access = access, response = token and response or nil }
end

-- headers.security - the response fields that tell browsers to be careful.
--
--   gate.use(require "headers.security" { frame = "DENY", policy = "default-src 'self'", hsts = 31536000 })
--
-- frame        X-Frame-Options: "SAMEORIGIN" if not given, "DENY", or false
-- referrer     Referrer-Policy: "strict-origin-when-cross-origin" if not given, or false
-- policy       Content-Security-Policy: a text, or a function(req, res) that gives one. "$nonce" in a text becomes a
--              new random word each time, which the origin gets in the field x-csp-nonce, to put into its page
-- report_only  true: the policy is only reported, not enforced
-- permissions  Permissions-Policy: "camera=(), microphone=()"
-- opener, resource, embedder   Cross-Origin-Opener-Policy ("same-origin"), Cross-Origin-Resource-Policy,
--              Cross-Origin-Embedder-Policy ("require-corp")
-- hsts         Strict-Transport-Security: seconds, told only to clients that came by https; with hsts_subdomains and
--              hsts_preload as true it counts for them too
-- overrule     true: an origin's own fields are replaced; else they stand
--
-- X-Content-Type-Options: nosniff always; `server` and `x-powered-by` go.

local gate = require "moongate"

local function hsts_of(options)
  if not options.hsts then return nil end
  return ("max-age=%d%s%s"):format(options.hsts, options.hsts_subdomains and "; includeSubDomains" or "",
    options.hsts_preload and "; preload" or "")
end

local function text_or_off(default)
  return { "any", default = default, expect = "a text or false", read = function(value)
    if value == false or type(value) == "string" then return value end
  end }
end

---@param given { frame: string|false?, referrer: string|false?, policy: (string|fun(req, res): string?)?,
---  report_only: boolean?, permissions: string?, opener: string?, resource: string?, embedder: string?, hsts: number?,
---  hsts_subdomains: boolean?, hsts_preload: boolean?, overrule: boolean? }?
---@return table policy
return function(given)
  local options = gate.options("headers.security", given, {
    frame = { { "DENY", "SAMEORIGIN", false }, default = "SAMEORIGIN" },
    referrer = text_or_off "strict-origin-when-cross-origin",
    policy = { "any", expect = "a text or a function", read = function(value)
      if type(value) == "string" or type(value) == "function" then return value end
    end },
    report_only = { "boolean", default = false },
    permissions = { "string" }, opener = { "string" }, resource = { "string" }, embedder = { "string" },
    hsts = { "seconds" },
    hsts_subdomains = { "boolean", default = false }, hsts_preload = { "boolean", default = false },
    overrule = { "boolean", default = false },
  })
  local fields = {
    ["x-content-type-options"] = "nosniff",
    ["x-frame-options"] = options.frame or nil,
    ["referrer-policy"] = options.referrer or nil,
    ["permissions-policy"] = options.permissions,
    ["cross-origin-opener-policy"] = options.opener,
    ["cross-origin-resource-policy"] = options.resource,
    ["cross-origin-embedder-policy"] = options.embedder,
  }
  local hsts, policy, overrule = hsts_of(options), options.policy, options.overrule
  local policy_name = "content-security-policy" .. (options.report_only and "-report-only" or "")
  local has_nonce = type(policy) == "string" and policy:find("$nonce", 1, true)

  local function request(req)
    local nonce = gate.base64.encode_url(gate.crypto.random(16))
    req.ctx["headers.security"] = nonce
    req.headers["x-csp-nonce"] = nonce
  end

  local function policy_text(req, res)
    if type(policy) == "function" then return policy(req, res) end
    local nonce = has_nonce and req.ctx["headers.security"]
    return nonce and policy:gsub("%$nonce", "'nonce-" .. nonce .. "'") or policy
  end

  local function response(req, res)
    local headers = res.headers
    for name, value in pairs(fields) do
      if overrule or not headers[name] then headers[name] = value end
    end
    if policy and (overrule or not headers[policy_name]) then headers[policy_name] = policy_text(req, res) end
    if hsts and req.scheme == "https" then headers["strict-transport-security"] = hsts end
    headers.server = nil
    headers["x-powered-by"] = nil
  end

  return { name = "headers.security", access = has_nonce and request or nil, response = response }
end

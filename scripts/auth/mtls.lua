-- auth.mtls - let clients pass by the certificate that they have shown.
--
--   gate.listen { ":443", tls = { cert = "site.pem", client_cert = "request", client_ca = "clients.pem" } }
--   local mtls = require "auth.mtls" { names = { "DNS:*.jobs.internal", "URI:spiffe://prod/*" } }
--   gate.route { "/internal/*", policies = { mtls }, upstream = internal }
--
-- names          alternative names that may pass, as "DNS:...", "email:...", "URI:...", "IP:..."; * stands for any text
-- subjects       or subjects like "CN=Ada,O=Engines"; * stands for any text
-- fingerprints   or SHA-256 fingerprints, in hexadecimal digits with or without colons
-- issuers        whose certificates count, subjects of authorities; any of client_ca if not given
-- fields         request fields from the certificate, { ["x-user"] = "subject" } if not given. There are subject,
--                issuer, serial, fingerprint, and name: the alternative name that let it pass. A client's own
--                are dropped
--
-- The certificate must be good by the listener's client_ca, and not have expired since the connection began. With none
-- of names, subjects and fingerprints every good one passes. Who may not gets 403. What is found out of a certificate
-- is remembered by its fingerprint. It is in req.ctx.client_cert.

local gate = require "moongate"
local lru = require "store.lru"

-- A pattern of Lua's that stands for one with *.
local function pattern_of(text)
  return "^" .. text:gsub("[^%w*]", "%%%0"):gsub("%*", ".*") .. "$"
end

local function read_patterns(list)
  if type(list) == "string" then list = { list } end
  if type(list) ~= "table" or #list == 0 then return nil end
  local patterns = {}
  for i, text in ipairs(list) do
    if type(text) ~= "string" or text == "" then return nil end
    patterns[i] = pattern_of(text)
  end
  return patterns
end

local kinds = { DNS = true, email = true, URI = true, IP = true }

local function read_names(list)
  for _, name in ipairs(type(list) == "table" and list or { list }) do
    if not kinds[tostring(name):match "^(%a+):." or ""] then
      return nil, nil, (": %s does not begin with DNS:, email:, URI: or IP:"):format(tostring(name))
    end
  end
  return read_patterns(list)
end

local function read_fingerprints(list)
  if type(list) == "string" then list = { list } end
  if type(list) ~= "table" or #list == 0 then return nil end
  local set = {}
  for _, text in ipairs(list) do
    local digits = tostring(text):gsub(":", ""):lower()
    if not digits:find("^" .. ("%x"):rep(64) .. "$") then return nil end
    set[digits] = true
  end
  return set
end

local function first_match(texts, patterns)
  for _, text in ipairs(texts) do
    for _, pattern in ipairs(patterns or {}) do
      if text:find(pattern) then return text end
    end
  end
end

local parts = { subject = true, issuer = true, serial = true, fingerprint = true, name = true }

local function read_fields(fields)
  if type(fields) ~= "table" then return nil end
  for _, part in pairs(fields) do
    if not parts[part] then return nil end
  end
  return fields
end

---@return table policy
return function(given)
  local patterns = 'a list with names like "DNS:*.jobs.internal"'
  local options = gate.options("auth.mtls", given, {
    names = { "any", expect = patterns, read = read_names },
    subjects = { "any", expect = 'a list of subjects like "CN=Ada,O=*"', read = read_patterns },
    issuers = { "any", expect = 'a list of subjects like "CN=Our Authority"', read = read_patterns },
    fingerprints = { "any", expect = "a list of fingerprints of 64 hexadecimal digits", read = read_fingerprints },
    fields = { "any", expect = "a table from fields to subject, issuer, serial, fingerprint or name",
      read = read_fields, default = { ["x-user"] = "subject" } },
  })
  local everybody = not (options.names or options.subjects or options.fingerprints)
  local verdicts = lru(1000)

  local function judge(cert)
    if options.issuers and not first_match({ cert.issuer }, options.issuers) then
      return { reason = "of another authority" }
    end
    local name = first_match(cert.names, options.names)
    local passes = everybody or name or first_match({ cert.subject }, options.subjects)
      or (options.fingerprints or {})[cert.fingerprint]
    if not passes then return { reason = "not among those that may pass" } end
    local values = { subject = cert.subject, issuer = cert.issuer, serial = cert.serial, fingerprint = cert.fingerprint,
      name = name or cert.names[1] }
    for part, value in pairs(values) do
      if value:find "[%z\1-\31\127]" then return { reason = "unfit: its " .. part .. " has control characters" } end
    end
    return { values = values }
  end

  local function access(req)
    local cert = req.tls and req.tls.client_cert
    if not cert then return 403, "a client certificate is needed\n" end
    if not cert.verified then return 403, "the client certificate is refused: " .. (cert.problem or "?") .. "\n" end
    if cert.not_after <= gate.time() then return 403, "the client certificate has expired\n" end
    local verdict = verdicts:get(cert.fingerprint)
    if not verdict then
      verdict = judge(cert)
      verdicts:set(cert.fingerprint, verdict)
    end
    if verdict.reason then return 403, "the client certificate is " .. verdict.reason .. "\n" end
    for field, part in pairs(options.fields) do req.headers[field] = verdict.values[part] end
    req.ctx.client_cert = cert
  end

  return { name = "auth.mtls", access = access }
end

-- moongate.tls - what a table called tls may say, and the core's settings made of it.
--
-- Files are named by their path, or given as PEM text.
local ffi = require "ffi"
local C = require "moongate.seam"
local core = require "moongate.core"
local problem = require "moongate.problem"
local schema = require "moongate.schema"
local state = require "moongate.state"
local text = ffi.string

local tls = {}

local pem = schema.text { expect = "a path of a PEM file, or PEM text" }
local version = schema.choice { "1.2", "1.3" }
local numbers = { ["1.2"] = 12, ["1.3"] = 13 }

-- What an upstream's protocol stands for.
tls.protocols = {
  ["http/1.1"] = C.MG_TLS_HTTP1, h2 = C.MG_TLS_HTTP2, alpn = C.MG_TLS_HTTP1 + C.MG_TLS_HTTP2,
}

local common = {
  min_version = version,
  max_version = version,
  ciphers = schema.words { expect = 'a list of names like { "ECDHE-ECDSA-AES128-GCM-SHA256" }' },
  groups = schema.words { expect = 'a list of names like { "X25519", "P-256" }' },
}

local certificate_keys = {
  cert = pem, key = pem,
  ocsp = schema.text { expect = "a path of an OCSP response" },
  names = schema.words { expect = 'a list of host names like { "example.com", "*.example.com" }' },
}

local client_keys = {
  certificates = schema.table { expect = "a list of tables like { cert = \"site.pem\", key = \"site.key\" }" },
  strict_sni = schema.flag(),
  early_data = schema.flag(),
  client_cert = schema.choice { "request", "require" },
  client_ca = pem,
  client_depth = schema.count { min = 1, max = 100 },
}

local origin_keys = {
  cert = pem, key = pem, ca = pem,
  verify = schema.flag { default = true },
  sni = schema.text(),
  depth = schema.count { min = 1, max = 100 },
}

for key, kind in pairs(common) do client_keys[key], origin_keys[key] = kind, kind end
for key, kind in pairs(certificate_keys) do client_keys[key] = kind end

-- The settings; `kept` holds the strings that the spec points into.
local function open(read, spec, fail)
  local kept = { table.concat(read.ciphers or {}, ":"), table.concat(read.groups or {}, ":") }
  core.put(spec.ciphers, kept[1])
  core.put(spec.groups, kept[2])
  spec.least, spec.most = numbers[read.min_version] or 0, numbers[read.max_version] or 0
  if spec.least > spec.most and spec.most ~= 0 then fail("tls: min_version is above max_version") end
  local settings = C.mg_declare_tls(state.generation, spec)
  if settings == nil then fail(core.refusal()) end
  return settings
end

-- Calls take(spec) for what stands in `read`.
local function file(read, take, fail)
  local spec, names = ffi.new "mg_certificate_spec", table.concat(read.names or {}, ",")
  core.put(spec.certificate, read.cert)
  core.put(spec.key, read.key or "")
  core.put(spec.ocsp, read.ocsp or "")
  core.put(spec.names, names)
  if take(spec) < 0 then fail(core.refusal()) end
end

local function add(settings, read, fail)
  file(read, function(spec) return C.mg_declare_certificate(settings, spec) end, fail)
end

--- The connection of this view shows this certificate.
---@param options { cert: string, key?: string, ocsp?: string } paths, or PEM text
function tls.choose(view, options, fail)
  if type(options) ~= "table" then fail("it takes a table like { cert =, key = }, got " .. problem.show(options)) end
  local read = schema.read(options, certificate_keys, fail)
  if not read.cert then fail("cert is needed: " .. pem.expect) end
  file(read, function(spec) return C.mg_connection_certificate(view, spec) end, fail)
end

local function done(settings, fail)
  if C.mg_declare_tls_done(settings) < 0 then fail(core.refusal()) end
  return settings
end

-- The one at the top, and those of the list.
local function certificates_of(read, fail)
  local list = { read.cert and read or nil }
  for i, given in ipairs(read.certificates or {}) do
    local function certificate_fail(message) fail(("tls: certificate %d: %s"):format(i, message)) end
    if type(given) ~= "table" then
      certificate_fail("it must be a table like { cert =, key = }, got " .. problem.show(given))
    end
    local one = schema.read(given, certificate_keys, certificate_fail)
    if not one.cert then certificate_fail("cert is needed: " .. pem.expect) end
    list[#list + 1] = one
  end
  if #list == 0 then fail 'tls: a certificate is needed: tls = { cert = "site.pem", key = "site.key" }' end
  return list
end

--- What gate.listen's tls says.
---@param protocols integer bits of mg_tls_protocols
---@return ffi.cdata* mg_tls
function tls.for_clients(options, protocols, fail)
  local read = schema.read(options, client_keys, function(message) fail("tls: " .. message) end)
  if read.client_cert and not read.client_ca then
    fail("tls: client_cert needs client_ca: the certificates that clients' ones are checked by")
  end
  local list = certificates_of(read, fail)
  local spec = ffi.new "mg_tls_spec"
  spec.serves, spec.strict, spec.early = true, read.strict_sni or false, read.early_data or false
  spec.protocols = protocols
  core.put(spec.ca, read.client_ca or "")
  spec.depth = read.client_depth or 0
  spec.verify = read.client_cert == "require" and C.MG_TLS_VERIFY_REQUIRE
    or read.client_cert and C.MG_TLS_VERIFY_REQUEST or C.MG_TLS_VERIFY_NONE
  local settings = open(read, spec, fail)
  for _, one in ipairs(list) do add(settings, one, fail) end
  return done(settings, fail)
end

local made = {}         -- what was asked for -> mg_tls: scripts say the same again for each fetch

local function words_of(options, protocol)
  local words = { protocol or "" }
  for _, key in ipairs { "cert", "key", "ca", "sni", "verify", "depth", "min_version", "max_version" } do
    words[#words + 1] = tostring(options[key])
  end
  for _, key in ipairs { "ciphers", "groups" } do words[#words + 1] = table.concat(options[key] or {}, ":") end
  return table.concat(words, "\0")
end

--- What an upstream's tls says, or a fetch's or a socket's own.
---@param options true|table
---@param protocol? string a key of tls.protocols; nil: no protocol is asked for
---@return ffi.cdata* mg_tls
function tls.for_origins(options, protocol, fail)
  local function tls_fail(message) fail("tls: " .. message) end
  if options ~= true and type(options) ~= "table" then
    tls_fail("it must be true or a table of options, got " .. problem.show(options))
  end
  local read = schema.read(options == true and {} or options, origin_keys, tls_fail)
  if read.key and not read.cert then tls_fail "key without cert: which certificate is it of?" end
  local words = words_of(read, protocol)
  if made[words] then return made[words] end

  local spec = ffi.new "mg_tls_spec"
  spec.protocols = protocol and tls.protocols[protocol] or 0
  core.put(spec.ca, read.ca or "")
  core.put(spec.sni, read.sni or "")
  spec.depth = read.depth or 0
  spec.verify = read.verify and C.MG_TLS_VERIFY_REQUIRE or C.MG_TLS_VERIFY_NONE
  local settings = open(read, spec, fail)
  if read.cert then add(settings, read, fail) end
  made[words] = done(settings, fail)
  return settings
end

-- ---- What a handshake has shown. ----

---@class moongate.ClientCertificate
---@field subject string
---@field issuer string
---@field serial string hex digits
---@field fingerprint string SHA-256, hex digits
---@field names string[] alternative names: "DNS:a.example", "email:...", "URI:..."
---@field verified boolean
---@field problem string? why it is not verified
---@field not_before number Unix time
---@field not_after number

---@class moongate.TLS
---@field sni string? the host that the client asked for
---@field version string "1.2" or "1.3"
---@field cipher string
---@field alpn string?
---@field resumed boolean
---@field early boolean it came as early data, and may be a replay
---@field client_cert moongate.ClientCertificate?

local about = ffi.new "mg_tls_about"

local function string_of(s)
  return s.len > 0 and text(s.ptr, s.len) or nil
end

local function certificate_of()
  local names = {}
  for name in (string_of(about.names) or ""):gmatch "[^\n]+" do names[#names + 1] = name end
  return {
    subject = string_of(about.subject) or "", issuer = string_of(about.issuer) or "",
    serial = string_of(about.serial) or "", fingerprint = string_of(about.fingerprint), names = names,
    verified = about.verified, problem = string_of(about.problem),
    not_before = about.not_before, not_after = about.not_after,
  }
end

---@return moongate.TLS
function tls.about(view)
  C.mg_view_tls(view, about)
  return {
    sni = string_of(about.sni), version = string_of(about.version), cipher = string_of(about.cipher),
    alpn = string_of(about.alpn), resumed = about.resumed, early = about.early,
    client_cert = about.has_certificate and certificate_of() or nil,
  }
end

return tls

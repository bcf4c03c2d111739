-- auth.signature - let a request pass if its sender has signed it (HTTP Message Signatures, RFC 9421).
--
--   local signed = require "auth.signature" { keys = { alice = "alice.pem", bob = { secret = os.getenv "BOB" } } }
--   gate.route { "/hooks/*", policies = { signed }, upstream = hooks }
--
-- keys        by keyid: PEM text, a path of a PEM file, a JWK as a table, or { secret = "..." }. RSA goes with
--             rsa-pss-sha512 and rsa-v1_5-sha256, P-256 with ecdsa-p256-sha256, P-384 with ecdsa-p384-sha384, Ed25519
--             with ed25519, a secret with hmac-sha256
-- components  what must be signed, { "@method", "@authority", "@path", "@query" } if not given; @target-uri stands
--             for the last three, @request-target for the last two
-- max_age     seconds that a signature is good after its `created`, 300 if not given
-- leeway      seconds that clocks may differ by, 30 if not given
-- replay      true: the same signed request may come again. Otherwise it is remembered for max_age, in memory that all
--             workers share (`size`, "4M": some 40,000 of them), and refused
-- label, tag  the signature's, if only that one counts; nonce = true: it must have one
-- digest      "required" if not given: a body must be signed by its Content-Digest (RFC 9530), which is then compared;
--             "optional": only if that is signed
--
-- What is signed is the request as it is when the policy runs, so it stands before those that change it. The origin
-- is told the keyid in x-user. Bodies are held back until they are compared, so max_text_size bounds them.

local gate = require "moongate"
local structured = require "token.structured"

-- RFC 9421 section 3.3, with JOSE's names for the same.
local algorithms = {
  ["rsa-pss-sha512"] = "PS512", ["rsa-v1_5-sha256"] = "RS256", ["hmac-sha256"] = "HS256", ed25519 = "Ed25519",
  ["ecdsa-p256-sha256"] = "ES256", ["ecdsa-p384-sha384"] = "ES384",
}
local usual = { "PS512", "HS256", "ES256", "ES384", "Ed25519" }
local stands_for = {
  ["@authority"] = { "@target-uri" }, ["@scheme"] = { "@target-uri" },
  ["@path"] = { "@target-uri", "@request-target" }, ["@query"] = { "@target-uri", "@request-target" },
}
local digests = { ["sha-256"] = gate.crypto.sha256, ["sha-512"] = gate.crypto.sha512 }

local function read_keys(given)
  if type(given) ~= "table" or not next(given) then return nil end
  local keys = {}
  for id, source in pairs(given) do
    local key, reason = gate.crypto.key(source)
    if not key then return nil, nil, (": %s: %s"):format(tostring(id), reason) end
    keys[tostring(id)] = key
  end
  return keys
end

-- ---- The signature base: section 2. ----

local function authority(req)
  local host = (req.headers.host or req.host):lower()
  return (host:gsub(req.scheme == "https" and ":443$" or ":80$", ""))
end

local function path(req) return req.raw_path ~= "" and req.raw_path or "/" end

local derived = {
  ["@method"] = function(req) return req.method end,
  ["@authority"] = authority,
  ["@scheme"] = function(req) return req.scheme end,
  ["@path"] = path,
  ["@query"] = function(req) return "?" .. (req.query or "") end,
  ["@request-target"] = function(req) return path(req) .. (req.query and "?" .. req.query or "") end,
  ["@target-uri"] = function(req)
    return ("%s://%s%s%s"):format(req.scheme, authority(req), path(req), req.query and "?" .. req.query or "")
  end,
}

local function field(req, name)
  local values = req.headers:all(name)
  if #values == 0 then return nil end
  for i, value in ipairs(values) do values[i] = value:match "^%s*(.-)%s*$" end
  return table.concat(values, ", ")
end

local function query_param(req, params)
  local value = type(params.name) == "string" and req.args[gate.unescape(params.name)]
  if type(value) ~= "string" then return nil end
  return (gate.escape(value))
end

local function value_of(req, item)
  local name = item.value
  if type(name) ~= "string" then return nil end
  if name == "@query-param" then return query_param(req, item.params) end
  if next(item.params) then return nil end              -- sf, key, bs, tr, req: not known here
  if name:sub(1, 1) == "@" then return derived[name] and derived[name](req) end
  if name ~= name:lower() then return nil end
  return field(req, name)
end

-- What was signed, and which components that are; or nil and a reason.
local function base_of(req, input)
  local lines, covered = {}, {}
  for i, item in ipairs(input.list) do
    local value = value_of(req, item)
    if not value then return nil, "it covers what is not there, or not known: " .. item.text:gsub("[^%w@;=_-]", "") end
    if covered[item.text] then return nil, "it covers something twice" end
    covered[item.text] = true
    lines[i] = ("%s: %s"):format(item.text, value)
  end
  lines[#lines + 1] = '"@signature-params": ' .. input.text
  return table.concat(lines, "\n"), covered
end

local function covers(covered, name)
  if covered['"' .. name .. '"'] then return true end
  for _, other in ipairs(stands_for[name] or {}) do
    if covered['"' .. other .. '"'] then return true end
  end
  return false
end

-- ---- The body: RFC 9530. ----

-- Is the body what its digest says? Else the reason, and perhaps a status.
local function check_body(req, covered, needed)
  local signed = covered['"content-digest"']
  if not signed and not needed then return nil end
  local body, reason, status = req:text { decode = false }
  if not body then return reason, status end
  if not signed then return body ~= "" and "it does not cover the content-digest of the body" or nil end
  local members = structured.dictionary(req.headers["content-digest"])
  local known
  for name, digest in pairs(digests) do
    local said = members and members[name]
    if said then
      known = true
      if type(said.value) ~= "table" or not gate.crypto.equal(said.value.bytes or "", digest(body)) then
        return "the body has another digest"
      end
    end
  end
  return not known and "there is no content-digest of sha-256 or sha-512" or nil
end

---@return table policy
return function(given)
  local options = gate.options("auth.signature", given, {
    keys = { "any", needed = true, expect = "a table from keyids to keys", read = read_keys },
    components = { "strings", default = { "@method", "@authority", "@path", "@query" } },
    max_age = { "seconds", above = 0, default = 300 },
    leeway = { "seconds", default = 30 },
    replay = { "boolean", default = false },
    size = { "size", min = 65536, default = 2 ^ 22 },
    label = { "string" },
    tag = { "string" },
    nonce = { "boolean", default = false },
    digest = { { "required", "optional" }, default = "required" },
    realm = { "string", default = "api" },
  })
  local seen = not options.replay and gate.shared("auth.signature", options.size)
  local wanted = {}
  for i, name in ipairs(options.components) do wanted[i] = ('"%s"'):format(name) end
  local challenge = {
    ["www-authenticate"] = ('Signature realm="%s"'):format(options.realm),
    ["accept-signature"] = ("sig=(%s);created;keyid"):format(table.concat(wanted, " ")),
  }

  local function refuse(reason, status)
    if status and status ~= 401 then return status, reason .. "\n" end
    return 401, reason .. "\n", challenge
  end

  -- The signature that counts: the first one by a key that is known.
  local function choose(inputs)
    for _, label in ipairs(inputs) do
      local params = inputs[label].list and inputs[label].params
      local meant = params and (not options.label or label == options.label)
        and (not options.tag or params.tag == options.tag)
      if meant and options.keys[params.keyid] then return label, inputs[label], options.keys[params.keyid] end
    end
  end

  local function check_params(params)
    local now, created, expires = gate.time(), params.created, params.expires
    if type(created) ~= "number" then return "it does not say when it was made" end
    if created > now + options.leeway then return "it was made in the future" end
    if created + options.max_age + options.leeway < now then return "it is too old" end
    if expires ~= nil and (type(expires) ~= "number" or expires + options.leeway < now) then return "it has expired" end
    if options.nonce and type(params.nonce) ~= "string" then return "it has no nonce" end
  end

  local function algorithm_of(params, key)
    if params.alg ~= nil then
      local name = algorithms[params.alg]
      return name and key:fits(name) and name
    end
    for _, name in ipairs(usual) do
      if key:fits(name) then return name end
    end
  end

  -- Has this signed text been here before? It is what counts: signatures of one text may differ.
  local function is_new(params, base)
    if not seen then return true end
    return seen:add(gate.crypto.sha256(base), true,
      math.max(1, params.created + options.max_age + 2 * options.leeway - gate.time()))
  end

  local function access(req)
    local headers = req.headers
    headers["x-user"] = nil
    local inputs = structured.dictionary(headers["signature-input"] or "")
    local signatures = structured.dictionary(headers.signature or "")
    if not inputs or not signatures or #inputs == 0 then return refuse "a signature is needed" end
    local label, input, key = choose(inputs)
    if not label then return refuse "there is no signature by a key that is known" end
    local sent = signatures[label]
    if not sent or type(sent.value) ~= "table" or not sent.value.bytes then return refuse "the signature is missing" end

    local reason = check_params(input.params)
    if reason then return refuse("the signature is refused: " .. reason) end
    local base, covered = base_of(req, input)
    if not base then return refuse("the signature is refused: " .. covered) end
    for _, name in ipairs(options.components) do
      if not covers(covered, name) then return refuse("the signature is refused: it does not cover " .. name) end
    end
    local algorithm = algorithm_of(input.params, key)
    if not algorithm then return refuse "the signature is refused: its algorithm does not go with the key" end
    if not key:verify(algorithm, base, sent.value.bytes) then return refuse "the signature is wrong" end

    local problem, status = check_body(req, covered, options.digest == "required")
    if problem then return refuse("the signature is refused: " .. problem, status) end
    if not is_new(input.params, base) then return refuse "the signature was here before" end
    headers["x-user"] = input.params.keyid
  end

  return { name = "auth.signature", access = access }
end

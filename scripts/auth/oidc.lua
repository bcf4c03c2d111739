-- auth.oidc - let people log in at an OpenID provider (OpenID Connect Core, by authorization code and PKCE).
--
--   local oidc = require "auth.oidc" {
--     issuer = "https://id.example.com", client_id = "gateway", client_secret = os.getenv "OIDC_SECRET",
--     url = "https://app.example.com", secrets = { os.getenv "COOKIE_SECRET" },
--   }
--   gate.route { "app.example.com/*", policies = { oidc }, upstream = app }
--
-- issuer         whose /.well-known/openid-configuration tells the rest
-- client_id      as it knows us; client_secret: if it has given us one
-- url            where browsers find us, if that is not what the request says; url .. callback is registered there
-- secrets        for the cookies, as store.cookie: a list of texts of 32 bytes or more
-- callback       "/oidc/callback", and logout: "/oidc/logout", paths that the route must have; after_logout: "/"
-- scope          "openid profile email"; with offline_access, tokens are refreshed while the session lasts
-- lifetime       seconds of a session, 28800 if not given; cookie: its name, "oidc"
-- fields         request fields from claims, { ["x-user"] = "sub" } if not given; a client's own are dropped
-- forward_token  true: the origin gets the access token as Authorization
-- userinfo       true: claims of the provider's userinfo, too
-- check          a function(claims, req): false refuses with 403; may wait
-- parameters     more for the provider: { prompt = "consent" }
-- leeway         30 seconds; timeout: 5; refresh: 600, of the provider's keys and settings; tls: as in gate.fetch
--
-- Who has no session and reads a page is sent to the provider, and back to that page; anything else (an upload, a call
-- of a script) gets 401. Sessions are in encrypted cookies, so no worker keeps them and they outlive the gateway; what
-- was stolen from a browser therefore counts until its end, also after a logout. The origin does not see these
-- cookies. Claims are in req.ctx.claims. What is checked of the answers: state, nonce, iss (RFC 9207), the ID token's
-- signature, issuer, audience, times and azp; codes go out with a verifier (RFC 7636).

local gate = require "moongate"
local bearer = require "token.bearer"
local cookie_store = require "store.cookie"
local provider = require "token.provider"

local LOGIN_SECONDS = 600               -- for the way to the provider and back
local RENEWED_SECONDS = 60              -- for requests that are under way with the cookie from before
local STEPS_MOST = 8                    -- tokens that were refreshed since, one after another

local function read_secrets(list)
  if type(list) == "string" then list = { list } end
  if type(list) ~= "table" or #list == 0 then return nil end
  for _, secret in ipairs(list) do
    if type(secret) ~= "string" or #secret < 32 then return nil end
  end
  return list
end

local function token_of(bytes) return gate.base64.encode_url(gate.crypto.random(bytes)) end

local function with_query(url, fields)
  return url .. (url:find("?", 1, true) and "&" or "?") .. provider.form(fields)
end

---@return table policy
return function(given)
  local options = gate.options("auth.oidc", given, {
    issuer = { "string", needed = true },
    client_id = { "string", needed = true },
    client_secret = { "string" },
    url = { "string" },
    secrets = { "any", needed = true, expect = "a list of texts of 32 bytes or more", read = read_secrets },
    callback = { "string", default = "/oidc/callback" },
    logout = { "string", default = "/oidc/logout" },
    after_logout = { "string", default = "/" },
    scope = { "strings", default = { "openid", "profile", "email" } },
    lifetime = { "seconds", above = 0, default = 28800 },
    cookie = { "string", default = "oidc" },
    fields = { "table", default = { ["x-user"] = "sub" } },
    forward_token = { "boolean", default = false },
    userinfo = { "boolean", default = false },
    check = { "function" },
    parameters = { "table", default = {} },
    leeway = { "seconds", default = 30 },
    timeout = { "seconds", above = 0, default = 5 },
    refresh = { "seconds", above = 0, default = 600 },
    tls = { "table" },
  })
  local id = provider.new(options)
  local secure = options.url and options.url:find "^https:" ~= nil or nil         -- else as the request comes
  local sessions = cookie_store { name = options.cookie, secrets = options.secrets, secure = secure }
  local logins = cookie_store { name = options.cookie .. "-login-", secrets = options.secrets, secure = secure,
    path = options.callback }
  local renewed = gate.shared("auth.oidc", "4M")

  local function base_of(req)
    return options.url or ("%s://%s"):format(req.scheme, req.headers.host or req.host)
  end

  local function wants_page(req)
    if req.method ~= "GET" and req.method ~= "HEAD" then return false end
    local mode = req.headers["sec-fetch-mode"]
    if mode then return mode == "navigate" end
    return (req.headers.accept or ""):find("text/html", 1, true) ~= nil
  end

  local function begin_login(req)
    if not wants_page(req) then return 401, "log in first\n", { ["www-authenticate"] = 'Session realm="login"' } end
    local settings = id:look()
    if not settings then return 503, "nobody can log in now\n", { ["retry-after"] = "5" } end
    local login = { state = token_of(24), nonce = token_of(24), verifier = token_of(32),
      target = req.raw_path .. (req.query and "?" .. req.query or "") }
    local fields = {
      response_type = "code", client_id = options.client_id, redirect_uri = base_of(req) .. options.callback,
      scope = table.concat(options.scope, " "), state = login.state, nonce = login.nonce,
      code_challenge = gate.base64.encode_url(gate.crypto.sha256(login.verifier)), code_challenge_method = "S256",
    }
    for name, value in pairs(options.parameters) do fields[name] = tostring(value) end
    local cookies = logins:write(req, login, LOGIN_SECONDS, login.state:sub(1, 8))
    if not cookies then return 414, "the address is too long to come back to\n" end
    return 302, "", { location = with_query(settings.authorization_endpoint, fields), ["set-cookie"] = cookies,
      ["cache-control"] = "no-store" }
  end

  -- A session made of the token endpoint's answer; `before` is the one that it goes on from.
  local function session_of(tokens, claims, before)
    return {
      claims = claims, id_token = tokens.id_token or before and before.id_token, token = tokens.access_token,
      refresh = tokens.refresh_token or before and before.refresh,
      token_ends = tonumber(tokens.expires_in) and gate.time() + tokens.expires_in or nil,
      ends = before and before.ends or gate.time() + options.lifetime,
    }
  end

  local function exchange(req, login)
    local tokens, problem = id:tokens { grant_type = "authorization_code", code = req.args.code,
      redirect_uri = base_of(req) .. options.callback, code_verifier = login.verifier }
    if not tokens then return nil, problem end
    local claims
    claims, problem = id:identify(tokens.id_token, login.nonce)
    if claims and options.userinfo then claims, problem = id:userinfo(tokens, claims) end
    if not claims then return nil, problem end
    return session_of(tokens, claims)
  end

  local function check_answer(args, settings)
    local told = args.iss ~= nil or settings.authorization_response_iss_parameter_supported == true
    if told and args.iss ~= options.issuer then return "the answer is of another provider" end
    if args.error ~= nil then return "the provider refuses: " .. tostring(args.error):gsub("[^%w_]", "") end
    if type(args.code) ~= "string" then return "the answer has no code" end
  end

  local function finish_login(req)
    local args = req.args
    local state = type(args.state) == "string" and args.state or ""
    local suffix = state:sub(1, 8)
    local login = suffix:find "^[%w_-]+$" and logins:read(req, suffix)
    if not login or not gate.crypto.equal(login.state, state) then
      return 400, "this login has expired, or was begun elsewhere; go back and try again\n"
    end
    local cookies = logins:clear(req, suffix)
    local settings = id:look()
    if not settings then return 503, "nobody can log in now\n" end
    local problem = check_answer(args, settings)
    if problem then return 403, problem .. "\n", { ["set-cookie"] = cookies } end
    local session
    session, problem = exchange(req, login)
    if not session then
      gate.log.warn("auth.oidc: a login failed: " .. problem)
      return 502, "the login failed: " .. problem .. "\n", { ["set-cookie"] = cookies }
    end
    local written, reason = sessions:write(req, session, options.lifetime)
    if not written then return 502, "the session can't be kept: " .. reason .. "\n", { ["set-cookie"] = cookies } end
    for _, cookie in ipairs(written) do cookies[#cookies + 1] = cookie end
    return 302, "", { location = base_of(req) .. login.target, ["set-cookie"] = cookies,
      ["cache-control"] = "no-store" }
  end

  local function logout(req)
    local session, settings = sessions:read(req), id:look()
    local target = base_of(req) .. options.after_logout
    if session and settings and settings.end_session_endpoint then
      target = with_query(settings.end_session_endpoint, { client_id = options.client_id,
        id_token_hint = session.id_token, post_logout_redirect_uri = target })
    end
    return 302, "", { location = target, ["set-cookie"] = sessions:clear(req), ["cache-control"] = "no-store" }
  end

  local function refresh(session)
    if not id:look() then return nil, "the provider can't be asked" end
    local tokens, problem, final = id:tokens { grant_type = "refresh_token", refresh_token = session.refresh }
    if not tokens then return nil, problem, final end
    if not tokens.id_token then return session_of(tokens, session.claims, session) end
    local claims
    claims, problem = id:identify(tokens.id_token)
    if not claims or claims.sub ~= session.claims.sub then return nil, problem or "it is somebody else's", true end
    for name, value in pairs(session.claims) do         -- of the userinfo, which was asked at the login
      if claims[name] == nil then claims[name] = value end
    end
    return session_of(tokens, claims, session)
  end

  -- What has become of a session that was refreshed; "" stands for: it is over.
  local function renewed_of(digest)
    local shared = renewed:get(digest)
    if shared == "" then return nil, "it is over", true end
    return shared and gate.json.decode(shared)
  end

  -- A refresh token may count once, and one that comes again end everything. So one worker sends it, and all requests
  -- that have it, also at other workers and a while later, get what that has got.
  local renew = gate.coalesce(function(digest, session)
    local fresh, problem, final = renewed_of(digest)
    if fresh or final then return fresh, problem, final end
    local at_work = "at work " .. digest
    if not renewed:add(at_work, true, 2 * options.timeout + 1) then
      repeat gate.sleep(0.02) until not renewed:get(at_work)
      fresh, problem, final = renewed_of(digest)
      return fresh, problem or "another worker has got no answer", final
    end
    fresh, problem, final = refresh(session)
    if fresh or final then renewed:set(digest, fresh and gate.json.encode(fresh) or "", RENEWED_SECONDS) end
    renewed:delete(at_work)
    return fresh, problem, final
  end)

  local function is_fresh(session)
    return not session.refresh or not session.token_ends or session.token_ends > gate.time()
  end

  -- The session of a request; nil if there is none (any more); nil and a reason if nobody can tell.
  local function find_session(req)
    local session = sessions:read(req)
    if not session or session.ends <= gate.time() then return nil end
    local first = session
    for _ = 1, STEPS_MOST do
      if is_fresh(session) then break end
      local fresh, problem, final = renew(gate.crypto.sha256(session.refresh), session)
      if not fresh then return nil, not final and problem or nil end
      session = fresh
    end
    if session ~= first then req.ctx.oidc_cookies = sessions:write(req, session, session.ends - gate.time()) end
    return session
  end

  local entries = setmetatable({}, { __mode = "k" })      -- what the origin is told, by session

  local function entry_of(session)
    local entry, reason = entries[session], nil
    if not entry then
      entry, reason = bearer.entry(session.claims, { fields = options.fields, scope = {} })
      entries[session] = entry
    end
    return entry, reason
  end

  local function access(req)
    if req.path == options.callback then return finish_login(req) end
    if req.path == options.logout then return logout(req) end
    local session, problem = find_session(req)
    if not session then
      if problem then return 503, "the session can't be refreshed now\n", { ["retry-after"] = "5" } end
      return begin_login(req)
    end
    if options.check and options.check(session.claims, req) == false then return 403, "this is not for you\n" end
    local entry, reason = entry_of(session)
    if not entry then return 403, reason .. "\n" end
    local headers, fields = req.headers, entry.fields
    for i = 1, #fields, 2 do headers[fields[i]] = fields[i + 1] or nil end
    if options.forward_token then headers.authorization = "Bearer " .. tostring(session.token) end
    sessions:hide(req)
    req.ctx.claims = session.claims
  end

  local function response(req, res)
    for _, cookie in ipairs(req.ctx.oidc_cookies or {}) do res.headers:add("set-cookie", cookie) end
  end

  return { name = "auth.oidc", access = access, response = response }
end

-- auth.forward - let another service decide, by the request's head.
--
--   local forward = require "auth.forward" { url = "http://127.0.0.1:9100/check", copy = { "x-user", "x-groups" } }
--   gate.route { "/app/*", policies = { forward }, upstream = app }
--
-- url       where the service is asked
-- copy      fields of its answer that the origin gets; what the client sends under these names is dropped
-- send      fields of the request that it gets; all if not given
-- cookies   true: cookies that it sets while it lets a request pass go to the client, too
-- timeout   seconds, 2 if not given; tls: options for https, as in gate.fetch
--
-- As nginx's auth_request and Traefik's forwardAuth do it: the service gets a GET without a body, with the request's
-- fields and x-forwarded-method, -proto, -host, -uri, -for (and x-original-method and -url, which some look at). A
-- 2xx lets the request pass; anything else goes to the client as it is: a 401, a redirect to a login with its cookies.
-- If there is no answer it is 503.

local gate = require "moongate"

-- Of the request's body, of this one connection, or in our own hands.
local kept_back = {
  host = true, ["content-length"] = true, ["transfer-encoding"] = true, expect = true, connection = true, te = true,
  trailer = true, upgrade = true, ["proxy-authorization"] = true, forwarded = true, range = true,
}

---@param given { url: string, copy: string[]?, send: string[]?, cookies: boolean?, timeout: number?, tls: table? }
---@return table policy
return function(given)
  local options = gate.options("auth.forward", given, {
    url = { "string", needed = true },
    copy = { "strings", default = {} },
    send = { "strings" },
    cookies = { "boolean", default = false },
    timeout = { "seconds", above = 0, default = 2 },
    tls = { "table" },
  })

  local function fields_of(req)
    local fields = {}
    if options.send then
      for _, name in ipairs(options.send) do fields[name:lower()] = req.headers[name] end
      return fields
    end
    for name in pairs(req.headers) do
      name = name:lower()
      if not kept_back[name] then fields[name] = req.headers[name] end
    end
    return fields
  end

  local function question(req)
    local fields = fields_of(req)
    local target = req.raw_path .. (req.query and "?" .. req.query or "")
    fields["x-forwarded-method"], fields["x-original-method"] = req.method, req.method
    fields["x-forwarded-proto"] = req.scheme
    fields["x-forwarded-host"] = req.headers.host or req.host
    fields["x-forwarded-uri"] = target
    fields["x-original-url"] = ("%s://%s%s"):format(req.scheme, fields["x-forwarded-host"], target)
    fields["x-forwarded-for"] = req.client.ip
    return fields
  end

  local function access(req)
    local answer = gate.fetch(options.url, { headers = question(req), timeout = options.timeout, tls = options.tls })
    if answer.status == 0 then return 503, "permission can't be asked for now\n" end
    if not answer.ok then return answer end
    for _, name in ipairs(options.copy) do req.headers[name] = answer.headers[name] end
    if options.cookies then req.ctx.cookies_of_forward = answer.headers:all "set-cookie" end
  end

  local function response(req, res)
    for _, cookie in ipairs(req.ctx.cookies_of_forward or {}) do res.headers:add("set-cookie", cookie) end
  end

  return { name = "auth.forward", access = access, response = options.cookies and response or nil }
end

-- answer.maintenance - answer 503 while a file exists, or a function says so.
--
--   gate.use(require "answer.maintenance" { file = "/run/gate/maintenance", allow = { "10.0.0.0/8" } })
--
-- file          it is looked for at most once in `every` seconds (1) in each worker; what it says is the answer's body
-- when          a function(req) that says true: a flag that all workers share, say, or the hours of the night:
--               function() return gate.shared("switches", "64K"):get "maintenance" end
-- allow         networks of clients that pass
-- retry_after   seconds: 60
-- page          HTML for browsers, in place of the plain text; who asks for JSON gets a problem of RFC 9457

local gate = require "moongate"

local TEXT = "down for maintenance\n"

local function read_networks(value)
  local networks, reason = gate.networks(value)
  if not networks then return nil, nil, ": " .. reason end
  return networks
end

---@param given { file: string?, when: (fun(req): boolean?)?, allow: string[]?, retry_after: number?, every: number?,
---  page: string? }
---@return table policy
return function(given)
  local options = gate.options("answer.maintenance", given, {
    file = { "string" },
    when = { "function" },
    allow = { "any", expect = 'a list of networks like { "10.0.0.0/8" }', read = read_networks },
    retry_after = { "count", default = 60 },
    every = { "seconds", above = 0, default = 1 },
    page = { "string" },
  })
  if not options.file and not options.when then error("answer.maintenance: it needs file or when", 2) end
  local notice, looked = nil, -math.huge

  local function look()
    local file = io.open(options.file)
    notice = file and (file:read(65536) or TEXT)
    if file then file:close() end
  end

  local function text_for(req)
    if options.when and options.when(req) then return TEXT end
    if options.file and gate.now() - looked >= options.every then
      looked = gate.now()
      look()
    end
    return notice
  end

  local function access(req)
    local text = text_for(req)
    if not text or options.allow and options.allow:find(req.client.ip) then return end
    local headers = { ["retry-after"] = tostring(options.retry_after), ["cache-control"] = "no-store" }
    local accept = req.headers.accept or ""
    if accept:find("json", 1, true) then
      headers["content-type"] = "application/problem+json"
      return 503, { title = "down for maintenance", status = 503 }, headers
    end
    local page = options.page and accept:find("text/html", 1, true)
    headers["content-type"] = page and "text/html; charset=utf-8" or "text/plain; charset=utf-8"
    return 503, page and options.page or text, headers
  end

  return { name = "answer.maintenance", access = access }
end

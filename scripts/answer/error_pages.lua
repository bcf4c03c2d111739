-- answer.error_pages - pages of one's own for errors: those of the gateway, and, if asked for, those of the origin.
--
--   gate.use(require "answer.error_pages" { pages = { [404] = "errors/404.html", [502] = "<h1>Back soon</h1>",
--                                                     ["5xx"] = "errors/5xx.html" } })
--
-- pages    by status, or by class ("4xx"): HTML, or the path of a file with it, which is read when the script is
--          loaded. In it {status}, {reason} and {id} (the request's, as in the logs) are filled in. Without a page for
--          a status there is a plain one
-- origin   true: also in place of the origin's own bodies, with a status from 400 on; their other fields stay
-- plain    false: what has no page of its own stays as it is
--
-- Who asks for JSON, or for nothing that a browser would, gets a problem of RFC 9457; the status stays in any case.

local gate = require "moongate"

local PLAIN = [[<!doctype html>
<meta charset="utf-8">
<title>{status} {reason}</title>
<h1>{status} {reason}</h1>
<p>Request {id}</p>
]]

local REASONS = {
  [400] = "Bad Request", [401] = "Unauthorized", [403] = "Forbidden", [404] = "Not Found", [405] = "Method Not Allowed",
  [408] = "Request Timeout", [410] = "Gone", [412] = "Precondition Failed", [413] = "Content Too Large",
  [414] = "URI Too Long", [415] = "Unsupported Media Type", [421] = "Misdirected Request", [425] = "Too Early",
  [429] = "Too Many Requests", [431] = "Request Header Fields Too Large", [500] = "Internal Server Error",
  [501] = "Not Implemented", [502] = "Bad Gateway", [503] = "Service Unavailable", [504] = "Gateway Timeout",
}
local OF_THE_BODY = { "content-length", "content-encoding", "etag", "last-modified", "accept-ranges" }
local CLASSES = { [4] = "4xx", [5] = "5xx" }

local function read_page(text)
  if text:find("<", 1, true) or text:find "\n" then return text end
  local file, problem = io.open(text, "rb")
  if not file then return nil, problem end
  local page = file:read "*a"
  file:close()
  return page
end

local function read_pages(value)
  if type(value) ~= "table" then return nil end
  local pages = {}
  for status, text in pairs(value) do
    local good = status == "4xx" or status == "5xx" or type(status) == "number" and status >= 400 and status < 600
    if not good or type(text) ~= "string" then
      return nil, nil, (': %s must be a status from 400 to 599, "4xx" or "5xx", with a text'):format(tostring(status))
    end
    local page, problem = read_page(text)
    if not page then return nil, nil, (": %s: %s"):format(tostring(status), problem) end
    pages[status] = page
  end
  return pages
end

local function fill(page, values)
  return (page:gsub("{(%l+)}", values))
end

-- Does a person look at it, as far as the request tells?
local function wants_page(req)
  local accept = req.headers.accept or ""
  return accept:find("text/html", 1, true) ~= nil
end

---@param given { pages: table?, origin: boolean?, plain: boolean? }?
---@return table policy
return function(given)
  local options = gate.options("answer.error_pages", given, {
    pages = { "any", default = {}, expect = 'a table like { [404] = "404.html" }', read = read_pages },
    origin = { "boolean", default = false },
    plain = { "boolean", default = true },
  })

  local function page_for(status)
    return options.pages[status] or options.pages[CLASSES[math.floor(status / 100)]] or options.plain and PLAIN or nil
  end

  -- The body and its type; nil: it stays as it is.
  local function body_for(req, status)
    local page = page_for(status)
    if not page then return nil end
    local reason = REASONS[status] or "Error"
    if wants_page(req) then
      return fill(page, { status = tostring(status), reason = reason, id = req.id }), "text/html; charset=utf-8"
    end
    local problem = gate.json.encode { title = reason, status = status, instance = "urn:request:" .. req.id }
    return problem .. "\n", "application/problem+json"
  end

  local function on_error(req, err)
    if err.status < 400 then return end
    local body, kind = body_for(req, err.status)
    if body then return err.status, body, { ["content-type"] = kind, ["cache-control"] = "no-store" } end
  end

  local function response(req, res)
    if res.status < 400 or not res.peer then return end
    local body, kind = body_for(req, res.status)
    if not body then return end
    local headers = {}
    for name in pairs(res.headers) do headers[name:lower()] = res.headers:all(name) end
    for _, name in ipairs(OF_THE_BODY) do headers[name] = nil end
    headers["content-type"] = kind
    return res.status, body, headers
  end

  return { name = "answer.error_pages", error = on_error, response = options.origin and response or nil }
end

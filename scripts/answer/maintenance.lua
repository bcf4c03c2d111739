-- answer.maintenance - answer 503 while a file exists.
--
--   gate.use(require "answer.maintenance" { file = "/run/gate/maintenance", allow = { "10.0.0.7" } })
--
-- The file is looked for at most once a second in each worker, not once a request.
-- What it says is the answer's body. Clients of `allow` pass.

local gate = require "moongate"

---@param given { file: string, allow: string[]?, retry_after: number?, every: number? }
---@return table policy
return function(given)
  local options = gate.options("answer.maintenance", given, {
    file = { "string", needed = true },
    allow = { "strings", default = {} },
    retry_after = { "count", default = 60 },
    every = { "seconds", above = 0, default = 1 },
  })
  local allowed, notice, looked = {}, nil, -math.huge
  for _, address in ipairs(options.allow) do allowed[address] = true end

  local function look()
    local file = io.open(options.file)
    notice = file and (file:read(65536) or "down for maintenance\n")
    if file then file:close() end
  end

  local function access(req)
    local now = gate.now()
    if now - looked >= options.every then
      looked = now
      look()
    end
    if notice and not allowed[req.client.ip] then
      return 503, notice, { ["retry-after"] = tostring(options.retry_after), ["content-type"] = "text/plain" }
    end
  end

  return { name = "answer.maintenance", access = access }
end

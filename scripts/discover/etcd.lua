-- discover.etcd - the peers that lie under a prefix in etcd, by its JSON gateway (version 3).
--
--   local app = require "discover.etcd" { url = "http://127.0.0.1:2379", prefix = "/services/app/" }
--   gate.upstream("app", { discover = app, discover_interval = 2 })
--
-- A value is an address, or JSON with `address`, `weight`, `zone`. Servers that put theirs with a lease go with it.

local gate = require "moongate"

-- The least key behind all that begin with the prefix.
local function behind(prefix)
  local head, last = prefix:match "^(.-)([^\255])\255*$"
  return head and head .. string.char(last:byte() + 1) or "\0"
end

---@param given { url: string, prefix: string, token: string?, timeout: number? }
---@return fun(): table?, string?
return function(given)
  local options = gate.options("discover.etcd", given, {
    url = { "string", default = "http://127.0.0.1:2379" },
    prefix = { "string", needed = true },
    token = { "string" },
    timeout = { "seconds", above = 0, default = 5 },
    tls = { "any" },
  })
  local range = { key = gate.base64.encode(options.prefix), range_end = gate.base64.encode(behind(options.prefix)) }

  return function()
    local answer = gate.fetch(options.url:gsub("/$", "") .. "/v3/kv/range", {
      body = range, headers = { authorization = options.token }, timeout = options.timeout, tls = options.tls,
    })
    local found = answer.ok and answer:json()
    if type(found) ~= "table" then
      return nil, ("%s: %s"):format(options.url, answer.problem or "status " .. answer.status)
    end
    local list = {}
    for i, entry in ipairs(found.kvs or {}) do
      local text = gate.base64.decode(entry.value or "") or ""
      local value = text:match "^%s*{" and gate.json.decode(text)
      list[i] = value and { value.address, weight = value.weight, zone = value.zone } or text
    end
    return list
  end
end

-- rewrite.redirect - send clients elsewhere.
--
--   gate.use(require "rewrite.redirect" { from = "old.example.com", to = "https://www.example.com" })
--
-- The path and query are kept and put behind `to`, unless keep = false. `from` is
-- the host that is sent away; without it every request of the route is.

local gate = require "moongate"

---@param given { to: string, from: string?, status: integer?, keep: boolean? }
---@return table policy
return function(given)
  local options = gate.options("rewrite.redirect", given, {
    to = { "string", needed = true },
    from = { "string" },
    status = { { 301, 302, 303, 307, 308 }, default = 308 },
    keep = { "boolean", default = true },
  })

  local function access(req)
    if options.from and req.host ~= options.from:lower() then return end
    local location = options.to
    if options.keep then
      location = location .. req.raw_path .. (req.query and "?" .. req.query or "")
    end
    return options.status, "moved\n", { location = location }
  end

  return { name = "rewrite.redirect", access = access }
end

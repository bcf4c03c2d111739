-- moongate.log - lines in the error log; in an exchange they begin with its id.
local C = require "moongate.seam"
local fiber = require "moongate.fiber"

local log = {}

local function prefix()
  local f = fiber.current()
  local x = f and f.owner
  if x and x.req and x.view then return "[" .. x.req.id .. "] " end
  return ""
end

local function writer(level)
  return function(...)
    if not C.mg_log_wants(level) then return end
    local words = { ... }
    for i = 1, select("#", ...) do words[i] = tostring(words[i]) end
    local line = prefix() .. table.concat(words, " ")
    C.mg_log_line(level, line, #line)
  end
end

---@param ... any written with blanks between them
log.debug = writer(0)
---@param ... any
log.info = writer(1)
---@param ... any
log.warn = writer(2)
---@param ... any
log.error = writer(3)

return log

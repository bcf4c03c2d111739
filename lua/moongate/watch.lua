-- moongate.watch - gate.watch: waits until a file changes.
--
-- watch[1] is the mg_file_watch, false once it is closed or its owner has ended.
local ffi = require "ffi"
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local problem = require "moongate.problem"
local reason_of = require "moongate.reason"

local out = ffi.new "mg_file_watch *[1]"

---@class moongate.Watch
local watch = {}
watch.__index = watch

--- Waits until the file has been written anew, by whom and however; at once if it was since the last call, or since it
--- is watched.
---@param seconds number at most so long
---@return boolean changed false when the time is over
function watch:wait(seconds)
  if type(seconds) ~= "number" then
    error("a watch's wait takes a number of seconds, got " .. problem.show(seconds), 2)
  end
  if not self[1] then error("the watch is closed", 2) end
  local code = fiber.wait(C.mg_file_watch_wait(self[1], fiber.task(), seconds))
  if code == C.MG_BUSY then error("somebody else waits by this watch already", 2) end
  return code == 0
end

--- False once it is closed, or what it belonged to has ended.
---@return boolean
function watch:is_open() return self[1] ~= false end

--- Closes it.
function watch:close()
  local pointer = self[1]
  if not pointer then return end
  if self.owner.opened then self.owner.opened[self] = nil end
  self[1] = false
  C.mg_file_watch_close(pointer)
end

--- Watches a file, which need not be there yet. It belongs to who opens it, as a socket does.
---@param path string
---@return moongate.Watch? watch, string? reason
return function(path)
  if type(path) ~= "string" or path == "" then error("gate.watch takes a path, got " .. problem.show(path), 2) end
  local code = C.mg_file_watch_open(fiber.task(), path, #path, out)
  if code < 0 then return nil, reason_of(code) end
  local owner = fiber.owner()
  local self = setmetatable({ out[0], owner = owner }, watch)
  owner.opened = owner.opened or {}
  owner.opened[self] = true
  return self
end

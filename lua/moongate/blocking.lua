-- moongate.blocking - calls that hold the worker are told; those that would change or end its process are refused.
--
-- Files, commands and LuaSocket know nothing of the loop, so they are timed, and
-- nobody else pays for it. Required once, for its effect on io, os, print and
-- LuaSocket.
local C = require "moongate.seam"
local ffi = require "ffi"
local fiber = require "moongate.fiber"
local hook = require "moongate.hook"
local log = require "moongate.log"
local problem = require "moongate.problem"
local state = require "moongate.state"

local PLACES_MOST = 1000
local at = hook.at

local told, told_count = {}, 0

local function tell(name, took)
  local place, outer = problem.places()
  if not place or told[place] or told_count == PLACES_MOST then return end
  told[place], told_count = true, told_count + 1
  local from = outer ~= place and (" (called from %s)"):format(outer) or ""
  log.warn(("%s: %s held the worker for %.3f s%s, and with it all that it serves; in a hook use what waits: "
    .. "gate.fetch, gate.connect, gate.sleep"):format(place, name, took, from))
end

-- Passes on what a call gave or raised, the latter as if the user's line had called the function itself.
local function pass(name, began, ok, ...)
  local took = C.mg_now_exactly() - began
  local most = state.settings.blocking_threshold
  if took > most and most > 0 and fiber.current().owner then
    tell(name, took)
    at.told = 1
  end
  if ok then return ... end
  local thrown = ...
  if type(thrown) == "string" then thrown = thrown:gsub("'%?'", "'" .. name:match "[%w_]+$" .. "'", 1) end
  error(thrown, 2)
end

local function timed(name, fn)
  return function(...) return pass(name, C.mg_now_exactly(), pcall(fn, ...)) end
end

local function wrap(t, prefix, names)
  for _, name in ipairs(names) do
    if t[name] then t[name] = timed(prefix .. name, t[name]) end
  end
end

-- What makes an iterator: each of its steps reads.
local function pass_lines(name, began, ok, step, ...)
  if ok then step = timed(name, step) end
  return pass(name, began, ok, step, ...)
end

local function wrap_lines(t, prefix)
  local name, lines = prefix .. "lines", t.lines
  function t.lines(...) return pass_lines(name, C.mg_now_exactly(), pcall(lines, ...)) end
end

local methods = debug.getmetatable(io.stdout).__index
wrap(methods, "file:", { "close", "flush", "read", "seek", "write" })
wrap_lines(methods, "file:")
wrap(io, "io.", { "close", "flush", "input", "open", "output", "popen", "read", "tmpfile", "write" })
wrap_lines(io, "io.")
wrap(os, "os.", { "execute", "remove", "rename", "tmpname" })
print = timed("print", print)

-- ---- LuaSocket, once somebody loads it. ----

local socket_classes = { "tcp{master}", "tcp{client}", "tcp{server}", "udp{connected}", "udp{unconnected}" }

local function wrap_socket(core)
  wrap(core, "socket.", { "select", "sleep" })
  wrap(core.dns, "socket.dns.", { "getaddrinfo", "getnameinfo", "tohostname", "toip" })
  local registry = debug.getregistry()
  for _, class in ipairs(socket_classes) do
    local own = registry[class]
    if own then
      wrap(own.__index, "socket:", { "accept", "connect", "receive", "receivefrom", "send", "sendto" })
    end
  end
end

package.preload["socket.core"] = function(name)
  local why = {}
  for i = 2, #package.loaders do
    local load, from = package.loaders[i](name)
    if type(load) == "function" then
      local core = load(name, from)
      wrap_socket(core)
      return core
    end
    why[#why + 1] = load
  end
  error(("module '%s' not found:%s"):format(name, table.concat(why)), 0)
end

-- ---- Code that nobody here knows: the core times the runs of a script that has some. ----

local harmless = { cjson = true, ["cjson.safe"] = true, ["socket.core"] = true, ["mime.core"] = true }

local function watched(fn)
  return function(...)
    C.mg_generation_watch(state.generation)
    return fn(...)
  end
end

ffi.cdef, ffi.load, package.loadlib = watched(ffi.cdef), watched(ffi.load), watched(package.loadlib)

-- The third and the fourth look for libraries in C.
for i = 3, 4 do
  local search = package.loaders[i]
  package.loaders[i] = function(name)
    local load, from = search(name)
    if type(load) == "function" and not harmless[name] then load = watched(load) end
    return load, from
  end
end

-- ---- What is the process's, not the script's. ----

function os.exit()
  error("os.exit would end the worker and all that it serves; to end an exchange return an answer, to refuse the "
    .. "script raise an error, to end the process use `moongate stop`", 2)
end

local setlocale = os.setlocale

function os.setlocale(locale, category)
  if locale == nil then return setlocale(nil, category) end
  error("os.setlocale would change how the whole process reads and writes numbers and texts", 2)
end

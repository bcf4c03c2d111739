-- moongate.file - gate.open: files beneath a folder, which no path leads out of.
local ffi = require "ffi"
local C = require "moongate.seam"
local core = require "moongate.core"
local reason_of = require "moongate.reason"
local state = require "moongate.state"

local PIECE = 256 * 1024

local about, out, slice = ffi.new "mg_file_about", ffi.new "mg_file *[1]", ffi.new "mg_slice"
local root_slice, path_slice = ffi.new "mg_slice", ffi.new "mg_slice"

---@class moongate.File
---@field size number bytes, when it was opened
---@field modified number Unix time, in seconds
---@field tag string changes when the file does
---@field folder boolean it is one, and can't be read
local file = {}
file.__index = file

--- The bytes from `at` on, at most 256 KiB of them.
---@param at number from 0
---@param most? number
---@return string? bytes "" at the end, string? reason
function file:read(at, most)
  local handle = self[1]
  if not handle then error("this file is closed, or a folder", 2) end
  local code = C.mg_file_read(handle, at, math.min(most or PIECE, PIECE), slice)
  if code < 0 then return nil, reason_of(code) end
  return ffi.string(slice.ptr, slice.len)
end

--- Gives it back now, and not when nothing refers to it any more.
function file:close()
  local handle = self[1]
  if handle then
    self[1] = false
    C.mg_file_close(ffi.gc(handle, nil))
  end
end

local reasons = { [C.MG_ABSENT] = "absent", [C.MG_REFUSED] = "refused", [C.MG_FULL] = "too many open files" }

--- The file, or folder, at a path beneath the folder `root`. It must be a plain one: no path, with dots in it or over
--- symbolic links, leads out of root.
---@param root string
---@param path string without a slash in front
---@return moongate.File? file, string? reason "absent", "refused" (it is no plain file, leads out, or may not be read)
return function(root, path)
  if type(root) ~= "string" or type(path) ~= "string" then error("gate.open takes a folder and a path", 2) end
  core.put(root_slice, root)
  core.put(path_slice, path)
  local code = C.mg_file_open(state.generation, root_slice, path_slice, about, out)
  if code < 0 then return nil, reasons[code] or reason_of(code) end
  return setmetatable({
    out[0] ~= nil and ffi.gc(out[0], C.mg_file_close) or false,
    size = about.size, modified = about.modified, tag = ffi.string(about.tag), folder = about.folder,
  }, file)
end

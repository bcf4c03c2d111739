-- answer.files - a handler that answers with the files of a folder.
--
--   gate.route { "/static/*", handler = require "answer.files" { root = "/srv/www" } }
--   gate.route { "/*", handler = require "answer.files" { root = "/srv/app", fallback = "index.html" } }   -- one page
--
-- root           the folder in which that is looked for which the route's "*" stands for, or else the path
-- index          what a folder shows: "index.html"; false: nothing
-- fallback       a file for all that is not there, with 200
-- root           the folder in which that is looked for which the route's "*" stands for, or the whole path
--                goes to clients that take it; {} for none
-- cache_control  a text, or a function(path) that gives one
-- types          more content types by ending: { wasm = "application/wasm" }
-- hidden         true: also what begins with a dot; else only what is in /.well-known/
-- fresh          seconds (1) for which a worker remembers a small file without a look at the disk; 0: none
--
-- GET and HEAD; ranges, several too (RFC 9110, 14), validators (13: If-None-Match, If-Modified-Since, If-Match,
-- If-Unmodified-Since, If-Range). No path, no symbolic link leads out of the folder. Other than plain files are not
-- there for it. Long files are read piece by piece, as the client takes them.

local gate = require "moongate"
local conditions = require "answer.files.conditions"
local ranges = require "answer.files.ranges"
local types = require "answer.files.types"

local SMALL = 64 * 1024
local KEPT_MOST = 1000
local ENDINGS = { br = ".br", zstd = ".zst", gzip = ".gz" }

local function read_codings(value)
  if type(value) ~= "table" then return nil end
  for _, coding in ipairs(value) do
    if not ENDINGS[coding] then return nil end
  end
  return value
end

local shape = {
  root = { "string", needed = true },
  index = { "any", default = "index.html", expect = "a file's name or false", read = function(value)
    if value == false or type(value) == "string" then return value end
  end },
  fallback = { "string" },
  precompressed = { "any", default = { "br", "zstd", "gzip" }, expect = 'a list of "br", "zstd" and "gzip"',
    read = read_codings },
  cache_control = { "any", expect = "a text or a function(path)", read = function(value)
    if type(value) == "string" or type(value) == "function" then return value end
  end },
  types = { "table", default = {} },
  hidden = { "boolean", default = false },
  fresh = { "seconds", default = 1 },
}

-- A file as it is served: its facts, and the whole of it if it is small. Nil, and why not.
local function load(root, path)
  local file, reason = gate.open(root, path)
  if not file then return nil, reason end
  local entry = { path = path, size = file.size, modified = file.modified, tag = file.tag, folder = file.folder }
  if file.folder then return entry end
  if file.size > SMALL then
    entry.file = file
    return entry
  end
  entry.body = file:read(0)
  file:close()
  if not entry.body or #entry.body ~= entry.size then return nil, "refused" end
  return entry
end

local function is_hidden(path)
  return (path:find "^%." or path:find("/.", 1, true)) and not path:find "^%.well%-known/[^.]"
end

-- Which codings the client takes (RFC 9110 12.5.3), as a set; nil: none but the plain one.
local function codings_of(accept)
  if not accept then return nil end
  local taken = {}
  for member in accept:gmatch "[^,]+" do
    local name, rest = member:match "^%s*([%w*-]+)%s*(.*)$"
    if name and not rest:find "q%s*=%s*0%.?0*%s*$" then taken[name:lower()] = true end
  end
  return taken
end

-- Pieces from `first` to `last`, as the client takes them. What is shorter than it was breaks off.
local function pieces(entry, first, last, more)
  local file, at = entry.file, first
  return function()
    if at > last then
      if not more then file:close() end
      return nil
    end
    local piece, reason = file:read(at, last - at + 1)
    if not piece or piece == "" then
      file:close()
      error(("answer.files: %s: %s"):format(entry.path, reason or "it has become shorter while it was sent"), 0)
    end
    at = at + #piece
    return piece
  end
end

-- `more`: other parts follow.
local function part_of(entry, first, last, more)
  if entry.body then return entry.body:sub(first + 1, last + 1) end
  return pieces(entry, first, last, more)
end

---@param given { root: string, index: (string|false)?, fallback: string?, precompressed: string[]?,
---  cache_control: (string|fun(path: string): string?)?, types: table?, hidden: boolean?, fresh: number? }
---@return fun(req): integer, any, table? handler
return function(given)
  local options = gate.options("answer.files", given, shape)
  local kept = require "store.lru" (KEPT_MOST)

  -- The file at a path; nil, and why not.
  local function find(path)
    local known = options.fresh > 0 and kept:get(path)
    if known then return known.entry, known.reason end
    local entry, reason = load(options.root, path)
    if options.fresh > 0 and not (entry and entry.file) then
      kept:set(path, { entry = entry, reason = reason }, gate.time() + options.fresh)
    end
    return entry, reason
  end

  -- What is smaller for this client, if it is there and no older.
  local function encoded(entry, taken)
    for _, coding in ipairs(taken and options.precompressed or {}) do
      local other = taken[coding] and find(entry.path .. ENDINGS[coding])
      if other and not other.folder and other.modified >= entry.modified then return other, coding end
    end
    return entry
  end

  local function fields_of(entry, shown, coding)
    local cache_control = options.cache_control
    if type(cache_control) == "function" then cache_control = cache_control(entry.path) end
    return {
      ["content-type"] = types.of(entry.path, options.types), ["accept-ranges"] = "bytes",
      etag = '"' .. shown.tag .. '"', ["last-modified"] = conditions.date(shown.modified),
      ["content-encoding"] = coding, vary = options.precompressed[1] and "Accept-Encoding" or nil,
      ["cache-control"] = cache_control,
    }
  end

  -- What will not be read is given back now, and not when it is collected.
  local function let_go(entry)
    if entry.file then entry.file:close() end
  end

  local function serve(req, entry)
    local shown, coding = encoded(entry, options.precompressed[1] and codings_of(req.headers["accept-encoding"]))
    local fields = fields_of(entry, shown, coding)
    local status = conditions.status(req, fields.etag, shown.modified)
    if shown ~= entry then let_go(entry) end
    if status or req.method == "HEAD" then let_go(shown) end
    if status == 412 then return 412, "the file has changed\n" end
    if status == 304 then
      fields["content-type"], fields["content-encoding"], fields["accept-ranges"] = nil, nil, nil
      return 304, nil, fields
    end
    local answered, body, given_fields = ranges.answer(req, shown, fields, part_of)
    if answered == 416 then let_go(shown) end
    return answered, body, given_fields
  end

  local function folder(req, entry)
    if req.path:sub(-1) ~= "/" then
      local query = req.query and "?" .. req.query or ""
      return 308, "it is a folder\n", { location = req.raw_path:gsub("^/[/\\]+", "/") .. "/" .. query }
    end
    local path = entry.path == "" and "" or entry.path:gsub("/*$", "/")
    local index = options.index and find(path .. options.index)
    if index and not index.folder then return serve(req, index) end
  end

  return function(req)
    if req.method ~= "GET" and req.method ~= "HEAD" then return 405, "GET or HEAD\n", { allow = "GET, HEAD" } end
    local path = (req.params["*"] or req.path):gsub("^/+", "")
    local entry, reason
    if options.hidden or not is_hidden(path) then entry, reason = find(path) end
    if reason == "too many open files" then return 503, "busy\n", { ["retry-after"] = "1" } end
    if entry and entry.folder then
      local status, body, fields = folder(req, entry)
      if status then return status, body, fields end
    elseif entry and path:sub(-1) ~= "/" then
      return serve(req, entry)
    end
    local fallback = options.fallback and find(options.fallback)
    if fallback and not fallback.folder then return serve(req, fallback) end
    return 404, "there is no such file\n"
  end
end

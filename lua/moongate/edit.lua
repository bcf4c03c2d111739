-- moongate.edit - streaming edits of a response's body: res:replace, res:map, res:decode and res:encode.
--
-- Each edit is a function(chunk) -> chunk, called with nil at the end. They run
-- after the policies' response_body hooks, in the order in which they were asked for. A coded body is
-- decoded before all of them, and encoded behind all of them.
local C = require "moongate.seam"
local coding = require "moongate.coding"
local headers = require "moongate.headers"

local edit = {}

local function fields(view)
  return headers.of_response(view)
end

-- The body's length and bytes will be other ones than the origin said.
local function mend_head(view)
  local h = fields(view)
  h["content-length"] = nil
  h["content-md5"] = nil
  h["digest"] = nil
  h["content-digest"] = nil
  h["repr-digest"] = nil
  h["accept-ranges"] = nil
  local etag = h.etag
  if etag and etag:sub(1, 2) ~= "W/" then h.etag = "W/" .. etag end
end

-- The pieces of this body pass through Lua.
local function take_body(x)
  if C.mg_view_want(x.view, C.MG_PHASE_RESPONSE_BODY) < 0 then
    error("the body can't be changed any more: the response's head has gone out", 4)
  end
  mend_head(x.view)
end

-- From here on hooks and edits see plain bytes.
local function decode(x)
  local coded, h = x.coded, fields(x.view)
  if coded and coded.encode then return end             -- the coding in the head is our own
  local number, unknown = coding.read(h["content-encoding"])
  if unknown then
    error(("the body comes as %s, which can't be decoded; remove the request's header accept-encoding before it is "
      .. "forwarded"):format(unknown), 4)
  elseif not number then
    return
  elseif x.view.status == 206 then
    error("a part (206) of a coded body can't be decoded; remove the request's header range before it is forwarded", 4)
  end
  take_body(x)
  h["content-encoding"] = nil
  if not coded then
    coded = {}
    x.coded = coded
  end
  coded.decode = number
end

local function add(x, filter)
  decode(x)
  take_body(x)
  x.filters = x.filters or {}
  x.filters[#x.filters + 1] = filter
end

function edit.decode(x)
  decode(x)
end

function edit.encode(x, name, level)
  local least, highest, usual = coding.levels(name)
  if not least then error(('res:encode takes "gzip", "br" or "zstd", got %s'):format(tostring(name)), 3) end
  level = level or usual
  if type(level) ~= "number" or level % 1 ~= 0 or level < least or level > highest then
    error(("res:encode: the level of %s is a whole number from %d to %d, got %s"):format(name, least, highest,
      tostring(level)), 3)
  end
  local h = fields(x.view)
  local now = h["content-encoding"]
  if now and now:lower() ~= "identity" then
    error(("res:encode: the body is coded already (%s); call res:decode first"):format(now), 3)
  end
  take_body(x)
  h["content-encoding"] = name
  x.coded = x.coded or {}
  x.coded.encode, x.coded.level = coding.number(name), level
end

function edit.map(x, fn)
  if type(fn) ~= "function" then error("res:map takes a function(chunk), got a " .. type(fn), 3) end
  add(x, fn)
end

-- How many of the last bytes of s may be the beginning of `from`.
local function overlap(s, from)
  for n = math.min(#s, #from - 1), 1, -1 do
    if s:sub(-n) == from:sub(1, n) then return n end
  end
  return 0
end

--- A filter that puts `to` in the place of `from`, also where it lies across two chunks.
---@return fun(chunk: string?): string
function edit.replacer(from, to, count)
  local left, rest = count or math.huge, ""
  return function(chunk)
    if chunk == nil then
      local last = rest
      rest = ""
      return last
    end
    if left <= 0 and rest == "" then return chunk end
    local s, out, at = rest .. chunk, {}, 1
    while left > 0 do
      local first, last = s:find(from, at, true)
      if not first then break end
      out[#out + 1] = s:sub(at, first - 1)
      out[#out + 1] = to
      at, left = last + 1, left - 1
    end
    s = s:sub(at)
    local n = left > 0 and overlap(s, from) or 0
    rest = s:sub(#s - n + 1)
    out[#out + 1] = s:sub(1, #s - n)
    return table.concat(out)
  end
end

function edit.replace(x, from, to, count)
  if type(from) ~= "string" or from == "" then error("res:replace: `from` must be a string that is not empty", 3) end
  if type(to) ~= "string" then error("res:replace: `to` must be a string, got a " .. type(to), 3) end
  add(x, edit.replacer(from, to, count))
end

return edit

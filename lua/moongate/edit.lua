-- moongate.edit - streaming edits of a response's body: res:replace and res:map.
--
-- Each edit is a function(chunk) -> chunk, called with nil at the end. They run
-- after the policies' response_body hooks, in the order in which they were asked for.
local C = require "moongate.seam"
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

local function add(x, filter)
  local view = x.view
  local coding = fields(view)["content-encoding"]
  if coding and coding:lower() ~= "identity" then
    error(("the body comes as %s, so it can't be edited; remove the request's header accept-encoding before it is "
      .. "forwarded"):format(coding), 4)
  end
  if C.mg_view_want(view, C.MG_PHASE_RESPONSE_BODY) < 0 then
    error("the body can't be edited any more: the response's head has gone out", 4)
  end
  mend_head(view)
  x.filters = x.filters or {}
  x.filters[#x.filters + 1] = filter
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

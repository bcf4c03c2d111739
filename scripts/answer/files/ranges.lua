-- answer.files.ranges - a file, or the parts of it that a request asks for (RFC 9110, 14).
--
--   return ranges.answer(req, entry, fields, part_of)       -- part_of(entry, first, last): a string or a function

local gate = require "moongate"
local conditions = require "answer.files.conditions"

local ranges = {}

-- More of them, or parts that overlap, are not worth it (17.15): the whole is sent.
local RANGES_MOST = 16

-- The parts that are asked for, { first, last }; an empty list: none of them lies in the file; nil: no good Range.
local function parse(field, size)
  local list = field:match "^%s*bytes%s*=(.*)$"
  if not list then return nil end
  local found, count = {}, 0
  for member in list:gmatch "[^,]+" do
    local first, last = member:match "^%s*(%d*)%s*%-%s*(%d*)%s*$"
    if not first or first == "" and last == "" or #first > 15 or #last > 15 then return nil end
    count = count + 1
    local from, to = tonumber(first), tonumber(last)
    if not from then from, to = size - math.min(to, size), size - 1 end
    if to and from > to and first ~= "" then return nil end
    if from < size and not (first == "" and tonumber(last) == 0) then
      found[#found + 1] = { from, math.min(to or size - 1, size - 1) }
    end
  end
  return count > 0 and found or nil
end

local function overlap(list)
  local sorted = { unpack(list) }
  table.sort(sorted, function(a, b) return a[1] < b[1] end)
  for i = 2, #sorted do
    if sorted[i][1] <= sorted[i - 1][2] then return true end
  end
  return false
end

-- A body that gives one body after another: strings and functions.
local function chain(bodies)
  local at = 1
  return function()
    while bodies[at] do
      local body = bodies[at]
      if type(body) == "string" then
        at = at + 1
        if body ~= "" then return body end
      else
        local piece = body()
        if piece then return piece end
        at = at + 1
      end
    end
  end
end

-- multipart/byteranges (RFC 9110 14.6).
local function several(entry, fields, list, part_of)
  local boundary = gate.crypto.hex(gate.crypto.random(16))
  local bodies = {}
  for i, part in ipairs(list) do
    bodies[#bodies + 1] = ("\r\n--%s\r\nContent-Type: %s\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"):format(boundary,
      fields["content-type"], part[1], part[2], entry.size)
    bodies[#bodies + 1] = part_of(entry, part[1], part[2], i < #list)
  end
  bodies[#bodies + 1] = ("\r\n--%s--\r\n"):format(boundary)
  fields["content-type"] = "multipart/byteranges; boundary=" .. boundary
  return 206, chain(bodies), fields
end

local function whole(req, entry, fields, part_of)
  fields["content-length"] = ("%d"):format(entry.size)
  if req.method == "HEAD" then return 200, nil, fields end
  if entry.size == 0 then return 200, "", fields end
  return 200, part_of(entry, 0, entry.size - 1), fields
end

---@param req moongate.Request
---@param entry { size: number, tag: string, modified: number }
---@param fields table of the answer
---@param part_of fun(entry, first: number, last: number, more: boolean?): string|fun(): string?
---@return integer status, any body, table fields
function ranges.answer(req, entry, fields, part_of)
  local field = req.method == "GET" and req.headers.range
  local list = field and conditions.range_counts(req, fields.etag, entry.modified) and parse(field, entry.size)
  if not list or #list > RANGES_MOST or overlap(list) then return whole(req, entry, fields, part_of) end
  if #list == 0 then
    return 416, "no part of the file is in that range\n", { ["content-range"] = ("bytes */%d"):format(entry.size) }
  end
  if #list > 1 then return several(entry, fields, list, part_of) end
  local first, last = list[1][1], list[1][2]
  fields["content-range"] = ("bytes %d-%d/%d"):format(first, last, entry.size)
  fields["content-length"] = ("%d"):format(last - first + 1)
  return 206, part_of(entry, first, last), fields
end

return ranges

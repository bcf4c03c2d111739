-- answer.files.conditions - conditional requests, in the order of RFC 9110 13.2.2.
--
--   local status = conditions.status(req, '"abc"', modified)       -- nil, 304 or 412
--   local text = conditions.date(seconds)                          -- "Sun, 06 Nov 1994 08:49:37 GMT"

local conditions = {}

local DAYS = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" }
local MONTHS = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }

local numbers = {}
for i, name in ipairs(MONTHS) do numbers[name] = i end

---@param seconds number Unix time
---@return string
function conditions.date(seconds)
  local t = os.date("!*t", seconds)
  return ("%s, %02d %s %04d %02d:%02d:%02d GMT"):format(DAYS[t.wday], t.day, MONTHS[t.month], t.year, t.hour, t.min,
    t.sec)
end

-- Days from 1970 to a day of the Gregorian calendar: years begin in March, so that a leap day is the last of one.
local function days(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

-- Unix time of an IMF-fixdate (RFC 9110 5.6.7), the form that all send; nil: it is another, and counts as absent.
local function seconds_of(text)
  local day, month, year, hour, min, sec = (text or "")
    :match "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  if not day or not numbers[month] then return nil end
  return days(tonumber(year), numbers[month], tonumber(day)) * 86400 + hour * 3600 + min * 60 + sec
end
conditions.seconds_of = seconds_of

-- Is the tag one of the list, or the list "*"? `weak`: W/ makes no difference (RFC 9110 8.8.3.2).
local function lists(field, tag, weak)
  if field:match "^%s*%*%s*$" then return true end
  for prefix, one in field:gmatch '(W?/?)("[^"]*")' do
    if one == tag and (weak or prefix == "") then return true end
  end
  return false
end

--- What the request's conditions make of a file with this tag and time.
---@param req moongate.Request
---@param tag string quoted, strong
---@param modified number
---@return integer? status 304 or 412; nil: go on
function conditions.status(req, tag, modified)
  local headers = req.headers
  local match, none = headers["if-match"], headers["if-none-match"]
  modified = math.floor(modified)
  if match then
    if not lists(match, tag, false) then return 412 end
  else
    local since = seconds_of(headers["if-unmodified-since"])
    if since and modified > since then return 412 end
  end
  if none then return lists(none, tag, true) and 304 or nil end
  local since = seconds_of(headers["if-modified-since"])
  return since and modified <= since and 304 or nil
end

--- May a range be sent, as If-Range says (RFC 9110 13.1.5)?
---@return boolean
function conditions.range_counts(req, tag, modified)
  local given = req.headers["if-range"]
  if not given then return true end
  if given:sub(1, 1) == '"' or given:sub(1, 2) == "W/" then return given == tag end
  return seconds_of(given) == math.floor(modified)
end

return conditions

-- token.structured - Structured Fields (RFC 8941): dictionaries, as Signature-Input and Content-Digest are.
--
--   local structured = require "token.structured"
--   local members, reason = structured.dictionary 'sig=("@method" "date");created=1618884473;keyid="a"'
--   members.sig.list[1].value      -- "@method"
--   members.sig.params.created     -- 1618884473
--   members.sig.text               -- what stands behind sig=, as it came
--
-- Each member is { value = } or { list = { item, ... } }, with params and text; an item has value, params and text.
-- Numbers, strings and booleans are Lua's; a token is { token = "..." }, and bytes are { bytes = "..." }.

local gate = require "moongate"

local structured = {}

local MEMBERS_MOST = 64

local key_at = "^([%l*][%l%d_%-.*]*)()"

local function fail() error(structured, 0) end        -- caught below

local function bare_item(s, at)
  local c = s:sub(at, at)
  if c == '"' then
    local from = at + 1
    while true do
      at = s:find('["\\]', at + 1) or fail()
      if s:sub(at, at) == '"' then break end
      at = at + 1
      if not s:find('^["\\]', at) then fail() end
    end
    local text = s:sub(from, at - 1)
    if text:find "[^\32-\126]" then fail() end
    return text:gsub('\\(["\\])', "%1"), at + 1
  elseif c == ":" then
    local encoded, after = s:match("^:([%w+/=]*):()", at)
    local bytes = encoded and gate.base64.decode(encoded)
    if not bytes then fail() end
    return { bytes = bytes }, after
  elseif c == "?" then
    local digit, after = s:match("^?([01])()", at)
    if not digit then fail() end
    return digit == "1", after
  end
  local number, after = s:match("^(%-?%d+%.?%d*)()", at)
  if number then
    if #number > 16 or number:find "%.$" then fail() end
    return tonumber(number), after
  end
  local token
  token, after = s:match("^([%a*][%w!#$%%&'*+%-.^_`|~:/]*)()", at)
  if not token then fail() end
  return { token = token }, after
end

local function parameters(s, at)
  local params = {}
  while true do
    local key, after = s:match("^; *([%l*][%l%d_%-.*]*)()", at)
    if not key then
      if s:sub(at, at) == ";" then fail() end
      return params, at
    end
    if params[key] ~= nil then fail() end       -- the last one would count; nobody who means well sends two
    params[key], at = true, after
    if s:sub(at, at) == "=" then params[key], at = bare_item(s, at + 1) end
  end
end

local function item(s, at)
  local from, out = at, {}
  out.value, at = bare_item(s, at)
  out.params, at = parameters(s, at)
  out.text = s:sub(from, at - 1)
  return out, at
end

local function inner_list(s, at)
  local from, out = at, { list = {} }
  at = at + 1
  while true do
    at = s:match("^ *()", at)
    if s:sub(at, at) == ")" then break end
    out.list[#out.list + 1], at = item(s, at)
    if not s:find("^[ )]", at) or #out.list > MEMBERS_MOST then fail() end
  end
  out.params, at = parameters(s, at + 1)
  out.text = s:sub(from, at - 1)
  return out, at
end

local function member(s, at)
  if s:sub(at, at) ~= "=" then
    local out = { value = true }
    out.params, at = parameters(s, at)
    return out, at
  end
  if s:sub(at + 1, at + 1) == "(" then return inner_list(s, at + 1) end
  return item(s, at + 1)
end

local function dictionary(s)
  local members, at = {}, s:match "^[ \t]*()"
  s = s:gsub("[ \t]+$", "")
  while at <= #s do
    local key, after = s:match(key_at, at)
    if not key or members[key] then fail() end
    members[key], at = member(s, after)
    members[#members + 1] = key
    if at > #s then break end
    at = s:match("^[ \t]*,[ \t]*()", at) or fail()
    if at > #s or #members > MEMBERS_MOST then fail() end
  end
  return members
end

--- The members by name, and their names in order as a list; nil and a reason if it is none, or a name stands twice.
---@param text string the field's value
---@return table? members, string? reason
function structured.dictionary(text)
  local ok, members = pcall(dictionary, text)
  if ok then return members end
  if members ~= structured then error(members, 0) end
  return nil, "it is not a dictionary of structured fields"
end

return structured

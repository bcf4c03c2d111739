-- body.replace - replace words in text responses while they stream through.
--
--   local edit = require "body.replace" { words = { ["internal.example"] = "www.example.com" } }
--   gate.route { "/*", policies = { edit }, upstream = app }
--
-- A word is found across the borders of pieces too, and nothing is held back but
-- what may be the beginning of one. `types` are the media types to edit. Origins
-- are not offered compression, which would only have to be undone; put body.compress before this one to compress what
-- goes to the client.

local gate = require "moongate"

---@param given { words: table<string, string>, types: string[]? }
---@return table policy
return function(given)
  local options = gate.options("body.replace", given, {
    words = { "table", needed = true, expect = "a table of words and what stands for them" },
    types = { "strings", default = { "text/html", "text/plain" } },
  })
  local types = {}
  for _, name in ipairs(options.types) do types[name:lower()] = true end
  for from, to in pairs(options.words) do
    if type(from) ~= "string" or from == "" or type(to) ~= "string" then
      error("body.replace: words must be a table of strings, by strings that are not empty", 2)
    end
  end

  local function attempt(req)
    req.headers["accept-encoding"] = nil
  end

  local function response(_, res)
    if res.status == 206 then return end
    local media_type = (res.headers["content-type"] or ""):match("^[^;%s]+")
    if not media_type or not types[media_type:lower()] then return end
    for from, to in pairs(options.words) do res:replace(from, to) end
  end

  return { name = "body.replace", attempt = attempt, response = response }
end

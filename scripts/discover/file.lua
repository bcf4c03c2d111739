-- discover.file - the peers that a file lists.
--
--   local listed = require "discover.file" { path = "/etc/moongate/app.peers" }
--   gate.upstream("app", { discover = listed, discover_interval = 2 })
--
-- A line has an address, perhaps a weight and a zone: `10.0.0.1:8080 3 a`; behind # is a comment. Or the file is JSON:
-- a list of addresses, or of objects with `address`, `weight`, `zone`. It is read as soon as it changes, also when it
-- is reached by symbolic links and one of them does, as Kubernetes turns them; and each `discover_interval`, for where
-- changes are not told, such as on a network's file system. Write another file and rename it, so that no half of it is
-- ever read. A faulty one changes nothing, and the log says what is wrong.

local gate = require "moongate"

local function read_lines(text)
  local list, number = {}, 0
  for line in (text .. "\n"):gmatch "(.-)\r?\n" do
    number = number + 1
    local words = {}
    for word in line:gsub("#.*", ""):gmatch "%S+" do words[#words + 1] = word end
    local weight = tonumber(words[2] or 1)
    if not weight or #words > 3 then
      return nil, ("line %d: an address, a weight and a zone are needed"):format(number)
    end
    if words[1] then list[#list + 1] = { words[1], weight = weight, zone = words[3] } end
  end
  return list
end

local function read_json(text)
  local list, problem = gate.json.decode(text)
  if type(list) ~= "table" then return nil, "it is no JSON: " .. tostring(problem) end
  local peers = {}
  for i, each in ipairs(list) do
    peers[i] = type(each) == "table" and { each.address, weight = each.weight, zone = each.zone } or each
  end
  return peers
end

---@param given { path: string }
---@return { find: (fun(): table?, string?), wait: fun(seconds: number): boolean }
return function(given)
  local options = gate.options("discover.file", given, { path = { "string", needed = true } })
  local watch

  local function find()
    -- Before it is read, so that no change is missed; anew when a rollback has begun this anew.
    if not (watch and watch:is_open()) then watch = gate.watch(options.path) end
    local file, problem = io.open(options.path)
    if not file then return nil, problem end
    local text = file:read "*a"
    file:close()
    local list, wrong = (text:match "^%s*%[" and read_json or read_lines)(text)
    return list, wrong and ("%s: %s"):format(options.path, wrong)
  end

  local function wait(seconds) return watch:wait(seconds) end

  return { find = find, wait = wait }
end

-- auth.basic - ask for a name and a password (RFC 7617).
--
--   local basic = require "auth.basic" { users = { alice = "$y$j9T$3tB0..." } }
--   local files = require "auth.basic" { file = "/etc/moongate/users", realm = "garden" }
--   gate.route { "/private/*", policies = { basic }, upstream = app }
--
-- users      names, and hashes of their passwords as mkpasswd, `openssl passwd -6` and `htpasswd -nB` make them
--            (bcrypt, SHA-crypt, scrypt, yescrypt); or a function(name, password) that says true or false, and may wait
-- file       or a file of them, as htpasswd -B writes it; read anew with the script
-- realm      what the browser shows, "private" if not given
-- remember   seconds that a worker knows a password again, 300 if not given; 0: each request is checked
--
-- To check a hash takes long by intent (bcrypt with cost 10: 50 ms; yescrypt: 17 ms), so a thread of the worker
-- does it while others are served, one at a time. Passwords that were right, and wrong ones, are then known
-- again by a digest for a while. Who guesses many keeps the others waiting: let limit.rate stand in front.
-- The origin is told in x-user who it was.

local gate = require "moongate"
local lru = require "store.lru"

local EXPECTED = "a table of names and hashes of passwords, or a function(name, password)"

local function check_users(users)
  if type(users) == "function" then return users end
  if type(users) ~= "table" or not next(users) then return nil end
  for name, hash in pairs(users) do
    if not gate.crypto.is_password_hash(hash) then
      return nil, nil, (": %s has no hash that is known; make one by mkpasswd, or htpasswd -nB"):format(name)
    end
  end
  return users
end

local function read_file(path)
  local file, problem = io.open(path)
  if not file then return nil, nil, ": " .. problem end
  local users = {}
  for line in file:lines() do
    local name, hash = line:match "^([^:#%s][^:]*):(%S+)"
    if name then users[name] = hash end
  end
  file:close()
  return check_users(users)
end

---@param given { users: table<string, string>|function?, file: string?, realm: string?, remember: number? }
---@return table policy
return function(given)
  local options = gate.options("auth.basic", given, {
    users = { "any", expect = EXPECTED, read = check_users },
    file = { "any", expect = "a file with a line name:hash for each user", read = read_file },
    realm = { "string", default = "private" },
    remember = { "seconds", default = 300 },
  })
  local users = options.users or options.file
  if not users or options.users and options.file then error("auth.basic: it takes either users or a file", 2) end
  local challenge = { ["www-authenticate"] = ('Basic realm="%s", charset="UTF-8"'):format(options.realm) }

  local right, wrong = lru(1000), lru(1000)         -- apart, so that guesses drive out nobody who is known
  local salt = gate.crypto.random(32)
  local anyone = type(users) == "table" and select(2, next(users))

  local check = gate.coalesce(function(_, name, password)
    if type(users) == "function" then return users(name, password) end
    local known = users[name] ~= nil
    local fits, problem = gate.crypto.password(password, users[name] or anyone)     -- it takes as long for no user
    if problem then return nil, problem end
    return fits and known
  end)

  local function knows(name, password)
    local digest = gate.crypto.sha256(salt .. name .. "\0" .. password)
    if right:get(digest) then return true end
    if wrong:get(digest) then return false end
    local fits, problem = check(digest, name, password)
    if not problem then (fits and right or wrong):set(digest, true, gate.time() + options.remember) end
    return fits, problem
  end

  local function access(req)
    req.headers["x-user"] = nil             -- whatever the client claims
    local scheme, encoded = (req.headers.authorization or ""):match("^(%a+) +(%S+)$")
    local text = scheme and scheme:lower() == "basic" and gate.base64.decode(encoded)
    local name, password = (text or ""):match("^([^:%c]+):(%C*)$")
    if not name then return 401, "a name and a password are needed\n", challenge end
    local fits, problem = knows(name, password)
    if problem then return 503, problem .. "\n", { ["retry-after"] = "1" } end
    if not fits then return 401, "the name or the password is wrong\n", challenge end
    req.headers["x-user"] = name
  end

  return { name = "auth.basic", access = access }
end

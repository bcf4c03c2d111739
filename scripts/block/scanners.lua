-- block.scanners - turn away those who look for holes: by what they call themselves, and by what they ask for.
--
--   gate.use(require "block.scanners" { except = { "10.0.0.0/8" } })
--
-- agents    words in User-Agent that only such tools have, case-less; more of them: `more_agents`
-- paths     beginnings of paths that nobody asks for who knows this site; more of them: `more_paths`. A site that has
--           one of them gives a list of its own
-- nameless  true: who sends no User-Agent is turned away, too
-- strikes   so many of these from one client within `within` seconds (5, 60), and it is banned for `ban` seconds (600):
--           whatever it asks for. 0: nobody is banned
-- status    403, or 404, which tells less
-- by        function(req): whose address it is, where another proxy stands in front; the client's if not given
-- except    networks of clients that are not looked at
-- name      policies that share it share their bans, in the gate.shared of this name, of `size` ("1M")
--
-- Bans are over all workers. Many clients may share one address, so keep `ban` short. This keeps noise away from an
-- application; it does not make a hole in it harmless.

local gate = require "moongate"

local AGENTS = {
  "acunetix", "dirbuster", "feroxbuster", "ffuf", "gobuster", "masscan", "nessus", "netsparker", "nikto", "nmap",
  "nuclei", "openvas", "sqlmap", "wfuzz", "wpscan", "zgrab",
}
local PATHS = {
  "/.env", "/.git/", "/.svn/", "/.aws/", "/.ssh/", "/.htaccess", "/.htpasswd", "/.vscode/", "/wp-login.php",
  "/wp-admin", "/xmlrpc.php", "/phpmyadmin", "/pma/", "/cgi-bin/", "/vendor/phpunit", "/actuator/env",
  "/server-status", "/boaform/", "/hnap1", "/owa/auth", "/solr/admin", "/_ignition/",
}

local function joined(list, more)
  local out = {}
  for _, word in ipairs(list) do out[#out + 1] = word:lower() end
  for _, word in ipairs(more) do out[#out + 1] = word:lower() end
  return out
end

local function read_networks(value)
  local networks, reason = gate.networks(value)
  if not networks then return nil, nil, ": " .. reason end
  return networks
end

---@param given { agents: string[]?, more_agents: string[]?, paths: string[]?, more_paths: string[]?,
---  nameless: boolean?, strikes: integer?, within: number?, ban: number?, status: integer?, by: (fun(req): string?)?,
---  except: string[]?, name: string?, size: (number|string)? }?
---@return table policy
return function(given)
  local options = gate.options("block.scanners", given, {
    agents = { "strings", default = AGENTS }, more_agents = { "strings", default = {} },
    paths = { "strings", default = PATHS }, more_paths = { "strings", default = {} },
    nameless = { "boolean", default = false },
    strikes = { "count", default = 5 },
    within = { "seconds", above = 0, default = 60 },
    ban = { "seconds", above = 0, default = 600 },
    status = { { 403, 404 }, default = 403 },
    by = { "function", default = function(req) return req.client.ip end },
    except = { "any", expect = "a list of networks", read = read_networks },
    name = { "string", default = "block.scanners" },
    size = { "size", default = 2 ^ 20 },
  })
  local agents, paths = joined(options.agents, options.more_agents), joined(options.paths, options.more_paths)
  local known = gate.shared(options.name, options.size)
  -- What an agent's name was found to be: there are few, and looking for all words takes a while.
  local judged = require "store.lru" (1000)

  local function judge(agent)
    local lower = agent:lower()
    for _, word in ipairs(agents) do
      if lower:find(word, 1, true) then return "bad" end
    end
    return "good"
  end

  local function is_bad_agent(agent)
    if not agent or agent == "" then return options.nameless end
    if #agent > 512 then agent = agent:sub(1, 512) end
    local verdict = judged:get(agent)
    if not verdict then
      verdict = judge(agent)
      judged:set(agent, verdict)
    end
    return verdict == "bad"
  end

  local function is_bad_path(path)
    local lower = path:lower()
    for _, beginning in ipairs(paths) do
      if lower:sub(1, #beginning) == beginning then return true end
    end
    return false
  end

  local function strike(ip)
    if options.strikes == 0 then return end
    local count = known:incr("strikes " .. ip, 1, 0, options.within)
    if count and count >= options.strikes and known:add("ban " .. ip, true, options.ban) then
      gate.log.info(("block.scanners: %s is banned for %g s"):format(ip, options.ban))
    end
  end

  local function refuse()
    return options.status, options.status == 404 and "not found\n" or "no\n"
  end

  local function access(req)
    local ip = options.by(req)
    if not ip then return end
    if options.except and options.except:find(ip) then return end
    if options.strikes > 0 and known:get("ban " .. ip) then return refuse() end
    if is_bad_agent(req.headers["user-agent"]) or is_bad_path(req.path) then
      strike(ip)
      return refuse()
    end
  end

  return { name = "block.scanners", access = access }
end

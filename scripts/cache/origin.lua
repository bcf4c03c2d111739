-- cache.origin - what was not in the cache, or is stale there, is asked for and stored: no policy, a part of cache.lua.

local gate = require "moongate"
local rules = require "cache.rules"
local serve = require "cache.serve"

local origin = {}

local PASS = 10                 -- seconds for which it is remembered that a key gives nothing to be stored
local CONDITIONS = { "if-none-match", "if-modified-since", "range", "if-range" }

-- The client's own conditions, which are put aside while the cache asks for itself.
local function put_aside(req)
  local asked = {}
  for _, name in ipairs(CONDITIONS) do
    asked[name] = req.headers[name]
    req.headers[name] = nil
  end
  return asked
end

local function put_back(req, asked)
  for _, name in ipairs(CONDITIONS) do req.headers[name] = asked[name] end
end

-- When it came, and how long it took.
local function moment(began)
  return { now = gate.now(), wall = gate.time(), delay = gate.now() - began }
end

-- The origin says that what is stored still counts. A spec that says so; nil if it must not be stored any more.
local function renewed(store, options, asked, found, headers, at)
  local fields = rules.renew(store:fields(found), headers)
  local spec = rules.judge(asked, found.times.status, rules.as_headers(fields), at, options)
  return spec, fields
end

-- May it be used, though the origin has failed (RFC 5861 4)?
local function bears_errors(found, control)
  local times = found.times
  if bit.band(times.flags, rules.NO_STALE + rules.NO_CACHE) ~= 0 then return false end
  local most = rules.seconds(control["stale-if-error"]) or times.if_error
  return gate.now() - times.born - times.fresh < most
end

--- Forwards the request, stores what comes, or answers with what is stored after all.
---@param job { key: string, found: moongate.Cached?, why: string, control: table,
---  note: (fun(res, text: string): moongate.Response), count: fun(result: string) }
function origin.ask(store, options, req, next, job)
  local found, key, note, began = job.found, job.key, job.note, gate.now()
  local asked
  local preconditions = req.headers["if-match"] or req.headers["if-unmodified-since"]
  if found and req.method == "GET" and not preconditions then
    local stored = select(2, store:fields(found))
    if stored.etag or stored["last-modified"] then
      asked = put_aside(req)
      req.headers["if-none-match"], req.headers["if-modified-since"] = stored.etag, stored["last-modified"]
    end
  end

  local function confirmed(res)
    local spec, fields = renewed(store, options, req.headers, found, res.headers, moment(began))
    local fresh
    if spec then
      spec.key = key
      fresh = store:refresh(spec, found.id) and store:find(req, key)
    else
      store:purge(key)
    end
    store:release(key, req)
    job.count "revalidated"
    local answered = serve.answer(store, req, fresh or found, asked)
    if not fresh and answered.status ~= 304 then
      for _, field in ipairs(fields) do answered.headers[field[1]] = nil end
      for _, field in ipairs(fields) do answered.headers:add(field[1], field[2]) end
    end
    return note(answered, ("fwd=%s; fwd-status=304"):format(job.why))
  end

  local function keep(res)
    if req.method ~= "GET" or job.control["no-store"] then return false end
    local spec = rules.judge(req.headers, res.status, res.headers, moment(began), options)
    if not spec then return false end
    spec.key = key
    -- What each request must ask for anew is nothing to wait for.
    if bit.band(spec.flags, rules.NO_CACHE) ~= 0 or gate.now() - spec.born >= spec.fresh then
      store:release(key, req, PASS)
    end
    return store:fill(req, spec)
  end

  return next(req, function(_, res)
    local status = res.status
    if asked and status == 304 then return confirmed(res) end
    if asked then put_back(req, asked) end
    if found and status >= 500 and bears_errors(found, job.control) then
      store:release(key, req)
      job.count "stale"
      return note(serve.answer(store, req, found, req.headers), ("hit; fwd=stale; fwd-status=%d"):format(status))
    end
    local kept = keep(res)
    job.count "miss"
    if not kept then store:release(key, req, PASS) end
    note(res, ("fwd=%s%s"):format(job.why, kept and "; stored" or ""))
  end)
end

-- ---- While the client already has the stale one (RFC 5861 3). ----

local function pick_peer(upstream)
  local able = {}
  for _, p in ipairs(upstream and upstream.peers or {}) do
    if p.healthy then able[#able + 1] = p end
  end
  return able[1] and able[math.random(#able)]
end

local function fetch_and_store(store, options, job)
  local began, since = gate.now(), store:purges()
  local res = job.peer:fetch(job.target, { headers = job.headers, max_size = options.max_body })
  if res.status == 0 or res.status >= 500 then return end
  local at = moment(began)
  if res.status == 304 then
    local fields = rules.renew(job.fields, res.headers)
    local spec = rules.judge(job.asked, job.status, rules.as_headers(fields), at, options)
    if not spec then return store:purge(job.key) end
    spec.key = job.key
    return store:refresh(spec, job.id)
  end
  local spec, why = rules.judge(job.asked, res.status, res.headers, at, options)
  if not spec then return why ~= "stale" and store:purge(job.key) end
  spec.key = job.key
  store:put(spec, res.body, since)
end

--- Asks the origin anew behind the client's back, unless somebody is at it: one of the upstream's healthy peers, with
--- this request's fields.
function origin.refresh(store, options, req, key, found)
  local peer = pick_peer(req.upstream)
  if not peer or not store:claim(key, 60) then return end
  local fields, stored = store:fields(found)
  local headers, asked = {}, {}
  for name in pairs(req.headers) do
    headers[name] = req.headers:all(name)
    asked[name:lower()] = req.headers[name]
  end
  for _, name in ipairs(CONDITIONS) do
    asked[name] = nil
    for given in pairs(headers) do
      if given:lower() == name then headers[given] = nil end
    end
  end
  headers["if-none-match"], headers["if-modified-since"] = stored.etag, stored["last-modified"]
  local job = {
    peer = peer, key = key, id = found.id, status = found.times.status, fields = fields, headers = headers,
    asked = asked, target = req.raw_path .. (req.query and "?" .. req.query or ""),
  }
  gate.after(0, function()
    local worked, problem = pcall(fetch_and_store, store, options, job)
    store:release(key)
    if not worked then error(problem, 0) end
  end)
end

return origin

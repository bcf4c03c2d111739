-- cache.purge - what is stored goes before its time: by unsafe requests, and by PURGE: no policy, a part of cache.lua.

local gate = require "moongate"

local purge = {}

local safe = { GET = true, HEAD = true, OPTIONS = true, TRACE = true }

-- The key of a URL that stands in a field of a response to `key`, if it is of the same origin; nil.
local function resolve(key, url)
  local host = key:match "^%a+://[^/?]*"
  if not host or not url or url == "" then return nil end
  url = url:gsub("#.*$", "")
  if url:match "^%a[%w+.-]*://" then
    return url:sub(1, #host):lower() == host and url:find("^[/?]", #host + 1) and host .. url:sub(#host + 1) or nil
  end
  if url:sub(1, 2) == "//" then return resolve(key, host:match "^%a+:" .. url) end
  if url:sub(1, 1) == "/" then return host .. url end
  return (key:match "^([^?]*/)" or host .. "/") .. url
end

--- Forwards a request that may change what is stored, and purges it when it did (RFC 9111 4.4).
---@param key_of? fun(req): string
function purge.after(store, req, next, key_of)
  if safe[req.method] then return next(req) end
  local url = store:key(req)
  local key = key_of and key_of(req) or url
  return next(req, function(_, res)
    if res.status >= 400 then return end
    store:purge(key)
    for _, name in ipairs { "location", "content-location" } do
      local other = resolve(url, res.headers[name])
      if other then store:purge(other) end
    end
  end)
end

--- Answers PURGE of clients in options.purge: the URL; all that begins so, if it ends in "*"; or what bears one of the
--- tags in a Cache-Tag field.
function purge.by_request(store, options)
  local networks, problem = gate.networks(options.purge)
  if not networks then error("cache: purge: " .. problem, 3) end

  return function(req)
    if not networks:find(req.client.ip) then return 403, "not from here\n" end
    local tags, count = req.headers["cache-tag"], 0
    if tags then
      for tag in tags:gmatch "[^%s,]+" do count = count + store:purge_tag(tag) end
      return 200, { purged = count }
    end
    local key = options.key and options.key(req) or store:key(req)
    if key:sub(-1) == "*" then return 200, { purged = store:purge_prefix(key:sub(1, -2)) } end
    return 200, { purged = store:purge(key) }
  end
end

return purge

-- site_and_api - a single-page application's files, and the API that it calls, at one address.
--
--   ROOT=dist API=127.0.0.1:3000 moongate site_and_api.lua
--   curl http://localhost:8080/ http://localhost:8080/any/page http://localhost:8080/api/things
--
-- Files whose names have a hash in them may be kept for a year, the page itself is asked for each time. index.html
-- answers for all paths that are no files, as the application has its own idea of pages. app.js.br beside app.js goes
-- to browsers that take it.

local gate = require "moongate"

gate.listen(os.getenv "LISTEN" or ":8080")

gate.route { "/api/*", policies = { require "rewrite.prefix" { strip = "/api" } },
  upstream = gate.upstream("api", { peers = { os.getenv "API" or "127.0.0.1:3000" } }) }

gate.route {
  "/*",
  policies = { require "headers.security" { policy = "default-src 'self'" } },
  handler = require "answer.files" {
    root = os.getenv "ROOT" or "dist", fallback = "index.html",
    cache_control = function(path)
      return path:find "%-%x%x%x%x%x%x%x%x%." and "public, max-age=31536000, immutable" or "no-cache"
    end,
  },
}

-- answer.files.types - the content type of a file, by the ending of its name.
--
--   local text = types.of("js/app.js", { wasm = "application/wasm" })

local types = {}

local known = {
  html = "text/html", htm = "text/html", css = "text/css", js = "text/javascript", mjs = "text/javascript",
  txt = "text/plain", md = "text/markdown", csv = "text/csv", xml = "application/xml", json = "application/json",
  map = "application/json", webmanifest = "application/manifest+json", atom = "application/atom+xml",
  rss = "application/rss+xml", ics = "text/calendar", vtt = "text/vtt",
  svg = "image/svg+xml", png = "image/png", jpg = "image/jpeg", jpeg = "image/jpeg", gif = "image/gif",
  webp = "image/webp", avif = "image/avif", ico = "image/x-icon", bmp = "image/bmp",
  woff = "font/woff", woff2 = "font/woff2", ttf = "font/ttf", otf = "font/otf",
  mp3 = "audio/mpeg", ogg = "audio/ogg", wav = "audio/wav", flac = "audio/flac", m4a = "audio/mp4",
  mp4 = "video/mp4", webm = "video/webm", mov = "video/quicktime",
  pdf = "application/pdf", wasm = "application/wasm", zip = "application/zip", gz = "application/gzip",
  tar = "application/x-tar", zst = "application/zstd",
}

local UTF8 = { ["application/json"] = true, ["application/xml"] = true, ["image/svg+xml"] = true }

---@param path string
---@param more table<string, string> types by ending, which count first
---@return string
function types.of(path, more)
  local ending = (path:match "%.([%w]+)$" or ""):lower()
  if more[ending] then return more[ending] end
  local found = known[ending] or "application/octet-stream"
  return (found:find "^text/" or UTF8[found]) and found .. "; charset=utf-8" or found
end

return types

-- moongate.coding - content codings: bodies decoded before hooks and edits see them, and encoded behind them.
--
-- What an exchange's record has under `coded` is { decode =, encode =, level = }: numbers of codings. The coders
-- themselves are opened with the first piece, so a response without a body costs none.
local ffi = require "ffi"
local C = require "moongate.seam"
local state = require "moongate.state"
local text = ffi.string

local coding = {}

local MORE, FLUSH, END = C.MG_CODE_MORE, C.MG_CODE_FLUSH, C.MG_CODE_END
local SLICE = 64 * 1024         -- of a body that is encoded, at most so much in one run
local OUTPUT = 256 * 1024       -- comes out of a decoder in one run, before the rest of its piece is put back

local pointer_type = ffi.typeof "const char *"
local result = ffi.new "mg_coded"
local encoder_out, decoder_out = ffi.new "mg_coder *[1]", ffi.new "mg_coder *[1]"

local numbers = {
  gzip = C.MG_CODING_GZIP, ["x-gzip"] = C.MG_CODING_GZIP, deflate = C.MG_CODING_DEFLATE, br = C.MG_CODING_BROTLI,
  zstd = C.MG_CODING_ZSTD,
}
local names = {
  [C.MG_CODING_GZIP] = "gzip", [C.MG_CODING_DEFLATE] = "deflate", [C.MG_CODING_BROTLI] = "br",
  [C.MG_CODING_ZSTD] = "zstd",
}

-- Brotli's levels 10 and 11 compute longer over one piece than cpu_budget allows.
local levels = { gzip = { 1, 9, 6 }, br = { 0, 9, 5 }, zstd = { 1, 19, 3 } }

--- The number of a coding that can be decoded; nil for identity and for none; nil and its name if it can't be.
---@return integer? number, string? unknown
function coding.read(value)
  local name = value and value:lower():match "^%s*(.-)%s*$"
  if not name or name == "" or name == "identity" then return nil end
  local number = numbers[name]
  return number, not number and value or nil
end

--- The least and the highest level of a coding that can be written, and the usual one; nil if there is no such one.
function coding.levels(name)
  local l = levels[name]
  if l then return l[1], l[2], l[3] end
end

function coding.number(name) return numbers[name] end

local function explain(code, number)
  local name = names[number]
  if code == C.MG_MALFORMED then return ("the body is not %s, as its Content-Encoding says"):format(name) end
  if code == C.MG_CUT then return ("the body ends before its %s coding does"):format(name) end
  if code == C.MG_FULL then
    return ("the body is longer than max_decoded_size (%.0f), or than max_decoded_ratio (%g) times its %s coding")
      :format(state.settings.max_decoded_size, state.settings.max_decoded_ratio, name)
  end
  return "out of memory for " .. name
end

-- Runs `bytes` through the coder: what comes out, and how many bytes it has used; nil and the code on failure. Stops
-- early when `most` has come out.
local function run(coder, bytes, how, most)
  local first, at, total = ffi.cast(pointer_type, bytes), 0, 0
  local out, n
  repeat
    local code = C.mg_coder_run(coder, first + at, #bytes - at, how, result)
    if code < 0 then return nil, code end
    at = at + result.used
    local len = result.bytes.len
    if len > 0 then
      local piece = text(result.bytes.ptr, len)
      total = total + len
      if not out then
        out = piece
      else
        if not n then out, n = { out }, 1 end
        n = n + 1
        out[n] = piece
      end
    end
  until code == 0 or (total >= most and at < #bytes)
  return n and table.concat(out) or out or "", at
end

local function open_decoder(view, number, most)
  local settings = state.settings
  local code = C.mg_decoder_open(view.task, number, most or settings.max_decoded_size, settings.max_decoded_ratio,
    decoder_out)
  if code < 0 then return nil, explain(code, number) end
  return decoder_out[0]
end

--- What a hook is to see of a piece; the rest of it is put back.
function coding.before(coded, view, side, piece, last)
  if not coded.decode then
    if #piece <= SLICE then return piece end
    C.mg_body_put_back(view, side, #piece - SLICE)
    return piece:sub(1, SLICE)
  end
  if not coded.decoder then
    local opened, reason = open_decoder(view, coded.decode)
    if not opened then error(reason, 0) end
    coded.decoder = opened
  end
  local decoder = coded.decoder
  local data, used = run(decoder, piece, last and END or MORE, OUTPUT)
  if not data then error(explain(used, coded.decode), 0) end
  if used < #piece then C.mg_body_put_back(view, side, #piece - used) end
  if last then
    coded.decoder = false
    C.mg_coder_close(decoder)
  end
  return data
end

--- What goes out in the place of `data`. All of it, unless more has arrived already or the end has.
function coding.after(coded, view, side, data, last)
  if not coded.encode then return data end
  local encoder = coded.encoder
  if not encoder then
    if C.mg_encoder_open(view.task, coded.encode, coded.level, encoder_out) < 0 then
      error(explain(C.MG_NO_MEMORY, coded.encode), 0)
    end
    encoder = encoder_out[0]
    coded.encoder = encoder
  end
  if data == "" and not last then return data end
  local out, code = run(encoder, data, last and END or C.mg_body_is_last(view, side) and MORE or FLUSH, math.huge)
  if not out then error(explain(code, coded.encode), 0) end
  if last then
    coded.encoder = false
    C.mg_coder_close(encoder)
  end
  return out
end

--- All of a body, decoded, at most `most` bytes; nil, the code and the reason.
---@return string? text, integer? code, string? reason
function coding.decode(view, number, bytes, most)
  local decoder, reason = open_decoder(view, number, most)
  if not decoder then return nil, C.MG_NO_MEMORY, reason end
  local data, code = run(decoder, bytes, END, math.huge)
  C.mg_coder_close(decoder)
  if data then return data end
  return nil, code, explain(code, number)
end

return coding

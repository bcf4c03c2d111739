-- moongate.resolve - gate.resolve: the addresses of a name, or its SRV records.
local ffi = require "ffi"
local C = require "moongate.seam"
local fiber = require "moongate.fiber"
local problem = require "moongate.problem"
local reason_of = require "moongate.reason"
local text = ffi.string

local slice, record = ffi.new "mg_slice", ffi.new "mg_srv"
local lookup_out, srv_out = ffi.new "mg_lookup_wait *[1]", ffi.new "mg_srv_wait *[1]"

local function addresses_of(name)
  local ticket = C.mg_lookup_open(fiber.task(), name, #name, lookup_out)
  local lookup = lookup_out[0]
  if lookup == nil then return nil, reason_of(ticket) end
  local code = fiber.await(ticket)
  local list, i = {}, 0
  while code == 0 and C.mg_lookup_address(lookup, i, slice) == 0 do
    i = i + 1
    list[i] = text(slice.ptr, slice.len)
  end
  C.mg_lookup_free(lookup)
  if code == C.MG_GONE then fiber.stop() end
  if code < 0 then return nil, reason_of(code) end
  return list
end

local function read_records(wait)
  local list, i = { ttl = C.mg_srv_ttl(wait) }, 0
  while C.mg_srv_record(wait, i, record) == 0 do
    i = i + 1
    list[i] = {
      target = text(record.target.ptr, record.target.len), port = record.port, priority = record.priority,
      weight = record.weight,
    }
  end
  return list
end

local function records_of(name)
  local ticket = C.mg_srv_open(fiber.task(), name, #name, srv_out)
  local wait = srv_out[0]
  if wait == nil then return nil, reason_of(ticket) end
  local code = fiber.await(ticket)
  local list = code == 0 and read_records(wait) or nil
  C.mg_srv_problem(wait, slice)
  local reason = text(slice.ptr, slice.len)
  C.mg_srv_free(wait)
  if code == C.MG_GONE then fiber.stop() end
  return list, not list and reason or nil
end

local kinds = { A = addresses_of, SRV = records_of }

--- The addresses of a name; with { type = "SRV" } its records { target =, port =, priority =, weight = }, in a list
--- with `ttl`, the seconds for which they hold. Or nil and the reason.
---@param name string
---@param options { type: string }?
---@return table? list, string? reason
return function(name, options)
  if type(name) ~= "string" or name == "" then error("gate.resolve takes a name, got " .. problem.show(name), 2) end
  local ask = addresses_of
  if options ~= nil then
    if type(options) ~= "table" then
      error('gate.resolve takes options like { type = "SRV" }, got ' .. problem.show(options), 2)
    end
    for key in pairs(options) do
      if key ~= "type" then
        error(("gate.resolve: no such option: %s%s"):format(problem.show(key), problem.remedy(key, { type = true })), 2)
      end
    end
    ask = kinds[options.type or "A"]
    if not ask then
      error('gate.resolve: type must be "A" (addresses of both kinds) or "SRV", got ' .. problem.show(options.type), 2)
    end
  end
  return ask(name)
end

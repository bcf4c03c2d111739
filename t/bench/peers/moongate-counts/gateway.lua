-- Ten peers, of which some fail each request: t/bench/counts compares what is counted with what they have seen.
local gate = require "moongate"

gate.set { access_log = "off", log_level = "error" }
gate.listen(os.getenv "IP" .. ":" .. os.getenv "PORT")

local peers = {}
for address in os.getenv("PEERS"):gmatch "%S+" do peers[#peers + 1] = address end
-- With eject declared an answer of 500 counts as a failure; nobody is ever ejected for it here.
local ten = gate.upstream("ten", { peers = peers, retry = false, eject = { consecutive = 0, errors = 0 } })

gate.route { "/counts", handler = function()
  local counts = {}
  for i, peer in ipairs(ten.peers) do counts[i] = { peer.requests, peer.failed, peer.active } end
  return 200, counts
end }
gate.route { "/*", upstream = ten }

-- What the five hooks do, as two of HAProxy's actions.
local turn, count = 0, 0

core.register_action("gate", { "http-req" }, function(txn)
  local fetch = txn.sf
  local host, path, client = fetch:req_hdr("host"), fetch:path(), fetch:req_hdr("x-client")
  txn.http:req_set_header("X-Gate", host .. path .. client)
  if path:sub(1, 7) == "/admin/" then txn:done() end
  turn = turn % 2 + 1
  txn:set_var("txn.server", turn)
end)

core.register_action("served", { "http-res" }, function(txn)
  txn.http:res_set_header("X-Served-By", "gate")
  count = count + 1
end)

std = "luajit"
max_line_length = 120
self = false                      -- a method may leave self alone
unused_args = false               -- a hook names what it is called with, whether it looks at it or not
files["lua/moongate/blocking.lua"] = { globals = { "io", "os", "package", "print" } }
files["lua/moongate/coroutine.lua"] = { globals = { "coroutine" } }
files["lua/moongate/finalizers.lua"] = { globals = { "debug", "newproxy" } }
files["t/bench/peers/nginx-lua"] = { globals = { "ngx" } }
files["t/bench/peers/haproxy-lua"] = { read_globals = { "core" } }

-- What moongate.service serves until you change it; then: systemctl reload moongate

local gate = require "moongate"
gate.listen "127.0.0.1:8080"
gate.route { "/*", handler = function() return 200, "moongate serves\n" end }

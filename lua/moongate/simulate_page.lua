-- moongate.simulate_page - what simulated runs came to, as a page with charts.
local page = {}

function page.write(path)
  error("moongate sim: --html " .. path .. ": no page yet", 0)
end

return page

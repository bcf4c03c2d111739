-- moongate.works - what enter.c enters for a phase: functions work(slot, view), by number.
--
-- A phase of a route's exchanges has the number that works.key makes; one that was not
-- needed yet has none, and `works.first` is called in its place, with the phase
-- behind. [0] is the coroutine in which the next one will run, [-1] what closes an exchange: close(slot).
local works = {}

--- The number of a phase of the route's exchanges; -1 stands for those that have none, or none yet.
function works.key(route, phase)
  return (route + 1) * 16 + phase + 1
end

return works

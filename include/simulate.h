/* simulate.h - `moongate sim`: tries out how the script's balancers spread requests, in simulated time. */
#pragma once

/* argv[0] is the verb. The process's exit status. */
int mg_simulate(int argc, char **argv);

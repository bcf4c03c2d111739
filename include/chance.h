/* chance.h - numbers by chance that are the same each time.
 *
 * A number is asked for by what it is for, not drawn from a stream, so that two runs that differ in one thing agree in
 * all others: request 17 takes as long with every balancer. mg_chance() and mg_law_draw() are simulation.h's. */
#pragma once

#include "simulation.h"

/* What numbers are for. */
enum mg_chance_of {
    MG_CHANCE_SERVICE, /* and the one behind it */
    MG_CHANCE_SERVICE_SECOND,
    MG_CHANCE_FAILURE,
    MG_CHANCE_WORKER,
    MG_CHANCE_OF_LUA = 16, /* from here on moongate.simulate's */
};

/* world.h - one simulated run: the script's generations, its clients and servers, and the time that passes for them. */
#pragma once

#include "simulation.h"

/* A script, loaded into a VM for each worker. */
struct mg_world_script {
    const char *path;
    mg_slice setup;    /* for moongate.simulated, in every VM */
    unsigned *numbers; /* generations so far, counted up */
};

/* Loads the script for this many workers. NULL, or what is wrong, as text for the user, valid until the next call.
 * *about: what moongate.simulated says of it, valid until mg_world_close(). */
const char *mg_world_open(const struct mg_world_script *script, unsigned workers, bool own_view, mg_slice *about);
/* Runs the plan. NULL, or what is wrong. */
const char *mg_world_run(mg_simulation *s);
void mg_world_close(void);

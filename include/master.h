/* master.h - holds the sockets, starts the workers, replaces those that died. Runs no user code, parses no traffic. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct mg_master_options {
    const char *script;
    const char *control;                   /* --control; NULL: no control socket */
    bool watch;                            /* --watch: reload when the script's files change */
    int workers;                           /* --workers; 0: as the script says */
    size_t shared;                         /* bytes for what workers share */
    bool log_level_given, error_log_given; /* they stand, whatever the script says */
};

/* The whole life of `moongate gateway.lua`. The exit status. */
int mg_master_run(const struct mg_master_options *options);

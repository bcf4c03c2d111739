/* worker.h - one process that serves: one loop, one generation in force. */
#pragma once

#include "canary.h"

struct mg_sources;

struct mg_worker_options {
    int number;          /* from 0 */
    int channel;         /* to the master */
    unsigned generation; /* the number of the one in force, which it loads */
    const char *script;
    const struct mg_sources *sources; /* of that one; NULL: what lies on the disk */
    unsigned beside;                  /* the number of the one that is kept, or tried out; 0: there is none */
    const struct mg_sources *beside_sources;
    struct mg_canary_terms canary;          /* by which it is tried out; a share of 0: it is kept */
    bool watch;                             /* say which files were loaded */
    bool log_level_stands, error_log_given; /* whatever the script says */
};

/* Loads, reports, serves, until the master says stop or is gone. The process's exit status. */
int mg_worker_run(const struct mg_worker_options *options);

/* tally.h - what became of the exchanges of each generation, counted by all workers. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct mg_tally {
    uint64_t exchanges; /* that have ended; and connections whose hooks threw, which came to none */
    uint64_t failures;  /* of those, answered with 5xx */
    uint64_t throws;    /* of those, with a hook that threw or overran its budget */
};

/* The master, before it forks. False with errno. */
bool mg_tally_start(void);
/* The generation of this number begins at 0. The last 16 numbers are told apart. */
void mg_tally_clear(unsigned generation);
/* What worker `worker` counts for a generation: its alone to write. Below 0, or without mg_tally_start: nobody reads
 * it. */
struct mg_tally *mg_tally_of(int worker, unsigned generation);
/* Of all workers. */
struct mg_tally mg_tally_sum(unsigned generation);

/* tally.c - what became of the exchanges of each generation, counted by all workers.
 *
 * A worker adds to its own row without a lock; a worker that takes the place of
 * one that died goes on with that one's row. Each master has a table of its own,
 * since the processes of an upgrade number their generations by themselves. */
#include "tally.h"

#include <string.h>
#include <sys/mman.h>

#include "shared.h"

enum { TOLD_APART = 16 };

struct row {
    _Alignas(64) struct mg_tally of[TOLD_APART];
};

static struct row *rows;

bool mg_tally_start(void)
{
    void *map = mmap(NULL, MG_WORKERS_MAX * sizeof(*rows), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    rows = map == MAP_FAILED ? NULL : map;
    return rows;
}

struct mg_tally *mg_tally_of(int worker, unsigned generation)
{
    static struct mg_tally unread;

    return rows && worker >= 0 ? &rows[worker].of[generation % TOLD_APART] : &unread;
}

void mg_tally_clear(unsigned generation)
{
    for (int i = 0; i < MG_WORKERS_MAX; i++)
        memset(mg_tally_of(i, generation), 0, sizeof(struct mg_tally));
}

struct mg_tally mg_tally_sum(unsigned generation)
{
    struct mg_tally sum = { 0 };

    for (int i = 0; i < MG_WORKERS_MAX; i++) {
        const struct mg_tally *t = mg_tally_of(i, generation);
        sum.exchanges += __atomic_load_n(&t->exchanges, __ATOMIC_RELAXED);
        sum.failures += __atomic_load_n(&t->failures, __ATOMIC_RELAXED);
        sum.throws += __atomic_load_n(&t->throws, __ATOMIC_RELAXED);
    }
    return sum;
}

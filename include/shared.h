/* shared.h - memory and values shared by all workers.
 *
 * One region is mapped before the first fork; everything shared lies in it
 * and holds offsets, never pointers. Locks are robust: when a holder is
 * killed the next one repairs and goes on. The seam's dictionaries (dict.c)
 * lie in places of their own.
 */
#pragma once

#include <pthread.h>
#include <stddef.h>

#include "status.h"

enum { MG_WORKERS_MAX = 64 };

/* The master, before it forks: reserves `size` bytes of address space; pages come with use. False with errno. */
bool mg_shared_start(size_t size);
/* Which worker this process is, below MG_WORKERS_MAX; -1 for the master and `moongate check`. */
void mg_shared_worker(int number);
/* The same again: -1 before the call above. */
int mg_shared_worker_number(void);
/* One more than the highest worker's number so far, at least 1: how many slots kept a worker are in use. */
unsigned mg_shared_workers(void);

/* A zeroed piece of shared memory of this size under this name (up to 255 bytes), made when first asked for, never
 * moved, never freed: the same for every worker and generation. NULL when full, or if it stands with another size. */
void *mg_shared_place(mg_slice name, size_t size);
/* The same, with a function that prepares a new place before anybody else gets it; false from it is MG_NO_MEMORY.
 * MG_FULL, or MG_MALFORMED if it stands with another size. */
enum mg_status MG_MUST_CHECK mg_shared_make(mg_slice name, size_t size, bool (*make)(void *place, size_t size),
                                            void **out);
/* A lock that lies in shared memory and outlives its holder: pthread_mutex_lock() then says EOWNERDEAD. */
bool mg_shared_lock_init(pthread_mutex_t *lock);
/* The nth place whose name begins with prefix, for walking them; NULL past the end. */
void *mg_shared_nth(mg_slice prefix, unsigned n);

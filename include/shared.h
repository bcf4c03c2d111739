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
#include <sys/types.h>

#include "status.h"

enum {
    MG_WORKERS_MAX = 64,
    MG_SLOTS_MAX = 4 * MG_WORKERS_MAX, /* processes that drain after an upgrade have workers, too */
};

/* What lies in shared memory is read by another binary after an upgrade. Whoever changes a struct there, or what it
 * means, counts this up: then the memory begins anew. */
enum { MG_SHARED_LAYOUT = 9 };

/* The master, before it forks: reserves `size` bytes of address space; pages come with use. False with errno. */
bool mg_shared_start(size_t size);
/* Or takes the memory that another process has started, of mg_shared_descriptor(), which is closed if it is of no use;
 * then *why says so. */
bool mg_shared_inherit(int fd, const char **why);
int mg_shared_descriptor(void);

/* A slot, below MG_SLOTS_MAX, is a worker's place in what is kept for each of them; the masters give them out, each to
 * its own. -1: none is left. */
int mg_shared_slot_take(pid_t master);
void mg_shared_slot_give(unsigned slot);
/* How often a slot was given out; with it, whether the worker that had it then is still there. */
uint32_t mg_shared_slot_turn(unsigned slot);
bool mg_shared_slot_lives(unsigned slot, uint32_t turn);
/* One that this master has given out; -1: none. */
int mg_shared_slot_of(pid_t master);
/* One more than the highest slot that was ever taken, at least 1. */
unsigned mg_shared_slots(void);

/* Which worker this process is, below MG_WORKERS_MAX, and its slot. */
void mg_shared_worker(int number, unsigned slot);
/* The same again; -1 and 0 in the master and `moongate check`. */
int mg_shared_worker_number(void);
unsigned mg_shared_slot(void);

/* A zeroed piece of shared memory of this size under this name (up to 255 bytes), made when first asked for, never
 * moved, never freed: the same for every worker and generation. NULL when full, or if it stands with another size. */
void *mg_shared_place(mg_slice name, size_t size);
/* The same, with a function that prepares a new place before anybody else gets it; false from it is MG_NO_MEMORY.
 * MG_FULL, or MG_MALFORMED if it stands with another size. */
enum mg_status MG_MUST_CHECK mg_shared_make(mg_slice name, size_t size, bool (*make)(void *place, size_t size),
                                            void **out);
/* From now on names stand for other places than in any other space: a simulation has several machines in one process.
 * Everybody else is in space 0. */
void mg_shared_space(unsigned number);
/* A lock that lies in shared memory and outlives its holder: pthread_mutex_lock() then says EOWNERDEAD. */
bool mg_shared_lock_init(pthread_mutex_t *lock);
/* The nth place whose name begins with prefix, for walking them; NULL past the end. */
void *mg_shared_nth(mg_slice prefix, unsigned n);

/* shared_heap.h - a heap in shared memory: pieces with boundary tags, free ones in bins by size.
 *
 * Offsets, never pointers: each process maps it elsewhere. Whoever uses it has
 * the lock, and makes it anew when somebody died in the middle of a change.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sizes and offsets count units of so many bytes. Smaller pieces than the least are not split off. */
enum { MG_PIECE_UNIT = 16, MG_PIECE_LEAST = 4, MG_PIECE_BINS = 128 };

/* At the front of each piece. A used one's owner puts its own fields in the place of next and previous. */
struct mg_piece {
    uint32_t size : 31, used : 1; /* units, this head included */
    uint32_t before;              /* size of the piece that lies before it; 0 for the first */
    uint32_t next, previous;      /* free: in its bin */
};

/* The free pieces; lies in shared memory, too. */
struct mg_piece_bins {
    uint64_t full[MG_PIECE_BINS / 64]; /* bins that are not empty */
    uint32_t first[MG_PIECE_BINS];
};

/* A process's view of one. */
struct mg_shared_heap {
    struct mg_piece_bins *bins;
    char *zero;     /* where offset 0 would be; 1 is the first */
    uint32_t units; /* of all pieces */
};

static inline void *mg_piece_at(const struct mg_shared_heap *h, uint32_t offset)
{
    return h->zero + (size_t)offset * MG_PIECE_UNIT;
}

static inline uint32_t mg_piece_offset(const struct mg_shared_heap *h, const void *piece)
{
    return (uint32_t)((size_t)((const char *)piece - h->zero) / MG_PIECE_UNIT);
}

/* All of it is one free piece. */
void mg_shared_heap_empty(struct mg_shared_heap *h);
/* NULL when no piece is large enough. */
void *mg_piece_take(struct mg_shared_heap *h, uint32_t units);
void mg_piece_give(struct mg_shared_heap *h, void *piece);

/* shared_heap.c - a heap in shared memory: pieces with boundary tags, free ones in bins by size. */
#include "shared_heap.h"

#include <string.h>

enum { LOOKS = 16 }; /* pieces of one bin that are tried for a fit */

/* Four bins for each doubling. */
static unsigned bin_of(uint32_t units)
{
    unsigned log = 31 - (unsigned)__builtin_clz(units);

    return log < 2 ? units : log * 4 + (units >> (log - 2) & 3);
}

static void bin_add(struct mg_shared_heap *h, struct mg_piece *p)
{
    struct mg_piece_bins *b = h->bins;
    unsigned bin = bin_of(p->size);

    p->used = 0;
    p->previous = 0;
    p->next = b->first[bin];
    if (p->next)
        ((struct mg_piece *)mg_piece_at(h, p->next))->previous = mg_piece_offset(h, p);
    b->first[bin] = mg_piece_offset(h, p);
    b->full[bin / 64] |= (uint64_t)1 << bin % 64;
}

static void bin_remove(struct mg_shared_heap *h, struct mg_piece *p)
{
    struct mg_piece_bins *b = h->bins;
    unsigned bin = bin_of(p->size);

    if (p->next)
        ((struct mg_piece *)mg_piece_at(h, p->next))->previous = p->previous;
    if (p->previous)
        ((struct mg_piece *)mg_piece_at(h, p->previous))->next = p->next;
    else
        b->first[bin] = p->next;
    if (!b->first[bin])
        b->full[bin / 64] &= ~((uint64_t)1 << bin % 64);
}

/* The piece that lies after p; NULL at the heap's end. */
static struct mg_piece *piece_after(const struct mg_shared_heap *h, const struct mg_piece *p)
{
    uint32_t at = mg_piece_offset(h, p) + p->size;

    return at <= h->units ? mg_piece_at(h, at) : NULL;
}

static void set_size(struct mg_shared_heap *h, struct mg_piece *p, uint32_t size)
{
    p->size = size & 0x7fffffff;
    struct mg_piece *after = piece_after(h, p);
    if (after)
        after->before = size;
}

static struct mg_piece *find(struct mg_shared_heap *h, uint32_t units)
{
    struct mg_piece_bins *b = h->bins;
    unsigned bin = bin_of(units), looks = LOOKS;

    for (uint32_t at = b->first[bin]; at && looks--;) {
        struct mg_piece *p = mg_piece_at(h, at);
        if (p->size >= units)
            return p;
        at = p->next;
    }
    /* Whatever lies in a higher bin is large enough. */
    for (unsigned word = ++bin / 64; word < MG_PIECE_BINS / 64; word++) {
        uint64_t bits = b->full[word];
        if (word == bin / 64)
            bits &= ~(uint64_t)0 << bin % 64;
        if (bits)
            return mg_piece_at(h, b->first[word * 64 + (unsigned)__builtin_ctzll(bits)]);
    }
    return NULL;
}

void *mg_piece_take(struct mg_shared_heap *h, uint32_t units)
{
    struct mg_piece *p = find(h, units);

    if (!p)
        return NULL;
    bin_remove(h, p);
    uint32_t rest = p->size - units;
    if (rest >= MG_PIECE_LEAST) {
        set_size(h, p, units);
        struct mg_piece *other = piece_after(h, p);
        other->before = units;
        set_size(h, other, rest);
        bin_add(h, other);
    }
    p->used = 1;
    return p;
}

void mg_piece_give(struct mg_shared_heap *h, void *piece)
{
    struct mg_piece *p = piece, *after = piece_after(h, p);

    if (after && !after->used) {
        bin_remove(h, after);
        set_size(h, p, p->size + after->size);
    }
    if (p->before) {
        struct mg_piece *before = mg_piece_at(h, mg_piece_offset(h, p) - p->before);
        if (!before->used) {
            bin_remove(h, before);
            set_size(h, before, before->size + p->size);
            p = before;
        }
    }
    bin_add(h, p);
}

void mg_shared_heap_empty(struct mg_shared_heap *h)
{
    memset(h->bins, 0, sizeof(*h->bins));
    *(struct mg_piece *)mg_piece_at(h, 1) = (struct mg_piece){ .size = h->units & 0x7fffffff };
    bin_add(h, mg_piece_at(h, 1));
}

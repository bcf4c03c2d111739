/* arena.h - memory that dies with one exchange.
 *
 * An arena lies in its own first chunk; chunks come from a free list of the
 * process. Nothing is freed singly. Running out is sticky: after it every
 * call gives NULL (or an empty slice), and mg_arena_failed() says so once for
 * all of them.
 */
#pragma once

#include <stddef.h>

#include "poison.h"
#include "slice.h"

struct mg_arena_chunk;

/* Only mg_arena_take() below looks inside. */
struct mg_arena {
    char *at, *end; /* what is free of the newest chunk; both aligned */
    struct mg_arena_chunk *chunks;
    bool failed;
};

/* NULL when there is no memory. */
struct mg_arena *mg_arena_new(void);
/* Everything in it, and itself. NULL is allowed. */
void mg_arena_free(struct mg_arena *a);

/* mg_arena_take() when the newest chunk has no room. */
void *mg_arena_grow(struct mg_arena *a, size_t n);

/* n bytes, aligned for any type, not cleared; NULL when out of memory. */
static inline void *mg_arena_take(struct mg_arena *a, size_t n)
{
    if (__builtin_expect(n > (size_t)(a->end - a->at), 0))
        return mg_arena_grow(a, n);
    char *p = a->at;
    a->at += (n + 15) & ~(size_t)15;
    mg_unpoison(p, n);
    return p;
}

/* The same, all zero. */
void *mg_arena_zeroed(struct mg_arena *a, size_t n);
mg_slice mg_arena_copy(struct mg_arena *a, mg_slice s);
/* A copy with a zero at its end; "" when out of memory. */
const char *mg_arena_text(struct mg_arena *a, const char *text);
bool mg_arena_failed(const struct mg_arena *a);

/* Chunks in use by all arenas of the process: for the question what is left open. */
unsigned mg_arena_live(void);
/* Gives the free list back to the system. */
void mg_arena_trim(void);

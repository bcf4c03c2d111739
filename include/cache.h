/* cache.h - responses stored in shared memory, for the core: scripts have the seam's mg_cache_*.
 *
 * An entry is a response under a key and the request fields that chose it. Short
 * ones are copied out at once; a long one is pinned, and read piece by piece, so
 * nobody holds a pointer into shared memory.
 */
#pragma once

#include "arena.h"
#include "block.h"
#include "message.h"
#include "seam.h"
#include "status.h"

struct mg_exchange;

/* What was found. */
struct mg_cache_copy {
    mg_cached about;
    struct mg_block *block; /* the head's, and of a body that is whole here */
    mg_slice body;          /* ptr NULL: it is read from the pinned entry */
    mg_cache *cache;
    uint32_t entry;
    uint32_t pin; /* one more than its number; 0: none */
};

/* A response on its way into a cache. */
struct mg_cache_filling {
    mg_cache *cache;
    mg_cache_spec spec; /* its slices lie in the exchange's arena */
    char *bytes;
    size_t len, room;
    uint64_t since; /* purges that had been when it began */
};

/* What an exchange has of caches; in its arena. */
struct mg_cache_use {
    struct mg_cache_copy copy;       /* copy.block NULL: nothing was found */
    bool answers;                    /* with what was found: the response's fields lie there */
    struct mg_chain answered;        /* what the response lay in before */
    struct mg_cache_filling filling; /* filling.cache NULL: none */
    mg_cache *claimed;
    mg_slice claim; /* its key */
    size_t at, end; /* of the body: what goes to the client next, and up to where */
};

/* mg_cache_found, or MG_NO_MEMORY. `request` chooses among the variants. */
int mg_cache_look(mg_cache *c, mg_slice key, const struct mg_message *request, struct mg_cache_copy *out);
/* Copies `len` bytes of a pinned body. MG_CUT: it is gone. */
enum mg_status MG_MUST_CHECK mg_cache_read(const struct mg_cache_copy *from, size_t at, size_t len, char *to);
void mg_cache_let_go(struct mg_cache_copy *copy);
/* Stores a whole response in the place of the same variant. MG_FULL, or MG_ABSENT: purged since then. */
enum mg_status MG_MUST_CHECK mg_cache_store(mg_cache *c, const mg_cache_spec *spec, mg_slice body, uint64_t since);
uint64_t mg_cache_purged(mg_cache *c);
/* Bytes that all bodies on their way into it may take in a worker. */
size_t mg_cache_filling_most(const mg_cache *c);

/* The end of an exchange. */
void mg_cache_leave(struct mg_cache_use *u);
/* What has come of the origin's body; the chain stays as it is. */
void mg_cache_fill_body(struct mg_exchange *x, const struct mg_chain *body, bool last);
/* It will not be whole. */
void mg_cache_fill_drop(struct mg_exchange *x);
/* What the exchange has, made when first asked for; NULL without memory. */
struct mg_cache_use *mg_cache_use(struct mg_exchange *x);

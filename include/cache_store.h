/* cache_store.h - what lies in shared memory for a cache; for the files core/proxy/cache*.c alone. */
#pragma once

#include <pthread.h>

#include "cache.h"
#include "shared_heap.h"

enum mg_cache_kind {
    MG_CACHE_RESPONSE,
    MG_CACHE_CLAIM, /* somebody asks the origin for it */
    MG_CACHE_PASS,  /* it is known that nothing will be stored */
};

struct mg_cache_entry {
    uint32_t size : 31, used : 1; /* as in struct mg_piece */
    uint32_t before;
    uint32_t next;         /* in its bucket */
    uint32_t newer, older; /* by last use */
    uint32_t hash;         /* of the key */
    uint64_t id;
    mg_cache_times times;
    double until;        /* mg_now(): of a claim, or a pass */
    uint32_t slot, turn; /* of shared.h: whose claim it is */
    uint32_t pins;
    uint8_t kind; /* mg_cache_kind */
    bool gone;    /* out of the table; its memory goes with the last pin */
    uint32_t key_len, vary_len, tags_len, head_len, body_len;
    char bytes[]; /* key, vary, tags, head, body */
};

/* How many pins of an entry a worker has. */
struct mg_cache_pin {
    uint32_t slot, turn;
    uint32_t entry, count; /* count 0: free */
};

/* What was purged lately, so that nothing older is stored behind it. */
struct mg_cache_purge {
    uint32_t hash; /* of a key */
    bool all;      /* or more than that */
};

enum { MG_CACHE_PINS = 512, MG_CACHE_PURGES = 256 };

struct mg_cache_store {
    pthread_mutex_t lock;
    bool dirty; /* somebody is changing it */
    uint32_t newest, oldest;
    uint32_t entries;
    uint64_t last_id;
    uint64_t used, pinned; /* units, of all entries; of those with pins */
    uint64_t evicted, stored;
    uint64_t purges; /* counts purges; the last of them are in the ring */
    uint64_t seed[2];
    struct mg_cache_purge purged[MG_CACHE_PURGES];
    struct mg_cache_pin pins[MG_CACHE_PINS];
    struct mg_piece_bins bins;
    uint32_t buckets[]; /* then the heap; offset 1 is its first unit */
};

struct mg_cache {
    struct mg_cache *next;
    struct mg_cache_store *store;
    struct mg_shared_heap heap;
    uint32_t bucket_count; /* a power of two */
    double size;
    uint32_t name_len;
    char name[];
};

static inline struct mg_cache_entry *mg_cache_at(const mg_cache *c, uint32_t offset)
{
    return mg_piece_at(&c->heap, offset);
}

static inline uint32_t *mg_cache_bucket(const mg_cache *c, uint32_t hash)
{
    return &c->store->buckets[hash & (c->bucket_count - 1)];
}

static inline mg_slice mg_cache_key_of(const struct mg_cache_entry *e)
{
    return (mg_slice){ e->bytes, e->key_len };
}

static inline mg_slice mg_cache_vary_of(const struct mg_cache_entry *e)
{
    return (mg_slice){ e->bytes + e->key_len, e->vary_len };
}

static inline mg_slice mg_cache_tags_of(const struct mg_cache_entry *e)
{
    return (mg_slice){ e->bytes + e->key_len + e->vary_len, e->tags_len };
}

static inline mg_slice mg_cache_head_of(const struct mg_cache_entry *e)
{
    return (mg_slice){ e->bytes + e->key_len + e->vary_len + e->tags_len, e->head_len };
}

static inline mg_slice mg_cache_body_of(const struct mg_cache_entry *e)
{
    return (mg_slice){ e->bytes + e->key_len + e->vary_len + e->tags_len + e->head_len, e->body_len };
}

uint32_t mg_cache_hash(const mg_cache *c, mg_slice key);
/* What is between these two happens at once for all workers; nobody waits meanwhile. */
void mg_cache_lock(mg_cache *c);
void mg_cache_unlock(mg_cache *c);
/* With the lock: the next entry of this key behind the one at *link, which says where it hangs; NULL at the end. */
struct mg_cache_entry *mg_cache_next(const mg_cache *c, mg_slice key, uint32_t hash, uint32_t **link);
/* With the lock: takes it out, from where it hangs. */
void mg_cache_take_out(mg_cache *c, uint32_t *link);
/* With the lock: it was used now. */
void mg_cache_touch(mg_cache *c, struct mg_cache_entry *e);
/* With the lock: gives its memory back, once it was taken out and nobody has a pin. */
void mg_cache_free(mg_cache *c, struct mg_cache_entry *e);
/* With the lock: the entry's memory stays until mg_cache_let_go(). One more than the pin's number; 0: too much is
 * pinned. */
uint32_t mg_cache_pin(mg_cache *c, struct mg_cache_entry *e);
/* With the lock: an entry of this key with so many bytes behind it, at the cost of others; NULL if it is too large. */
struct mg_cache_entry *mg_cache_add(mg_cache *c, mg_slice key, uint32_t hash, uint64_t bytes);

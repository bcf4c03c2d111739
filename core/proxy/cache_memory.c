/* cache_memory.c - stored responses in shared memory: entries by key, the least recently used go first.
 *
 * A cache is a place of shared.h with a lock, a hash table and a heap of its
 * own, as a dictionary is (dict.c), and is emptied when a worker has died while
 * it changed it. Nobody has a pointer into it without the lock: what is short is
 * copied out, what is long is pinned (its memory stays) and read in pieces.
 * A pin names the worker, so that those of dead ones are given back.
 */
#include "cache.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cache_store.h"
#include "clock.h"
#include "log.h"
#include "shared.h"
#include "siphash.h"

enum {
    NAME_MOST = 255,
    CACHE_LEAST = 256 * 1024,
    BYTES_A_BUCKET = 1024,
    BUCKETS_MOST = 1 << 23,
    ENTRY_SHARE = 4, /* no entry takes more than one of so many parts of the heap */
};
static const double CACHE_MOST = 16.0 * 1024 * 1024 * 1024;

static mg_cache *caches;

/* ---- Lock and life. ---- */

static void make_empty(mg_cache *c)
{
    struct mg_cache_store *s = c->store;

    memset(s->buckets, 0, c->bucket_count * sizeof(*s->buckets));
    memset(s->pins, 0, sizeof(s->pins));
    s->newest = s->oldest = s->entries = 0;
    s->used = s->pinned = 0;
    mg_shared_heap_empty(&c->heap);
}

void mg_cache_lock(mg_cache *c)
{
    struct mg_cache_store *s = c->store;

    if (pthread_mutex_lock(&s->lock) == EOWNERDEAD) {
        if (s->dirty) {
            make_empty(c);
            mg_log(MG_LOG_WARN, "cache \"%.*s\": a worker died while it changed it; it is empty now", (int)c->name_len,
                   c->name);
        }
        pthread_mutex_consistent(&s->lock);
    }
    s->dirty = true;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

void mg_cache_unlock(mg_cache *c)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    c->store->dirty = false;
    pthread_mutex_unlock(&c->store->lock);
}

/* A handle on this store, from which all of its parts are found. */
static void look_at(mg_cache *c, struct mg_cache_store *s, size_t size)
{
    uint32_t count = 64;

    while (count < BUCKETS_MOST && (uint64_t)count * BYTES_A_BUCKET < size)
        count *= 2;
    size_t head = (sizeof(*s) + count * sizeof(*s->buckets) + MG_PIECE_UNIT - 1) & ~(size_t)(MG_PIECE_UNIT - 1);
    c->store = s;
    c->bucket_count = count;
    c->heap = (struct mg_shared_heap){
        .bins = &s->bins,
        .zero = (char *)s + head - MG_PIECE_UNIT,
        .units = (uint32_t)((size - head) / MG_PIECE_UNIT),
    };
}

static bool make_store(void *place, size_t size)
{
    struct mg_cache_store *s = place;
    mg_cache c;

    if (!mg_shared_lock_init(&s->lock) || getrandom(s->seed, sizeof(s->seed), 0) != (ssize_t)sizeof(s->seed))
        return false;
    look_at(&c, s, size);
    make_empty(&c);
    return true;
}

int mg_cache_open(const char *name, uint32_t len, double size, mg_cache **out)
{
    char place[NAME_MOST + 1];
    int place_len = snprintf(place, sizeof(place), "cache:%.*s", (int)(len < NAME_MOST ? len : NAME_MOST), name);

    *out = NULL;
    if (place_len < 0 || place_len > NAME_MOST || !(size <= CACHE_MOST) || !(size >= 0))
        return MG_FULL;
    size_t bytes = size < CACHE_LEAST ? CACHE_LEAST : (size_t)size;
    void *store;
    enum mg_status status = mg_shared_make((mg_slice){ place, (uint32_t)place_len }, bytes, make_store, &store);
    if (status != MG_OK)
        return status;
    for (mg_cache *c = caches; c; c = c->next)
        if (c->store == store) {
            *out = c;
            return MG_OK;
        }

    mg_cache *c = calloc(1, sizeof(*c) + len);
    if (!c)
        return MG_NO_MEMORY;
    look_at(c, store, bytes);
    c->size = (double)bytes;
    c->name_len = len;
    memcpy(c->name, name, len);
    c->next = caches;
    caches = c;
    *out = c;
    return MG_OK;
}

size_t mg_cache_filling_most(const mg_cache *c)
{
    return (size_t)c->heap.units * MG_PIECE_UNIT / ENTRY_SHARE;
}

/* ---- Entries. ---- */

uint32_t mg_cache_hash(const mg_cache *c, mg_slice key)
{
    return mg_siphash(c->store->seed, key.ptr, key.len);
}

static void lru_remove(mg_cache *c, struct mg_cache_entry *e)
{
    struct mg_cache_store *s = c->store;

    *(e->newer ? &mg_cache_at(c, e->newer)->older : &s->newest) = e->older;
    *(e->older ? &mg_cache_at(c, e->older)->newer : &s->oldest) = e->newer;
}

static void lru_add(mg_cache *c, struct mg_cache_entry *e)
{
    struct mg_cache_store *s = c->store;
    uint32_t at = mg_piece_offset(&c->heap, e);

    e->newer = 0;
    e->older = s->newest;
    *(s->newest ? &mg_cache_at(c, s->newest)->newer : &s->oldest) = at;
    s->newest = at;
}

void mg_cache_touch(mg_cache *c, struct mg_cache_entry *e)
{
    lru_remove(c, e);
    lru_add(c, e);
}

void mg_cache_free(mg_cache *c, struct mg_cache_entry *e)
{
    c->store->used -= e->size;
    mg_piece_give(&c->heap, e);
}

void mg_cache_take_out(mg_cache *c, uint32_t *link)
{
    struct mg_cache_entry *e = mg_cache_at(c, *link);

    *link = e->next;
    lru_remove(c, e);
    c->store->entries--;
    e->gone = true;
    if (!e->pins)
        mg_cache_free(c, e);
}

struct mg_cache_entry *mg_cache_next(const mg_cache *c, mg_slice key, uint32_t hash, uint32_t **link)
{
    for (; **link; *link = &mg_cache_at(c, **link)->next) {
        struct mg_cache_entry *e = mg_cache_at(c, **link);
        if (e->hash == hash && e->key_len == key.len && memcmp(e->bytes, key.ptr, key.len) == 0)
            return e;
    }
    return NULL;
}

static void take_out_oldest(mg_cache *c)
{
    struct mg_cache_store *s = c->store;
    uint32_t *link = mg_cache_bucket(c, mg_cache_at(c, s->oldest)->hash);

    while (*link != s->oldest)
        link = &mg_cache_at(c, *link)->next;
    mg_cache_take_out(c, link);
    s->evicted++;
}

/* ---- Pins. ---- */

static void give_pins(mg_cache *c, struct mg_cache_pin *p, uint32_t count)
{
    struct mg_cache_entry *e = mg_cache_at(c, p->entry);

    p->count -= count;
    e->pins -= count;
    if (e->pins)
        return;
    c->store->pinned -= e->size;
    if (e->gone)
        mg_cache_free(c, e);
}

/* Those of workers that have died. */
static void give_lost_pins(mg_cache *c)
{
    for (unsigned i = 0; i < MG_CACHE_PINS; i++) {
        struct mg_cache_pin *p = &c->store->pins[i];
        if (p->count && !mg_shared_slot_lives(p->slot, p->turn))
            give_pins(c, p, p->count);
    }
}

static struct mg_cache_pin *find_pin(const mg_cache *c, uint32_t entry, uint32_t slot, uint32_t turn)
{
    struct mg_cache_pin *spare = NULL;

    for (unsigned i = 0; i < MG_CACHE_PINS; i++) {
        struct mg_cache_pin *p = &c->store->pins[i];
        if (p->count && p->entry == entry && p->slot == slot && p->turn == turn)
            return p;
        if (!p->count && !spare)
            spare = p;
    }
    return spare;
}

uint32_t mg_cache_pin(mg_cache *c, struct mg_cache_entry *e)
{
    uint32_t slot = mg_shared_slot(), turn = mg_shared_slot_turn(slot), entry = mg_piece_offset(&c->heap, e);
    struct mg_cache_pin *p = find_pin(c, entry, slot, turn);

    if (!p || c->store->pinned + e->size > c->heap.units / 2) {
        give_lost_pins(c);
        p = find_pin(c, entry, slot, turn);
    }
    if (!p || (!e->pins && c->store->pinned + e->size > c->heap.units / 2))
        return 0;
    if (!e->pins++)
        c->store->pinned += e->size;
    if (!p->count++)
        *p = (struct mg_cache_pin){ slot, turn, entry, 1 };
    return (uint32_t)(p - c->store->pins) + 1;
}

/* The pinned entry; NULL: the cache was emptied meanwhile. */
static struct mg_cache_entry *pinned_entry(const struct mg_cache_copy *copy)
{
    const struct mg_cache_pin *p = &copy->cache->store->pins[copy->pin - 1];

    if (!p->count || p->entry != copy->entry || p->slot != mg_shared_slot())
        return NULL;
    struct mg_cache_entry *e = mg_cache_at(copy->cache, copy->entry);
    return (double)e->id == copy->about.id ? e : NULL;
}

enum mg_status mg_cache_read(const struct mg_cache_copy *from, size_t at, size_t len, char *to)
{
    enum mg_status status = MG_CUT;

    mg_cache_lock(from->cache);
    const struct mg_cache_entry *e = pinned_entry(from);
    if (e && at <= e->body_len && len <= e->body_len - at) {
        memcpy(to, mg_cache_body_of(e).ptr + at, len);
        status = MG_OK;
    }
    mg_cache_unlock(from->cache);
    return status;
}

void mg_cache_let_go(struct mg_cache_copy *copy)
{
    if (copy->block)
        mg_block_give(copy->block);
    copy->block = NULL;
    if (!copy->pin)
        return;
    mg_cache_lock(copy->cache);
    if (pinned_entry(copy))
        give_pins(copy->cache, &copy->cache->store->pins[copy->pin - 1], 1);
    mg_cache_unlock(copy->cache);
    copy->pin = 0;
}

/* ---- Room. ---- */

struct mg_cache_entry *mg_cache_add(mg_cache *c, mg_slice key, uint32_t hash, uint64_t bytes)
{
    struct mg_cache_store *s = c->store;
    uint64_t units = (sizeof(struct mg_cache_entry) + key.len + bytes + MG_PIECE_UNIT - 1) / MG_PIECE_UNIT;
    struct mg_cache_entry *e = NULL;

    if (units > c->heap.units / ENTRY_SHARE)
        return NULL;
    while (!(e = mg_piece_take(&c->heap, (uint32_t)units)) && s->oldest)
        take_out_oldest(c);
    if (!e) {
        give_lost_pins(c);
        e = mg_piece_take(&c->heap, (uint32_t)units);
    }
    if (!e)
        return NULL;
    s->used += e->size;
    s->entries++;
    memset((char *)e + offsetof(struct mg_cache_entry, next), 0, sizeof(*e) - offsetof(struct mg_cache_entry, next));
    e->id = ++s->last_id;
    e->hash = hash;
    e->key_len = key.len;
    memcpy(e->bytes, key.ptr, key.len);
    uint32_t *bucket = mg_cache_bucket(c, hash);
    e->next = *bucket;
    *bucket = mg_piece_offset(&c->heap, e);
    lru_add(c, e);
    return e;
}

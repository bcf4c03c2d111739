/* dict.c - dictionaries in shared memory. The seam's mg_dict_* are implemented here.
 *
 * A dictionary is a place of shared.h with a lock, a hash table and a heap of
 * its own. It sets `dirty` before it changes anything and clears it after, so
 * whoever takes the lock over from a dead worker knows whether what it finds
 * is whole; if not, it empties it.
 */
#include "dict.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "log.h"
#include "shared.h"
#include "shared_heap.h"
#include "siphash.h"
#include "text.h"

enum {
    NAME_MOST = 255,
    EXPIRED_LOOKS = 32, /* entries looked at for expired ones before others are evicted */
    DICT_LEAST = 4096,
    BYTES_A_BUCKET = 128,
    DICT_BUCKETS_MOST = 1 << 23,
    CHAIN_MOST = 256, /* of a bucket's entries that a walk sees */
};
static const double DICT_MOST = 16.0 * 1024 * 1024 * 1024;

struct entry {
    uint32_t size : 31, used : 1; /* as in struct mg_piece */
    uint32_t before;
    uint32_t next;         /* in its bucket */
    uint32_t newer, older; /* by last use */
    uint32_t hash;
    double expires; /* monotonic time; 0: never */
    double number;
    uint32_t key_len, text_len;
    uint8_t type; /* mg_value_type */
    char bytes[]; /* the key, then the text */
};

struct store {
    pthread_mutex_t lock;
    bool dirty; /* somebody is changing it */
    uint32_t newest, oldest;
    uint64_t seed[2];
    struct mg_piece_bins bins;
    uint32_t buckets[]; /* then the heap; offset 1 is its first unit */
};

struct mg_dict {
    struct mg_dict *next;
    struct store *store;
    struct mg_shared_heap heap;
    uint32_t bucket_count; /* a power of two */
    char *copy;            /* the last value or key handed out */
    size_t copy_room;
    uint32_t name_len;
    char name[];
};

static struct mg_dict *dicts;

static struct entry *entry_at(const struct mg_dict *d, uint32_t offset)
{
    return mg_piece_at(&d->heap, offset);
}

/* ---- Lock and life. ---- */

static void make_empty(struct mg_dict *d)
{
    struct store *s = d->store;

    memset(s->buckets, 0, d->bucket_count * sizeof(*s->buckets));
    s->newest = s->oldest = 0;
    mg_shared_heap_empty(&d->heap);
}

static void lock_dict(struct mg_dict *d)
{
    struct store *s = d->store;

    if (pthread_mutex_lock(&s->lock) != EOWNERDEAD)
        return;
    if (s->dirty) {
        make_empty(d);
        s->dirty = false;
        mg_log(MG_LOG_WARN, "shared dictionary \"%.*s\": a worker died while it changed it; it is empty now",
               (int)d->name_len, d->name);
    }
    pthread_mutex_consistent(&s->lock);
}

/* What is written after is a change; a worker that is killed stops between two instructions, so keeping the compiler
 * in order is enough. */
static void begin_change(struct mg_dict *d)
{
    d->store->dirty = true;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static void unlock_dict(struct mg_dict *d)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    d->store->dirty = false;
    pthread_mutex_unlock(&d->store->lock);
}

/* A handle on this store, from which all of its parts are found. */
static void look_at(struct mg_dict *d, struct store *s, size_t size)
{
    uint32_t count = 16;

    while (count < DICT_BUCKETS_MOST && (uint64_t)count * BYTES_A_BUCKET < size)
        count *= 2;
    size_t head = (sizeof(*s) + count * sizeof(*s->buckets) + MG_PIECE_UNIT - 1) & ~(size_t)(MG_PIECE_UNIT - 1);
    d->store = s;
    d->bucket_count = count;
    d->heap = (struct mg_shared_heap){
        .bins = &s->bins,
        .zero = (char *)s + head - MG_PIECE_UNIT,
        .units = (uint32_t)((size - head) / MG_PIECE_UNIT),
    };
}

static bool make_store(void *place, size_t size)
{
    struct store *s = place;
    struct mg_dict d;

    if (!mg_shared_lock_init(&s->lock) || getrandom(s->seed, sizeof(s->seed), 0) != (ssize_t)sizeof(s->seed))
        return false;
    look_at(&d, s, size);
    make_empty(&d);
    return true;
}

int mg_dict_open(const char *name, uint32_t len, double size, mg_dict **out)
{
    char place[NAME_MOST + 1];
    int place_len = snprintf(place, sizeof(place), "dict:%.*s", (int)(len < NAME_MOST ? len : NAME_MOST), name);

    *out = NULL;
    if (place_len < 0 || place_len > NAME_MOST || !(size <= DICT_MOST) || !(size >= 0))
        return MG_FULL;
    size_t bytes = size < DICT_LEAST ? DICT_LEAST : (size_t)size;
    void *store;
    enum mg_status status = mg_shared_make((mg_slice){ place, (uint32_t)place_len }, bytes, make_store, &store);
    if (status != MG_OK)
        return status;
    for (struct mg_dict *d = dicts; d; d = d->next)
        if (d->store == store) {
            *out = d;
            return MG_OK;
        }

    struct mg_dict *d = calloc(1, sizeof(*d) + len);
    if (!d)
        return MG_NO_MEMORY;
    look_at(d, store, bytes);
    d->name_len = len;
    memcpy(d->name, name, len);
    d->next = dicts;
    dicts = d;
    *out = d;
    return MG_OK;
}

/* ---- Entries. ---- */

static double monotonic(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t hash_of(const struct store *s, const char *key, uint32_t len)
{
    return mg_siphash(s->seed, key, len);
}

static uint32_t *bucket_of(const struct mg_dict *d, uint32_t hash)
{
    return &d->store->buckets[hash & (d->bucket_count - 1)];
}

static void lru_remove(struct mg_dict *d, struct entry *e)
{
    struct store *s = d->store;

    *(e->newer ? &entry_at(d, e->newer)->older : &s->newest) = e->older;
    *(e->older ? &entry_at(d, e->older)->newer : &s->oldest) = e->newer;
}

static void lru_add(struct mg_dict *d, struct entry *e)
{
    struct store *s = d->store;
    uint32_t at = mg_piece_offset(&d->heap, e);

    e->newer = 0;
    e->older = s->newest;
    *(s->newest ? &entry_at(d, s->newest)->newer : &s->oldest) = at;
    s->newest = at;
}

static void drop_entry(struct mg_dict *d, struct entry *e)
{
    uint32_t at = mg_piece_offset(&d->heap, e), *link = bucket_of(d, e->hash);

    while (*link != at)
        link = &entry_at(d, *link)->next;
    *link = e->next;
    lru_remove(d, e);
    mg_piece_give(&d->heap, e);
}

static bool is_expired(const struct entry *e, double now)
{
    return e->expires > 0 && e->expires <= now;
}

/* The entry of this key, NULL if there is none; an expired one is dropped. Begins a change, with the lock held. */
static struct entry *find_entry(struct mg_dict *d, const char *key, uint32_t len, uint32_t hash, double now)
{
    begin_change(d);
    for (uint32_t at = *bucket_of(d, hash); at;) {
        struct entry *e = entry_at(d, at);
        if (e->hash == hash && e->key_len == len && memcmp(e->bytes, key, len) == 0) {
            if (!is_expired(e, now))
                return e;
            drop_entry(d, e);
            return NULL;
        }
        at = e->next;
    }
    return NULL;
}

static struct entry *locked_find(struct mg_dict *d, const char *key, uint32_t len, double now)
{
    uint32_t hash = hash_of(d->store, key, len);

    lock_dict(d);
    return find_entry(d, key, len, hash, now);
}

static void drop_some_expired(struct mg_dict *d, double now)
{
    uint32_t at = d->store->oldest;

    for (unsigned i = 0; i < EXPIRED_LOOKS && at; i++) {
        struct entry *e = entry_at(d, at);
        at = e->newer;
        if (is_expired(e, now))
            drop_entry(d, e);
    }
}

/* Room for an entry, at the cost of others; NULL only if it is larger than the heap. */
static struct entry *make_room(struct mg_dict *d, uint32_t units, double now)
{
    struct entry *e = mg_piece_take(&d->heap, units);

    if (e)
        return e;
    drop_some_expired(d, now);
    while (!(e = mg_piece_take(&d->heap, units)) && d->store->oldest)
        drop_entry(d, entry_at(d, d->store->oldest));
    return e;
}

/* Units that an entry needs; 0 if that is more than the dictionary has. */
static uint32_t units_of(const struct mg_dict *d, uint32_t key_len, uint32_t text_len)
{
    uint64_t bytes = sizeof(struct entry) + (uint64_t)key_len + text_len;
    uint64_t units = (bytes + MG_PIECE_UNIT - 1) / MG_PIECE_UNIT;

    return units <= d->heap.units ? (uint32_t)units : 0;
}

static struct entry *add_entry(struct mg_dict *d, const char *key, uint32_t len, uint32_t hash, uint32_t units,
                               double now)
{
    struct entry *e = make_room(d, units, now);

    if (!e)
        return NULL;
    uint32_t *bucket = bucket_of(d, hash);
    e->hash = hash;
    e->key_len = len;
    e->text_len = 0;
    memcpy(e->bytes, key, len);
    e->next = *bucket;
    *bucket = mg_piece_offset(&d->heap, e);
    lru_add(d, e);
    return e;
}

static void fill(struct entry *e, const mg_value *value, double expires)
{
    e->type = (uint8_t)value->type;
    e->number = value->number;
    e->expires = expires;
    e->text_len = value->type == MG_VALUE_TEXT ? value->text.len : 0;
    if (e->text_len)
        memcpy(e->bytes + e->key_len, value->text.ptr, e->text_len);
}

/* Copies bytes out of the dictionary to where they stay until the next call. */
static bool copy_out(struct mg_dict *d, const char *bytes, uint32_t len, mg_slice *out)
{
    if (len >= d->copy_room) {
        char *more = realloc(d->copy, (size_t)len + 256);
        if (!more)
            return false;
        d->copy = more;
        d->copy_room = (size_t)len + 256;
    }
    memcpy(d->copy, bytes, len);
    *out = (mg_slice){ d->copy, len };
    return true;
}

/* ---- The seam's side. ---- */

static void look_into(const struct entry *e, mg_value *out)
{
    *out = (mg_value){ .type = MG_VALUE_NIL };
    if (!e)
        return;
    out->type = e->type;
    out->number = e->number;
    if (e->type == MG_VALUE_TEXT)
        out->text = (mg_slice){ e->bytes + e->key_len, e->text_len };
}

int mg_dict_get(mg_dict *d, const char *key, uint32_t len, mg_value *out)
{
    struct entry *e = locked_find(d, key, len, monotonic());
    int status = e ? MG_OK : MG_ABSENT;

    look_into(e, out);
    if (e) {
        lru_remove(d, e);
        lru_add(d, e);
    }
    if (out->type == MG_VALUE_TEXT && !copy_out(d, out->text.ptr, out->text.len, &out->text))
        status = MG_NO_MEMORY;
    unlock_dict(d);
    return status;
}

/* Puts a value in the place of e's, or, with NULL for e, of nothing; NIL takes the entry away. With the lock held. */
static enum mg_status put(struct mg_dict *d, mg_slice key, uint32_t hash, struct entry *e, const mg_value *value,
                          double ttl, double now)
{
    bool nil = value->type == MG_VALUE_NIL;
    uint32_t units = units_of(d, key.len, value->type == MG_VALUE_TEXT ? value->text.len : 0);

    if (!units)
        return MG_FULL;
    /* In place if it fits without waste. */
    bool fits = e && e->size >= units && e->size - units < MG_PIECE_LEAST && !nil;
    if (fits) {
        lru_remove(d, e);
        lru_add(d, e);
    } else {
        if (e)
            drop_entry(d, e);
        e = nil ? NULL : add_entry(d, key.ptr, key.len, hash, units, now);
    }
    if (e)
        fill(e, value, ttl > 0 ? now + ttl : 0);
    return e || nil ? MG_OK : MG_FULL;
}

int mg_dict_set(mg_dict *d, int how, const char *key, uint32_t len, const mg_value *value, double ttl)
{
    uint32_t hash = hash_of(d->store, key, len);
    double now = monotonic();
    int status;

    lock_dict(d);
    struct entry *e = find_entry(d, key, len, hash, now);
    if (e && how == MG_DICT_ADD)
        status = MG_BUSY;
    else if (!e && how == MG_DICT_REPLACE)
        status = MG_ABSENT;
    else
        status = put(d, (mg_slice){ key, len }, hash, e, value, ttl, now);
    unlock_dict(d);
    return status;
}

enum mg_status mg_dict_change(mg_dict *d, mg_slice key, double ttl, bool (*change)(void *owner, mg_value *value),
                              void *owner)
{
    uint32_t hash = hash_of(d->store, key.ptr, key.len);
    double now = monotonic();
    enum mg_status status = MG_OK;
    mg_value value;

    lock_dict(d);
    struct entry *e = find_entry(d, key.ptr, key.len, hash, now);
    look_into(e, &value);
    if (change(owner, &value))
        status = put(d, key, hash, e, &value, ttl, now);
    unlock_dict(d);
    return status;
}

struct swap {
    const mg_value *expected, *value;
    bool swapped;
};

static bool swap_value(void *owner, mg_value *value)
{
    struct swap *s = owner;
    const mg_value *e = s->expected;

    if (value->type != e->type)
        return false;
    if (e->type == MG_VALUE_TEXT ? !mg_text_equal(value->text, e->text)
                                 : e->type != MG_VALUE_NIL && value->number != e->number)
        return false;
    *value = *s->value;
    return s->swapped = true;
}

int mg_dict_swap(mg_dict *d, const char *key, uint32_t len, const mg_value *expected, const mg_value *value, double ttl)
{
    struct swap s = { expected, value, false };
    enum mg_status status = mg_dict_change(d, (mg_slice){ key, len }, ttl, swap_value, &s);

    return status == MG_OK && !s.swapped ? MG_BUSY : status;
}

int mg_dict_incr(mg_dict *d, const char *key, uint32_t len, double by, double initial, double ttl, double *out)
{
    uint32_t units = units_of(d, len, 0), hash = hash_of(d->store, key, len);
    double now = monotonic();
    int status = MG_OK;

    if (!units)
        return MG_FULL;
    lock_dict(d);
    struct entry *e = find_entry(d, key, len, hash, now);
    if (e && e->type != MG_VALUE_NUMBER) {
        status = MG_MALFORMED;
    } else if (e) {
        *out = e->number += by;
        lru_remove(d, e);
        lru_add(d, e);
    } else if (isnan(initial)) {
        status = MG_ABSENT;
    } else if ((e = add_entry(d, key, len, hash, units, now))) {
        *out = initial + by;
        fill(e, &(mg_value){ .type = MG_VALUE_NUMBER, .number = *out }, ttl > 0 ? now + ttl : 0);
    } else {
        status = MG_FULL;
    }
    unlock_dict(d);
    return status;
}

int mg_dict_delete(mg_dict *d, const char *key, uint32_t len)
{
    struct entry *e = locked_find(d, key, len, monotonic());

    if (e)
        drop_entry(d, e);
    unlock_dict(d);
    return e ? MG_OK : MG_ABSENT;
}

double mg_dict_ttl(mg_dict *d, const char *key, uint32_t len)
{
    double now = monotonic();
    struct entry *e = locked_find(d, key, len, now);
    double left = !e ? MG_ABSENT : e->expires > 0 ? e->expires - now : 0;

    unlock_dict(d);
    return left;
}

/* `at` is the bucket and how many of its entries were seen. */
int mg_dict_next(mg_dict *d, uint32_t *at, mg_slice *key)
{
    struct store *s = d->store;
    uint32_t bucket = *at / CHAIN_MOST, seen = *at % CHAIN_MOST;
    double now = monotonic();
    int status = MG_ABSENT;

    lock_dict(d);
    for (; bucket < d->bucket_count && status == MG_ABSENT; bucket++, seen = 0) {
        uint32_t nth = 0;
        for (uint32_t e = s->buckets[bucket]; e && nth < CHAIN_MOST - 1; e = entry_at(d, e)->next, nth++) {
            if (nth < seen || is_expired(entry_at(d, e), now))
                continue;
            status = copy_out(d, entry_at(d, e)->bytes, entry_at(d, e)->key_len, key) ? MG_OK : MG_NO_MEMORY;
            *at = bucket * CHAIN_MOST + nth + 1;
            break;
        }
    }
    unlock_dict(d);
    return status;
}

int mg_dict_flush(mg_dict *d)
{
    lock_dict(d);
    begin_change(d);
    make_empty(d);
    unlock_dict(d);
    return MG_OK;
}

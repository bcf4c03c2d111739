/* roster.c - who the peers of an upstream are now, as was said since the script declared them. */
#include "roster.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "shared.h"
#include "text.h"

struct entry {
    char address[MG_ROSTER_ADDRESS_MOST];
    char zone[MG_ROSTER_ZONE_MOST];
    double weight; /* 0: it is not there */
    uint16_t tier;
    bool found; /* by discovery: it goes with that */
};

/* Under the upstream's name, in shared memory. An entry is written whole before `count` says that it is there. */
struct mg_roster {
    pthread_mutex_t lock;
    uint32_t version, count;
    struct entry entries[MG_ROSTER_MOST];
};

static bool make(void *place, size_t size)
{
    (void)size;
    return mg_shared_lock_init(&((struct mg_roster *)place)->lock);
}

static struct mg_roster *roster_of(struct mg_upstream *u)
{
    struct mg_roster_seat *seat = mg_upstream_seat(u);
    mg_slice upstream = mg_upstream_spec_of(u)->name;
    char name[256];
    void *place = NULL;
    int len = snprintf(name, sizeof(name), "roster:%.*s", (int)upstream.len, upstream.ptr);

    if (!seat->roster &&
        mg_shared_make((mg_slice){ name, (uint32_t)len }, sizeof(struct mg_roster), make, &place) == MG_OK)
        seat->roster = place;
    return seat->roster;
}

static void lock(struct mg_roster *r)
{
    if (pthread_mutex_lock(&r->lock) == EOWNERDEAD)
        pthread_mutex_consistent(&r->lock);
}

static void unlock(struct mg_roster *r, bool changed)
{
    if (changed)
        __atomic_fetch_add(&r->version, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&r->lock);
}

static struct entry *find(struct mg_roster *r, mg_slice address)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (mg_text_equal(mg_slice_of(r->entries[i].address), address))
            return &r->entries[i];
    return NULL;
}

/* ---- Taken up. ---- */

/* What was said of those that are there: they go, or have another weight. From behind, since they move up. */
static void review_present(struct mg_upstream *u, struct mg_roster *r)
{
    for (int i = mg_upstream_count(u) - 1; i >= 0; i--) {
        struct mg_peer *p = mg_upstream_peer(u, i);
        const struct entry *e = find(r, p->name);
        if (e ? e->weight <= 0 : p->came)
            mg_peer_take_off(p);
        else
            mg_peer_set_weight(p, e ? e->weight : p->declared);
        mg_peer_set_tier(p, e ? e->tier : 1);
    }
}

/* And of those that the script declares and are not. */
static void review_removed(struct mg_upstream *u, struct mg_roster *r)
{
    struct mg_peer *p;
    const char *problem;

    for (unsigned i = 0; (p = mg_upstream_removed(u, i));) {
        const struct entry *e = find(r, p->name);
        bool back = !p->came && p->declared > 0 && (!e || e->weight > 0);
        if (!back || !mg_upstream_add_peer(u, p->name, e ? e->weight : p->declared, p->zone, &problem))
            i++; /* or it has left the list */
    }
}

static bool is_there(struct mg_upstream *u, mg_slice address)
{
    for (int i = 0; i < mg_upstream_count(u); i++)
        if (mg_text_equal(mg_upstream_peer(u, i)->name, address))
            return true;
    return false;
}

static void add_others(struct mg_upstream *u, struct mg_roster *r)
{
    const char *problem;

    for (uint32_t i = 0; i < r->count; i++) {
        const struct entry *e = &r->entries[i];
        mg_slice address = mg_slice_of(e->address);
        if (e->weight <= 0 || is_there(u, address))
            continue;
        struct mg_peer *p = mg_upstream_add_peer(u, address, e->weight, mg_slice_of(e->zone), &problem);
        if (!p)
            continue;
        p->came = true;
        p->tier = e->tier;
    }
}

/* Not in line: mg_roster_follow() stands in every request's way, and mostly only looks. */
static __attribute__((noinline)) void take_up(struct mg_upstream *u, struct mg_roster *r)
{
    lock(r);
    mg_upstream_seat(u)->seen = r->version;
    review_present(u, r);
    review_removed(u, r);
    add_others(u, r);
    if (mg_upstream_count(u))
        mg_upstream_sort(u);
    unlock(r, false);
}

void mg_roster_follow(struct mg_upstream *u)
{
    struct mg_roster_seat *seat = mg_upstream_seat(u);
    struct mg_roster *r = seat->roster ? seat->roster : roster_of(u);

    if (r && seat->seen != __atomic_load_n(&r->version, __ATOMIC_ACQUIRE))
        take_up(u, r);
}

void mg_roster_keep_up(struct mg_upstream *u)
{
    if (mg_upstream_seat(u)->roster)
        mg_roster_follow(u);
}

/* ---- Said. ---- */

static bool is_said(const struct entry *e, const struct entry *said)
{
    return e && e->weight == said->weight && e->tier == said->tier && strcmp(e->zone, said->zone) == 0;
}

static const char *say(struct mg_upstream *u, mg_slice address, const struct mg_roster_said *what)
{
    struct mg_roster *r = roster_of(u);

    if (!r)
        return "the shared memory has no room for one more roster; raise shared_size";
    if (address.len >= MG_ROSTER_ADDRESS_MOST || what->zone.len >= MG_ROSTER_ZONE_MOST)
        return "an address may have at most 127 bytes, and a zone 47";
    struct entry said = { .weight = what->weight, .tier = what->tier, .found = what->found };
    memcpy(said.address, address.ptr, address.len);
    if (what->zone.len)
        memcpy(said.zone, what->zone.ptr, what->zone.len);
    lock(r);
    struct entry *e = find(r, address), *to = e ? e : &r->entries[r->count];
    if (is_said(e, &said)) { /* discovery says so again and again */
        unlock(r, false);
        return NULL;
    }
    if (!e && r->count == MG_ROSTER_MOST) {
        unlock(r, false);
        return "of an upstream's peers at most 512 may have come, gone or changed; reset it, or reload the script";
    }
    *to = said;
    if (!e)
        __atomic_store_n(&r->count, r->count + 1, __ATOMIC_RELEASE);
    unlock(r, true);
    mg_roster_follow(u);
    return NULL;
}

const char *mg_roster_put(struct mg_upstream *u, mg_slice address, const struct mg_roster_said *said)
{
    const char *wrong = mg_peer_check(address, said->weight);

    return wrong ? wrong : say(u, address, said);
}

/* One that has only come is forgotten; of one that a script declares it must be remembered. */
const char *mg_roster_remove(struct mg_upstream *u, mg_slice address)
{
    struct mg_roster *r = roster_of(u);
    bool came = false;

    mg_roster_follow(u);
    for (int i = 0; i < mg_upstream_count(u); i++)
        came |= mg_upstream_peer(u, i)->came && mg_text_equal(mg_upstream_peer(u, i)->name, address);
    if (!came || !r)
        return say(u, address, &(struct mg_roster_said){ .tier = 1 });
    lock(r);
    struct entry *e = find(r, address);
    if (e) {
        struct entry last = r->entries[r->count - 1];
        *e = last;
        __atomic_store_n(&r->count, r->count - 1, __ATOMIC_RELEASE);
    }
    unlock(r, true);
    mg_roster_follow(u);
    return NULL;
}

const char *mg_roster_reset(struct mg_upstream *u)
{
    struct mg_roster *r = roster_of(u);

    if (!r)
        return NULL;
    lock(r);
    r->count = 0;
    unlock(r, true);
    mg_roster_follow(u);
    return NULL;
}

bool mg_roster_names(struct mg_upstream *u, mg_slice address)
{
    struct mg_roster *r = roster_of(u);

    if (!r)
        return false;
    lock(r);
    bool named = find(r, address);
    unlock(r, false);
    return named;
}

/* ---- The seam's side. ---- */

int mg_upstream_add(mg_upstream *u, const char *address, uint32_t len, double weight, const char *zone, uint32_t zlen,
                    uint16_t tier, bool found)
{
    mg_slice name = { address, len };
    const struct mg_roster_said said = { .weight = weight, .zone = { zone, zlen }, .tier = tier, .found = found };

    if (mg_peer_check(name, weight))
        return MG_MALFORMED;
    return mg_roster_put(u, name, &said) ? MG_FULL : MG_OK;
}

int mg_peer_remove(mg_peer *p)
{
    return mg_roster_remove(p->upstream, p->name) ? MG_FULL : MG_OK;
}

bool mg_peer_came(const mg_peer *p)
{
    return p->came;
}

void mg_upstream_forget_found(mg_upstream *u)
{
    struct mg_roster *r = roster_of(u);
    uint32_t kept = 0;

    if (!r || !__atomic_load_n(&r->count, __ATOMIC_RELAXED))
        return;
    lock(r);
    uint32_t before = r->count;
    for (uint32_t i = 0; i < before; i++) {
        if (r->entries[i].found)
            continue;
        struct entry e = r->entries[i];
        r->entries[kept++] = e;
    }
    r->count = kept;
    unlock(r, kept != before);
    mg_roster_follow(u);
}

void mg_upstream_follow(mg_upstream *u)
{
    mg_roster_follow(u);
}

/* peer.c - upstreams and their peers: who may be picked, and who is.
 *
 * Counters lie in shared memory and are changed by single atomic operations
 * without order: each is a number of its own, and nobody draws conclusions
 * from two of them. A removed peer stays allocated until its upstream is
 * freed, because an exchange may still be at it.
 */
#include "peer.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "meter.h"
#include "text.h"

enum {
    TURNS_MOST = 4096,      /* length of a round; more only if there are more peers */
    DENOMINATOR_MOST = 100, /* weights are taken as fractions up to this, or rounded */
    HOST_MOST = 253,        /* bytes of a name (RFC 1035 2.3.4) */
    BUDGET_MOST = 100,      /* retries that may come at once */
};
static const double WEIGHT_MOST = 1e6;
static const double LATENCY_SHARE = 0.1; /* what one sample counts in the average */
static const double PEAK_FADES = 10;     /* seconds in which a peak falls to 1/e */

#define PEER_PREFIX "peer:"

struct mg_peer_state {
    mg_peer_view view;             /* first: Lua reads it in place */
    double peak, peaked;           /* latency of mg_peer_peak, as of mg_clock_now() then */
    uint32_t born;                 /* view.healthy has been set for the first time */
    struct mg_peer_health health;  /* behind view.healthy */
    uint32_t active[MG_SLOTS_MAX]; /* in flight; only its own worker writes a slot */
};

struct upstream_state {
    uint64_t cursor;  /* of the round robin, over all workers */
    uint32_t version; /* health and draining have changed */
    uint32_t panic;   /* it was told of */
    struct mg_upstream_counts counts;
};

struct mg_upstream {
    mg_upstream_spec spec;
    char *text; /* name, where and load_header */
    struct upstream_state *state;
    struct mg_peer **peers; /* those that are not removed, in the order of declaration */
    struct mg_peer **removed;
    unsigned count, room, removed_count, removed_room;
    struct mg_times times;
    struct mg_clock_queue *connect, *response;
    uint16_t *turns; /* a round: indexes of peers; valid unless `stale` */
    unsigned turn_count;
    bool stale;
    bool peaks;       /* somebody asks for mg_peer_peak */
    unsigned tie;     /* where least_conn begins to look */
    uint32_t version; /* peers have come or gone */
    bool panics;      /* as of that version of all; looked at anew when it changes */
    uint32_t panics_at;
    struct mg_watch watch;
    struct mg_upstream_meter meter;
    struct mg_roster_seat seat;
    double budget;
};

/* The sentence of the last failure; callers copy it at once. */
static char problem_text[512];

/* ---- An upstream's life. ---- */

struct mg_upstream *mg_upstream_new(const mg_upstream_spec *spec, const char **problem)
{
    struct mg_upstream *u = calloc(1, sizeof(*u));
    char name[256];
    int len = snprintf(name, sizeof(name), "upstream:%.*s", (int)spec->name.len, spec->name.ptr);

    *problem = "out of memory";
    if (!u)
        return NULL;
    u->spec = *spec;
    u->text = malloc((size_t)spec->name.len + spec->where.len + spec->load_header.len + 1);
    if (!u->text)
        goto drop_upstream;
    if (len < 0 || (size_t)len >= sizeof(name) - 64) {
        *problem = "the name of an upstream may have at most 180 bytes";
        goto drop_upstream;
    }
    u->state = mg_shared_place((mg_slice){ name, (uint32_t)len }, sizeof(*u->state));
    if (!u->state) {
        *problem = "the shared memory has no room for one more upstream; raise shared_size";
        goto drop_upstream;
    }
    u->spec.name.ptr = u->text;
    u->spec.where.ptr = u->text + spec->name.len;
    if (spec->name.len)
        memcpy(u->text, spec->name.ptr, spec->name.len);
    if (spec->where.len)
        memcpy(u->text + spec->name.len, spec->where.ptr, spec->where.len);
    u->spec.load_header.ptr = u->text + spec->name.len + spec->where.len;
    if (spec->load_header.len)
        memcpy(u->text + spec->name.len + spec->where.len, spec->load_header.ptr, spec->load_header.len);
    u->times = (struct mg_times){
        .body = mg_clock_queue(spec->read_timeout),
        .send = mg_clock_queue(spec->send_timeout),
        .idle = mg_clock_queue(spec->keepalive_timeout),
    };
    u->connect = mg_clock_queue(spec->connect_timeout);
    u->response = mg_clock_queue(spec->response_timeout);
    u->budget = spec->retry_budget > 0 ? BUDGET_MOST : 0;
    u->stale = true;
    u->panics_at = UINT32_MAX;
    *problem = NULL;
    return u;

drop_upstream:
    free(u->text);
    free(u);
    return NULL;
}

static void peer_free(struct mg_peer *p)
{
    mg_origin_leave(&p->origin);
    free(p);
}

void mg_upstream_free(struct mg_upstream *u)
{
    if (!u)
        return;
    for (unsigned i = 0; i < u->count; i++)
        peer_free(u->peers[i]);
    for (unsigned i = 0; i < u->removed_count; i++)
        peer_free(u->removed[i]);
    free(u->peers);
    free(u->removed);
    free(u->turns);
    free(u->text);
    free(u);
}

const mg_upstream_spec *mg_upstream_spec_of(const struct mg_upstream *u)
{
    return &u->spec;
}

void mg_upstream_set_balance(struct mg_upstream *u, enum mg_balance balance)
{
    u->spec.balance = balance;
}

struct mg_watch *mg_upstream_watch(struct mg_upstream *u)
{
    return &u->watch;
}

/* ---- Peers come and go. ---- */

static struct mg_peer *refuse(const char **problem, const char *what, mg_slice address)
{
    snprintf(problem_text, sizeof(problem_text), "peer \"%.*s\": %s", (int)(address.len < 256 ? address.len : 256),
             address.ptr, what);
    *problem = problem_text;
    return NULL;
}

static bool is_host(mg_slice host)
{
    struct mg_address literal;

    if (!host.len || host.len > HOST_MOST)
        return false;
    if (mg_address_literal(host, 1, &literal))
        return true;
    for (uint32_t i = 0; i < host.len; i++) {
        char c = mg_text_lower(host.ptr[i]);
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.'))
            return false;
    }
    return true;
}

/* What is wrong with this address of a peer, or NULL with its parts. */
static const char *read_address(mg_slice address, mg_slice *host, uint16_t *port)
{
    static const char *const remedy = "is not an address; write one like \"10.0.0.1:8080\", \"[::1]:8080\", "
                                      "\"app.internal:8080\" or \"unix:/run/app.sock\"";
    struct mg_address parsed;

    if (address.len > 180)
        return "is too long for an address";
    if (address.len > 5 && memcmp(address.ptr, "unix:", 5) == 0) {
        *host = address;
        *port = 0;
        return mg_address_parse(address, &parsed) ? NULL : remedy;
    }
    if (!mg_address_split(address, host, port) || !is_host(*host))
        return remedy;
    return NULL;
}

/* The lowest number that no other peer with this address has. */
static unsigned free_twin(const struct mg_upstream *u, mg_slice address)
{
    unsigned twin = 0;

    for (unsigned i = 0; i < u->count; i++) {
        if (u->peers[i]->twin == twin && mg_text_equal(u->peers[i]->name, address)) {
            twin++;
            i = UINT32_MAX; /* from the beginning again: they lie in any order */
        }
    }
    return twin;
}

static struct mg_peer_state *state_of(const struct mg_upstream *u, mg_slice address, unsigned twin)
{
    char name[512];
    int len = snprintf(name, sizeof(name), PEER_PREFIX "%.*s/%.*s#%u", (int)u->spec.name.len, u->spec.name.ptr,
                       (int)address.len, address.ptr, twin);

    if (len < 0 || len > 255)
        return NULL;
    struct mg_peer_state *state = mg_shared_place((mg_slice){ name, (uint32_t)len }, sizeof(*state));
    if (state && !__atomic_exchange_n(&state->born, 1, __ATOMIC_RELAXED))
        state->view.healthy = 1;
    return state;
}

static bool grow(struct mg_peer ***list, unsigned count, unsigned *room)
{
    if (count < *room)
        return true;
    unsigned more = *room ? *room * 2 : 8;
    struct mg_peer **bigger = realloc(*list, more * sizeof(*bigger));
    if (!bigger)
        return false;
    *list = bigger;
    *room = more;
    return true;
}

/* A removed peer with these counters, to be used again: so peers that come and go take no more memory each time. */
static struct mg_peer *revive(struct mg_upstream *u, mg_slice address, unsigned twin, mg_slice zone)
{
    for (unsigned i = 0; i < u->removed_count; i++) {
        struct mg_peer *p = u->removed[i];
        if (p->twin == twin && mg_text_equal(p->name, address) && mg_text_equal(p->zone, zone)) {
            u->removed[i] = u->removed[--u->removed_count];
            return p;
        }
    }
    return NULL;
}

static enum mg_protocol protocol_of(uint32_t protocols)
{
    if (!(protocols & MG_TLS_HTTP2))
        return MG_PROTOCOL_HTTP1;
    return protocols & MG_TLS_HTTP1 ? MG_PROTOCOL_ALPN : MG_PROTOCOL_HTTP2;
}

static struct mg_peer *new_peer(struct mg_upstream *u, mg_slice address, mg_slice zone)
{
    struct mg_peer *p = calloc(1, sizeof(*p) + address.len + zone.len);
    mg_slice host;
    uint16_t port;

    if (!p)
        return NULL;
    char *text = (char *)(p + 1);
    memcpy(text, address.ptr, address.len);
    if (zone.len)
        memcpy(text + address.len, zone.ptr, zone.len);
    p->upstream = u;
    p->name = (mg_slice){ text, address.len };
    p->zone = (mg_slice){ text + address.len, zone.len };
    read_address(p->name, &host, &port);
    mg_origin_open(&p->origin, host, port);
    p->origin.limits.max_head_size = u->spec.max_head_size;
    p->origin.times = u->times;
    p->origin.connect = u->connect;
    p->origin.response = u->response;
    p->origin.proxy_protocol = u->spec.proxy_protocol;
    p->origin.keepalive = u->spec.proxy_protocol ? 0 : u->spec.keepalive; /* a connection is one client's */
    p->origin.protocol = protocol_of(u->spec.protocols);
    p->origin.tls = u->spec.tls;
    p->origin.connections = u->spec.http2_connections;
    p->origin.limits.max_concurrent_streams = u->spec.max_concurrent_streams;
    return p;
}

/* The list of candidates is another one now. */
static void renumber(struct mg_upstream *u)
{
    for (unsigned i = 0; i < u->count; i++)
        u->peers[i]->index = (int)i;
    u->stale = true;
    u->version++;
}

const char *mg_peer_check(mg_slice address, double weight)
{
    mg_slice host;
    uint16_t port;
    const char *wrong = read_address(address, &host, &port);

    if (!wrong && (!(weight > 0) || weight > WEIGHT_MOST))
        wrong = "its weight must be a number above 0 and at most 1000000";
    return wrong;
}

struct mg_peer *mg_upstream_add_peer(struct mg_upstream *u, mg_slice address, double weight, mg_slice zone,
                                     const char **problem)
{
    const char *wrong = mg_peer_check(address, weight);

    if (wrong)
        return refuse(problem, wrong, address);
    if (u->count == MG_PEERS_MAX)
        return refuse(problem, "an upstream can have at most 4096 peers", address);
    if (!grow(&u->peers, u->count, &u->room))
        return refuse(problem, "out of memory", address);

    unsigned twin = free_twin(u, address);
    struct mg_peer_state *state = state_of(u, address, twin);
    if (!state)
        return refuse(problem, "the shared memory has no room for one more peer; raise shared_size", address);
    struct mg_peer *p = revive(u, address, twin, zone);
    if (!p)
        p = new_peer(u, address, zone);
    if (!p)
        return refuse(problem, "out of memory", address);
    p->twin = twin;
    p->state = state;
    p->view = &state->view;
    p->health = &state->health;
    p->guarded = u->spec.breaker.on;
    p->watched = u->spec.breaker.on || u->spec.eject.on || u->spec.load_header.len;
    if (!(p->view->since > 0))
        p->view->since = mg_clock_read();
    p->weight = weight;
    p->tier = 1;
    p->removed = false;
    u->peers[u->count++] = p;
    renumber(u);
    *problem = NULL;
    return p;
}

void mg_peer_set_weight(struct mg_peer *p, double weight)
{
    if (p->weight == weight)
        return;
    p->weight = weight;
    p->upstream->stale = true;
    p->upstream->version++;
}

void mg_peer_set_tier(struct mg_peer *p, uint16_t tier)
{
    if (p->tier == tier)
        return;
    p->tier = tier;
    p->upstream->version++;
}

static int compare_places(const void *one, const void *other)
{
    const struct mg_peer *a = *(struct mg_peer *const *)one, *b = *(struct mg_peer *const *)other;

    if (a->came != b->came)
        return a->came ? 1 : -1;
    if (!a->came)
        return a->place < b->place ? -1 : a->place > b->place;
    uint32_t len = a->name.len < b->name.len ? a->name.len : b->name.len;
    int order = memcmp(a->name.ptr, b->name.ptr, len);
    return order ? order : (a->name.len > b->name.len) - (a->name.len < b->name.len);
}

void mg_upstream_sort(struct mg_upstream *u)
{
    qsort(u->peers, u->count, sizeof(struct mg_peer *), compare_places);
    renumber(u);
}

struct mg_peer *mg_upstream_removed(struct mg_upstream *u, unsigned i)
{
    return i < u->removed_count ? u->removed[i] : NULL;
}

struct mg_roster_seat *mg_upstream_seat(struct mg_upstream *u)
{
    return &u->seat;
}

void mg_peer_take_off(struct mg_peer *p)
{
    struct mg_upstream *u = p->upstream;

    /* Without memory for the list it stays where it is, which is no harm but that it is picked. */
    if (p->removed || !grow(&u->removed, u->removed_count, &u->removed_room))
        return;
    u->removed[u->removed_count++] = p;
    p->removed = true;
    p->view->since = 0; /* should it come again, it is new */
    mg_origin_drain(&p->origin);
    u->count--;
    memmove(u->peers + p->index, u->peers + p->index + 1, (u->count - (unsigned)p->index) * sizeof(struct mg_peer *));
    renumber(u);
}

/* ---- What is known of a peer. ---- */

mg_peer_view *mg_peer_look(mg_peer *p)
{
    return p->view;
}

void mg_peer_about(const mg_peer *p, mg_slice *address, mg_slice *zone, double *weight)
{
    *address = p->name;
    *zone = p->zone;
    *weight = p->weight;
}

int mg_peer_active(const mg_peer *p)
{
    unsigned slots = mg_shared_slots();
    uint32_t sum = 0;

    for (unsigned i = 0; i < slots; i++)
        sum += __atomic_load_n(&p->state->active[i], __ATOMIC_RELAXED);
    return (int)sum;
}

/* `serves` is what the flag says of a peer that may serve. */
static void set_flag(struct mg_peer *p, uint8_t *flag, bool on, bool serves)
{
    if (__atomic_exchange_n(flag, (uint8_t)on, __ATOMIC_RELAXED) == (uint8_t)on)
        return;
    if (on == serves)
        p->view->since = mg_clock_read();
    __atomic_fetch_add(&p->upstream->state->version, 1, __ATOMIC_RELEASE);
}

void mg_peer_drain(mg_peer *p, bool on)
{
    set_flag(p, &p->view->draining, on, false);
}

void mg_peer_set_healthy(struct mg_peer *p, bool healthy)
{
    set_flag(p, &p->view->healthy, healthy, true);
}

int mg_upstream_count(const mg_upstream *u)
{
    return (int)u->count;
}

mg_peer *mg_upstream_peer(const mg_upstream *u, int index)
{
    return index >= 0 && (unsigned)index < u->count ? u->peers[index] : NULL;
}

int mg_peer_index(const mg_peer *p)
{
    return p->index;
}

int mg_peer_tier(const mg_peer *p)
{
    return p->tier;
}

int mg_peer_twin(const mg_peer *p)
{
    return (int)p->twin;
}

/* Both only grow, so the sum changes when either does. */
uint32_t mg_upstream_version(const mg_upstream *u)
{
    return u->version + __atomic_load_n(&u->state->version, __ATOMIC_RELAXED);
}

/* ---- Picking one. ---- */

static bool was_tried(const struct mg_peer *p, const struct mg_tried *tried)
{
    for (unsigned i = 0; i < tried->count; i++)
        if (tried->peers[i] == p)
            return true;
    return false;
}

static bool is_full(const struct mg_peer *p)
{
    uint32_t most = p->upstream->spec.max_connections;

    return most && (uint32_t)mg_peer_active(p) >= most;
}

static bool may_serve(const struct mg_peer *p, const struct mg_tried *tried)
{
    return !p->removed && !p->view->draining && !was_tried(p, tried);
}

/* Among those that are not draining. */
static bool too_few_are_healthy(const struct mg_upstream *u)
{
    unsigned healthy = 0, all = 0;

    for (unsigned i = 0; i < u->count; i++) {
        const mg_peer_view *view = u->peers[i]->view;
        all += !view->draining;
        healthy += !view->draining && view->healthy;
    }
    return !healthy || healthy < u->spec.panic * all;
}

bool mg_upstream_panics(mg_upstream *u)
{
    uint32_t version = mg_upstream_version(u);

    if (u->panics_at != version) {
        u->panics = too_few_are_healthy(u);
        u->panics_at = version;
    }
    return u->panics;
}

bool mg_upstream_panic_changed(struct mg_upstream *u, bool *panics)
{
    *panics = mg_upstream_panics(u);
    return u->count && __atomic_exchange_n(&u->state->panic, *panics, __ATOMIC_ACQ_REL) != *panics;
}

bool mg_peer_may(const struct mg_peer *p, const struct mg_tried *tried)
{
    return may_serve(p, tried) && (p->view->healthy || mg_upstream_panics(p->upstream)) && !is_full(p);
}

/* How often each peer comes in a round, as whole numbers: the smallest that have the weights' proportions, or near ones
 * when those are too large. The sum is returned. */
static unsigned whole_weights(const struct mg_upstream *u, unsigned *whole)
{
    double sum = 0, scale = 0;

    for (unsigned i = 0; i < u->count; i++)
        sum += u->peers[i]->weight;
    for (unsigned d = 1; d <= DENOMINATOR_MOST && sum * d <= TURNS_MOST && !scale; d++) {
        unsigned i = 0;
        while (i < u->count && fabs(u->peers[i]->weight * d - nearbyint(u->peers[i]->weight * d)) < 1e-6)
            i++;
        if (i == u->count)
            scale = d;
    }
    if (!scale)
        scale = TURNS_MOST / sum;

    unsigned total = 0, divisor = 0;
    for (unsigned i = 0; i < u->count; i++) {
        double w = nearbyint(u->peers[i]->weight * scale);
        whole[i] = w < 1 ? 1 : (unsigned)w;
        for (unsigned a = whole[i]; a;) { /* the greatest common divisor, by Euclid */
            unsigned b = divisor % a;
            divisor = a;
            a = b;
        }
    }
    for (unsigned i = 0; i < u->count; i++)
        total += whole[i] /= divisor;
    return total;
}

/* One round of the smooth weighted round robin: everybody gains its weight, the richest is picked and pays the sum. */
static bool make_round(struct mg_upstream *u)
{
    unsigned *whole = calloc(u->count, sizeof(*whole));
    int *rich = calloc(u->count, sizeof(*rich));
    unsigned total = whole ? whole_weights(u, whole) : 0;
    uint16_t *turns = calloc(total ? total : 1, sizeof(*turns));

    if (whole && rich && turns) {
        for (unsigned t = 0; t < total; t++) {
            unsigned best = 0;
            for (unsigned i = 0; i < u->count && total > u->count; i++) {
                rich[i] += (int)whole[i];
                if (rich[i] > rich[best])
                    best = i;
            }
            if (total == u->count)
                best = t; /* all weights are the same */
            rich[best] -= (int)total;
            turns[t] = (uint16_t)best;
        }
        free(u->turns);
        u->turns = turns;
        u->turn_count = total;
        u->stale = false;
        turns = NULL;
    }
    free(whole);
    free(rich);
    free(turns);
    return !u->stale;
}

/* Goes on from a turn that may not serve. The others' turns are moved along, so that what the refused would have got is
 * shared by all and does not fall to its neighbour. */
static struct mg_peer *pick_further(struct mg_upstream *u, const struct mg_tried *tried, uint64_t at, bool *full)
{
    bool any = mg_upstream_panics(u);

    for (unsigned i = 0; i < u->turn_count; i++) {
        struct mg_peer *p = u->peers[u->turns[(at + i) % u->turn_count]];
        if (!may_serve(p, tried) || !(p->view->healthy || any))
            continue;
        if (is_full(p)) {
            *full = true;
            continue;
        }
        if (i && !tried->count)
            __atomic_fetch_add(&u->state->cursor, i, __ATOMIC_RELAXED);
        return p;
    }
    return NULL;
}

static struct mg_peer *pick_in_turn(struct mg_upstream *u, const struct mg_tried *tried, bool *full)
{
    if (u->stale && !make_round(u))
        return NULL;
    /* Another try takes nobody's turn: otherwise a dead peer's turn would always be followed by its own next one. */
    uint64_t at = tried->count ? __atomic_load_n(&u->state->cursor, __ATOMIC_RELAXED)
                               : __atomic_fetch_add(&u->state->cursor, 1, __ATOMIC_RELAXED);
    struct mg_peer *p = u->peers[u->turns[at % u->turn_count]];
    if (p->view->healthy && may_serve(p, tried) && !is_full(p))
        return p;
    return pick_further(u, tried, at, full);
}

static struct mg_peer *pick_least(struct mg_upstream *u, const struct mg_tried *tried, bool *full)
{
    struct mg_peer *best = NULL;
    double least = 0;
    bool any = mg_upstream_panics(u);
    unsigned at = u->tie++ % u->count;

    for (unsigned i = 0; i < u->count; i++) {
        struct mg_peer *p = u->peers[at];
        at = at + 1 < u->count ? at + 1 : 0;
        if (!may_serve(p, tried) || !(p->view->healthy || any))
            continue;
        uint32_t active = (uint32_t)mg_peer_active(p);
        if (u->spec.max_connections && active >= u->spec.max_connections) {
            *full = true;
            continue;
        }
        double load = (active + 1) / p->weight;
        if (!best || load < least) {
            best = p;
            least = load;
        }
    }
    return best;
}

struct mg_peer *mg_peer_pick(struct mg_upstream *u, const struct mg_tried *tried, bool *full)
{
    struct mg_peer *p = NULL;
    bool crowded = false;

    if (u->count)
        p = u->spec.balance == MG_BALANCE_LEAST_CONN ? pick_least(u, tried, &crowded)
                                                     : pick_in_turn(u, tried, &crowded);
    *full = crowded && !p;
    return p;
}

/* ---- Tries. ---- */

/* Peak EWMA, as Finagle has it: what is remembered fades with time, whether somebody comes or not, so that a peer that
 * was slow is tried again. Two workers at once may lose a sample, which an average does not mind. */
static double faded(const struct mg_peer_state *s, double now, double *kept)
{
    double peak, peaked;

    __atomic_load(&s->peak, &peak, __ATOMIC_RELAXED);
    __atomic_load(&s->peaked, &peaked, __ATOMIC_RELAXED);
    *kept = now > peaked ? exp((peaked - now) / PEAK_FADES) : 1;
    return peak * *kept;
}

static void note_peak(struct mg_peer_state *s, double latency)
{
    double now = mg_clock_now(), kept, peak = faded(s, now, &kept);

    peak = latency > peak ? latency : peak + (1 - kept) * latency;
    __atomic_store(&s->peak, &peak, __ATOMIC_RELAXED);
    __atomic_store(&s->peaked, &now, __ATOMIC_RELAXED);
}

double mg_peer_peak(mg_peer *p)
{
    double kept;

    p->upstream->peaks = true;
    return faded(p->state, mg_clock_now(), &kept);
}

void mg_peer_begin(struct mg_peer *p)
{
    uint32_t *active = &p->state->active[mg_shared_slot()];

    __atomic_store_n(active, *active + 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&p->view->requests, 1, __ATOMIC_RELAXED);
}

void mg_peer_end(struct mg_peer *p, bool failed, double latency)
{
    mg_peer_view *view = p->view;
    uint32_t *active = &p->state->active[mg_shared_slot()];

    assert(*active);
    __atomic_store_n(active, *active - 1, __ATOMIC_RELAXED);
    mg_meter_try(&p->upstream->meter, p->upstream->spec.name, failed, latency);
    if (failed) {
        __atomic_fetch_add(&view->failures, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&view->failed, 1, __ATOMIC_RELAXED);
    }
    if (latency < 0)
        return;
    if (!failed && __atomic_load_n(&view->failures, __ATOMIC_RELAXED))
        __atomic_store_n(&view->failures, 0, __ATOMIC_RELAXED);
    if (p->upstream->peaks)
        note_peak(p->state, latency);
    /* Two workers at once may lose a sample, which an average does not mind. */
    double average;
    __atomic_load(&view->latency, &average, __ATOMIC_RELAXED);
    average = average > 0 ? average + LATENCY_SHARE * (latency - average) : latency;
    __atomic_store(&view->latency, &average, __ATOMIC_RELAXED);
}

void mg_peer_forget_slot(unsigned slot)
{
    struct mg_peer_state *state;

    assert(slot < MG_SLOTS_MAX);
    for (unsigned n = 0; (state = mg_shared_nth(MG_LIT(PEER_PREFIX), n)); n++)
        __atomic_store_n(&state->active[slot], 0, __ATOMIC_RELAXED);
}

bool mg_upstream_request(struct mg_upstream *u)
{
    u->budget += u->spec.retry_budget;
    if (u->budget > BUDGET_MOST)
        u->budget = BUDGET_MOST;
    return u->spec.breaker.on;
}

bool mg_upstream_may_retry(struct mg_upstream *u)
{
    if (u->budget < 1)
        return false;
    u->budget -= 1;
    return true;
}

struct mg_upstream_counts *mg_upstream_counts(const struct mg_upstream *u)
{
    return &u->state->counts;
}

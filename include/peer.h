/* peer.h - upstreams and their peers: who may be picked, and who is.
 *
 * What all workers count together (in flight, failures, latency, health, the
 * round robin's cursor) lies in shared memory, found again by the upstream's
 * and peer's name, so it survives a reload. In-flight counts are kept a
 * worker, so that a dead worker's can be taken off.
 */
#pragma once

#include "origin.h"
#include "shared.h"
#include "status.h"
#include "window.h"

enum { MG_PEERS_MAX = 4096, MG_TRIED_MAX = 16 };

struct mg_peer {
    struct mg_upstream *upstream;
    struct mg_peer_view *view; /* shared */
    struct mg_origin origin;   /* how to reach it: dial.c's part */
    mg_slice name;             /* as declared: "10.0.0.1:8080" */
    mg_slice zone;
    double weight;
    int index;     /* among the upstream's peers now; changes when one before it is removed */
    unsigned twin; /* which of the peers with the same address it is */
    bool removed;
    bool came;                     /* no script has declared it: roster.c's */
    uint16_t tier;                 /* as was said when it came; 1 */
    double declared;               /* the weight that the script says; 0: it came */
    unsigned place;                /* among those that the script has declared */
    bool guarded;                  /* its upstream has a breaker, which hears of each try */
    bool watched;                  /* the heads of its answers are looked at (mg_health_see) */
    struct mg_peer_health *health; /* shared; health.c's and ejection.c's */
    struct mg_peer_state *state;   /* shared; peer.c's own */
};

/* What is behind the health that a peer's view shows. */
struct mg_peer_health {
    uint32_t passed, missed; /* checks in a row */
    double eased;            /* when it counted as ejected once less */
    struct mg_window window;
};

/* What others keep with an upstream. */
struct mg_watch {
    struct mg_breaker *breaker; /* breaker.c's, shared; NULL: it has none */
    struct mg_news *news;       /* of its generation; NULL: of none */
};

/* What became of requests beyond their first tries, of all workers. */
struct mg_upstream_counts {
    uint64_t retries, hedges, hedges_won;
    uint64_t mirrored, mirrors_dropped; /* copies that it got, and that it should have got */
};

/* Which peers an exchange has tried already. */
struct mg_tried {
    struct mg_peer *peers[MG_TRIED_MAX];
    unsigned count;
};

/* Copies all of spec. NULL without memory or with mg_problem-style *problem. */
struct mg_upstream *mg_upstream_new(const mg_upstream_spec *spec, const char **problem);
void mg_upstream_free(struct mg_upstream *u);
const mg_upstream_spec *mg_upstream_spec_of(const struct mg_upstream *u);
/* Another one of the two than was declared: for simulations. */
void mg_upstream_set_balance(struct mg_upstream *u, enum mg_balance balance);

/* NULL with *problem: not an address, weight not above 0, too many. The same address may stand twice. Peers that are
 * added while traffic flows count as declared. */
struct mg_peer *mg_upstream_add_peer(struct mg_upstream *u, mg_slice address, double weight, mg_slice zone,
                                     const char **problem);

struct mg_watch *mg_upstream_watch(struct mg_upstream *u);

/* What is wrong with an address or a weight; NULL: nothing. */
const char *mg_peer_check(mg_slice address, double weight);
/* As of this worker; what was said to all of them is roster.c's. */
void mg_peer_set_weight(struct mg_peer *p, double weight);
void mg_peer_set_tier(struct mg_peer *p, uint16_t tier);
void mg_peer_take_off(struct mg_peer *p);
/* Puts the peers in the order that all workers agree on, as turns go by it: as declared, then those that came. */
void mg_upstream_sort(struct mg_upstream *u);
/* One of those that were taken off; NULL: there are not so many. */
struct mg_peer *mg_upstream_removed(struct mg_upstream *u, unsigned i);
/* What roster.c keeps with an upstream. */
struct mg_roster_seat {
    struct mg_roster *roster; /* shared; NULL: not looked for yet */
    uint32_t seen;            /* the version of it that was taken up */
};
struct mg_roster_seat *mg_upstream_seat(struct mg_upstream *u);

/* May it be picked: not removed, healthy, not draining, below max_connections, not tried? In a panic all count as
 * healthy: when none is, or a smaller share than spec.panic. */
bool mg_peer_may(const struct mg_peer *p, const struct mg_tried *tried);
/* By the upstream's own balance: smooth weighted round robin over all workers, or the least in flight by weight (ties
 * by
 * turn). NULL if none may be picked; *full says whether max_connections alone was in the way. */
struct mg_peer *mg_peer_pick(struct mg_upstream *u, const struct mg_tried *tried, bool *full);

/* All workers see it, and mg_upstream_version() changes. Called by mg_health_settle() alone. */
void mg_peer_set_healthy(struct mg_peer *p, bool healthy);
/* Has a panic begun or ended that nobody was told of? True once over all workers. */
bool mg_upstream_panic_changed(struct mg_upstream *u, bool *panics);

/* A try begins and ends. latency: seconds to the response's head, below 0 if there was none; the
 * average that scripts see takes in a tenth of each. One that did not fail and has no latency was given up: nothing is
 * known of the peer by it. */
void mg_peer_begin(struct mg_peer *p);
void mg_peer_end(struct mg_peer *p, bool failed, double latency);
/* Takes off what the worker of this slot had in flight, which has died. */
void mg_peer_forget_slot(unsigned slot);

/* The retry budget, a token bucket a worker: each request pays in spec.retry_budget, and another try of one that an
 * origin may have seen takes 1. It begins full, with 100 (or empty, without a budget), so that the requests under way
 * when a peer dies can all be tried again. True: the upstream's breaker must be asked (breaker.h). */
bool mg_upstream_request(struct mg_upstream *u);
bool mg_upstream_may_retry(struct mg_upstream *u);
/* In shared memory: by mg_upstream_count_one() alone. */
struct mg_upstream_counts *mg_upstream_counts(const struct mg_upstream *u);
static inline void mg_upstream_count_one(uint64_t *count)
{
    __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
}

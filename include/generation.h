/* generation.h - what one load of the user's script declared.
 *
 * Declaring fills one in; nothing is bound and nothing is in force until the
 * whole script has succeeded. An exchange keeps the generation it began in.
 * What survives a reload (connections, idle pools, peers' counters, shared
 * dictionaries) belongs to the worker, not to this.
 */
#pragma once

#include "address.h"
#include "arena.h"
#include "hook.h"
#include "meter.h"
#include "news.h"
#include "times.h"
#include "peer.h"
#include "route.h"
#include "tally.h"
#include "task.h"

enum mg_generation_state {
    MG_GENERATION_LOADING,
    MG_GENERATION_READY,
    MG_GENERATION_CANARY, /* a share of the exchanges begins in it */
    MG_GENERATION_IN_FORCE,
    MG_GENERATION_KEPT,    /* another one is in force, on probation; this one may come back */
    MG_GENERATION_RETIRED, /* another one is in force; closed when its last exchange ends */
    MG_GENERATION_CUT,     /* the same, and its drain_timeout is over: it has no VM any more */
    MG_GENERATION_FAILED,
};

struct mg_listen {
    struct mg_address address;
    mg_slice text, where; /* as declared, and the script's line */
    int backlog;
    bool http2;
    bool proxy_protocol; /* each connection begins with a PROXY header */
    bool sni;            /* the ClientHello is read, though nobody here answers it */
    int tcp;             /* the number of the TCP route that it leads to; below 0: it speaks HTTP */
    struct mg_tls *tls;  /* the generation's; NULL: clear text */
    mg_limits limits;
    struct mg_times times;
    struct mg_network *trusted;
    unsigned trusted_count;
};

/* Copies of a route's requests (mirror.h). */
struct mg_mirror {
    struct mg_upstream *upstream;
    double share; /* 0 to 1 */
    uint32_t max_body, max_active;
    unsigned active; /* under way, of this worker */
};

struct mg_route {
    mg_slice name, pattern, where;
    struct mg_upstream *upstream; /* NULL: a handler answers; a TCP route: Lua chooses */
    uint32_t wants;
    unsigned attempts; /* 0: as the upstream says */
    bool own_limits;
    struct mg_mirror *mirror; /* NULL: none */
    struct mg_route_meter meter;
    mg_limits limits;
    struct mg_times times;
};

/* Where a connection of a TCP route goes. */
struct mg_tcp_destination {
    struct mg_generation *generation;
    struct mg_route *route;
    struct mg_upstream *upstream;
    mg_slice name; /* that its ClientHello asks for; empty: none was read */
};

struct mg_exchange;

/* Numbers for the views that Lua knows: small, used again. */
struct mg_slots {
    uint32_t *free;
    uint32_t free_count, room, next;
};

/* The script has run and is good (MG_OK), or why not, as text for the user; once, from the loop. */
typedef void mg_on_loaded(struct mg_generation *g, enum mg_status status, mg_slice problem);
/* The init hooks are done (MG_OK) or one threw; called once, from the loop or from mg_vm_init. */
typedef void mg_on_ready(struct mg_generation *g, enum mg_status status);

struct mg_generation {
    unsigned magic, number;
    enum mg_generation_state state;
    struct mg_policy *policy;
    struct mg_tally *tally; /* of this worker */
    struct mg_router *router;
    struct mg_route *routes;
    unsigned route_count, route_room;
    struct mg_route unrouted; /* stands for the route of an exchange that has none */
    struct mg_listen *listens;
    unsigned listen_count;
    struct mg_upstream **upstreams;
    unsigned upstream_count;
    struct mg_tls **tls; /* all that were declared; held */
    unsigned tls_count;
    uint32_t use_wants; /* MG_PHASE_REQUEST and the bits MG_USE_* */
    mg_settings settings;
    struct mg_arena *arena; /* the declared texts */
    struct mg_tickets tickets;
    struct mg_slots exchange_slots, connection_slots;
    unsigned tasks;     /* that refer to it */
    unsigned exchanges; /* and connections in their greeting: it stays as long */
    mg_lua_counts lua;
    struct mg_hooks hooks;
    struct mg_news news;
    bool watched;      /* its runs are timed */
    unsigned declared; /* chunks of its arena, for the question what is left open */
    int ready_code;    /* what mg_generation_ready said */
    bool ready_known;
    mg_on_loaded *on_loaded;
    mg_on_ready *on_ready;
    /* Its VM was lost to a run that would not stop: a new generation must take its place. From outside Lua. */
    void (*on_lost)(struct mg_generation *g);
    char *fault; /* of malloc: the traceback of the init hook that threw */
    /* Of malloc; NULL if nobody asked: what it declared, to be compared with a later one; what has changed since the
     * one before, in two texts with a zero byte between them; the files it was made of, one a line. */
    char *outline, *changes, *files;
    /* Of malloc: what the one in force keeps (gate.keep), while this one is loaded or takes its place. */
    char *kept;
    size_t kept_len;
    double in_force;            /* mg_clock_now() when it was put there */
    double retired;             /* and when another one took its place */
    struct mg_generation *next; /* the worker's list of retired ones */
};

/* Bits of use_wants above the phases'. */
enum {
    MG_USE_CONNECT = 1u << MG_PHASE_COUNT,
    MG_USE_INIT = 1u << (MG_PHASE_COUNT + 1),
    MG_USE_EXIT = 1u << (MG_PHASE_COUNT + 2),
    MG_USE_HELLO = 1u << (MG_PHASE_COUNT + 3),
};

/* A connection before its codec: greeting.c's. `done` is called once the hooks of a phase are done (not if
 * policy->connect said MG_MORE), from outside Lua. */
struct mg_connecting {
    mg_connection_view view;
    struct mg_task task; /* view.task points here */
    void (*done)(struct mg_connecting *c);
    struct mg_connecting *next; /* of those that are done */
};

/* The one in force in this worker; NULL before the first commit. */
extern struct mg_generation *mg_generation_now;

struct mg_generation *mg_generation_new(unsigned number);
/* Its VM must be closed already. */
void mg_generation_free(struct mg_generation *g);

/* What a sentence about a failed declaration says; shared by the seam's mg_declare_* and mg_problem. */
const char *mg_generation_problem(void);

/* The TCP route of the listener at this address; NULL if there is none. */
struct mg_route *mg_generation_tcp_route(const struct mg_generation *g, const struct mg_address *a);
/* Is this address one of a proxy of ours? */
bool mg_listen_trusts(const struct mg_listen *l, const struct mg_address *a);

/* A run of this hook has overrun a budget: counts for its policy's on_fail, which may be taken out by it. */
void mg_hook_overran(struct mg_generation *g, int hook);

uint32_t mg_slot_take(struct mg_slots *s);
void mg_slot_give(struct mg_slots *s, uint32_t slot);

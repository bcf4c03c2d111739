/* simulation.h - what Lua tells the simulator and reads from it: moongate.simulate's side.
 *
 * Like seam.h one text with two readers: the C compiler, and LuaJIT's ffi.cdef, behind seam.h's. Everything that a plan
 * points to belongs to Lua, which keeps it until the run is over. Times are seconds; those of a plan count from its
 * beginning.
 */
#pragma once

#include "seam.h"

/* How long something takes, by chance. */
enum mg_law_kind {
    MG_LAW_CONSTANT,
    MG_LAW_EXPONENTIAL,
    MG_LAW_LOGNORMAL,
    MG_LAW_PARETO,
    MG_LAW_BIMODAL,
    MG_LAW_SAMPLES
};
typedef struct mg_law {
    int kind;              /* mg_law_kind */
    double mean;           /* BIMODAL: of the quick ones */
    double shape;          /* LOGNORMAL: sigma; PARETO: alpha, above 1; BIMODAL: of the slow ones */
    double share;          /* BIMODAL: of the slow ones, 0 to 1 */
    const double *samples; /* SAMPLES: in ascending order */
    uint32_t sample_count;
} mg_law;

/* A server behind the gateway. */
typedef struct mg_backend_plan {
    mg_slice address;    /* as the script declares the peer */
    mg_law service;      /* how long it works at a request */
    double slowness;     /* times as long */
    uint32_t capacity;   /* requests that it works at at once; 0: any number */
    uint32_t queue;      /* that may wait there; more are answered 503 */
    double fails;        /* share of the requests that fail, 0 to 1 */
    uint16_t fails_with; /* with this status; 0: the connection is cut */
} mg_backend_plan;

enum mg_change_what {
    MG_CHANGE_UP,
    MG_CHANGE_KILLED,      /* what it works at is cut, and connections are refused */
    MG_CHANGE_FROZEN,      /* it answers nothing until it is up again */
    MG_CHANGE_UNREACHABLE, /* what it works at is lost, and connections time out */
    MG_CHANGE_SLOWNESS,    /* to `value` */
    MG_CHANGE_FAILS,
    MG_CHANGE_HEALTHY, /* a check has found it so, or with a value of 0 not so */
};
typedef struct mg_change {
    double at, value;
    uint32_t backend; /* its place in the plan */
    int what;         /* mg_change_what */
} mg_change;

/* Texts one behind the other: the nth ends at ends[n]. */
typedef struct mg_words {
    const char *bytes;
    const uint32_t *ends;
    uint32_t count;
} mg_words;

/* A field of the requests. */
typedef struct mg_field_plan {
    mg_slice name;
    mg_words values;        /* by client; empty ones are left out */
    const uint32_t *chosen; /* or by request; may be NULL */
} mg_field_plan;

/* What became of a request. */
typedef struct mg_outcome {
    float latency;    /* to the head of the answer, seconds; below 0: there was none */
    uint16_t status;  /* 0: the answer was cut */
    uint16_t backend; /* that got the last try; 65535: none did */
    uint8_t tries;
} mg_outcome;

enum { MG_CROWD_MOST = 256 }; /* requests at one server that are told apart */

typedef struct mg_simulation {
    /* The plan. */
    mg_slice upstream;
    uint64_t seed;
    uint32_t workers;
    bool own_view;                   /* each worker is a gateway of its own, which knows nothing of the others */
    uint32_t count;                  /* of requests */
    const double *at;                /* when each comes, ascending */
    const uint32_t *client, *target; /* who asks, and for what: numbers of words */
    const double *service;           /* how long each takes, instead of the servers' laws; NULL */
    mg_words clients, targets;       /* addresses; paths with their queries */
    const mg_field_plan *fields;
    uint32_t field_count, backend_count, change_count;
    const mg_backend_plan *backends;
    mg_backend_plan usual;    /* of peers that come while the script runs */
    const double *delays;     /* there and back: of each worker to each server */
    const mg_change *changes; /* ascending by `at` */
    double warm_up, patience; /* what comes before is not counted; how long after the last request answers may come */
    double bucket;            /* width of the series' columns, seconds */
    uint32_t bucket_count;
    mg_slice name; /* of the run, for its progress */

    /* What came of it, until the next run. */
    const mg_outcome *outcomes;  /* by request */
    const double *load;          /* bucket by bucket: what each server had, on average */
    const uint32_t *sent;        /* bucket by bucket: tries that began at each */
    const double *crowd;         /* by n below MG_CROWD_MOST: the share of time and servers with n requests there */
    const double *busy;          /* by server: seconds of work at a request, from warm_up to the last request */
    uint32_t served_backends;    /* servers there were: those of the plan, then those that were added */
    double began, ended, wall;   /* simulated time from warm_up to the last answer; seconds that the run took */
    uint32_t retries, ejections; /* tries behind the first; times that a peer was found not healthy */
    uint32_t events;
} mg_simulation;

/* The one of this process. */
mg_simulation *mg_simulation_at_hand(void);
/* Which worker is at work, also in gateways of their own, of whom each calls itself the first. */
uint32_t mg_simulation_turn(void);
/* The upstream that is looked at has this built-in balancer instead of its own. */
void mg_simulation_balance(mg_upstream *u, int balance);
/* The address of the nth server, those that were added behind those of the plan; until the next run. */
void mg_simulation_address(uint32_t n, mg_slice *out);
/* Ascending. */
void mg_simulation_sort(float *values, uint32_t count);
/* What the law makes of two even numbers from 0 to below 1. */
double mg_law_draw(const mg_law *law, double u, double v);
/* An even number, the same for the same three. */
double mg_chance(uint64_t seed, uint32_t what, uint32_t number);

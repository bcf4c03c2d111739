/* meter.h - what the core counts of the traffic: the metrics whose names begin with "moongate_".
 *
 * Each function is called where the thing happens, and costs an addition or two; series are made when first needed.
 * Whoever is counted has a meter, zeroed at first, which keeps where its cells lie.
 */
#pragma once

#include <stdbool.h>

#include "metric.h"

struct mg_route_meter {
    double *status[6]; /* 1xx to 5xx; [0]: the client left before there was an answer, or bytes were passed on */
    double *in, *out, *duration;
};
/* An exchange of the route has ended. */
struct mg_metered {
    unsigned status;
    double in, out;  /* bytes of the bodies */
    double duration; /* seconds */
    double time;     /* Unix */
    uint64_t id[2];  /* of its trace, if it is traced; else 0 and its own */
    bool traced;
    mg_slice failure; /* why the proxy answered itself; empty: it did not */
};
void mg_meter_exchange(struct mg_route_meter *m, mg_slice route, const struct mg_metered *x);

/* A try at a peer of the upstream has ended. latency: seconds to the response's head, below 0 if there was none. */
struct mg_upstream_meter {
    double *answered, *failed, *given_up, *latency;
};
void mg_meter_try(struct mg_upstream_meter *m, mg_slice upstream, bool failed, double latency);

/* A connection came to the listener; it is open (twice for one that goes over to HTTP/2); it has ended. */
struct mg_listener_meter {
    double *accepted, *open, *full;
};
void mg_meter_accepted(struct mg_listener_meter *m, mg_slice listener);
void mg_meter_opened(struct mg_listener_meter *m, mg_slice listener);
void mg_meter_closed(struct mg_listener_meter *m, mg_slice listener);
/* It takes none for now: max_connections are open. */
void mg_meter_full(struct mg_listener_meter *m, mg_slice listener);
/* A connection came to nothing, for this reason. */
void mg_meter_turned_away(const char *why);
/* A TLS handshake with a client has ended well; `resumed`: of a session that was there. */
void mg_meter_handshake(bool resumed);

/* What a worker has now. */
enum { MG_LEVEL_IN_FORCE, MG_LEVEL_CANARY, MG_LEVEL_OLD, MG_LEVELS };
struct mg_worker_level {
    unsigned exchanges[MG_LEVELS]; /* under way in the generation in force, in the canary, in older ones */
    double memory;                 /* bytes of all its VMs */
};
void mg_meter_worker(const struct mg_worker_level *l);
/* Its generation in force has lost its VM; a run was over cpu_budget. */
void mg_meter_vm_lost(void);
void mg_meter_overran(void);

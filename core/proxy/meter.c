/* meter.c - what the core counts of the traffic. */
#include "meter.h"

#include <stdio.h>
#include <string.h>

#include "text.h"

#define NONE MG_LIT("")

enum { REASONS_MOST = 200, DURATIONS = 15 };

/* Seconds, as most users of Prometheus have them. */
static const double durations[DURATIONS] = { 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                             0.25,   0.5,   1,      2.5,   5,    10,    30 };

struct kind {
    mg_metric_spec spec;
    bool exemplars;
    int number; /* from 1; 0: not looked for yet */
};

/* clang-format off */
#define COUNTER(name_, help_, labels_) \
    { .spec = { .name = MG_LIT(name_), .help = MG_LIT(help_), .labels = MG_LIT(labels_) } }
#define LEVEL(name_, help_, labels_) \
    { .spec = { .name = MG_LIT(name_), .help = MG_LIT(help_), .labels = MG_LIT(labels_), .kind = MG_METRIC_LEVEL } }
#define REASONS(name_, help_) \
    { .spec = { .name = MG_LIT(name_), .help = MG_LIT(help_), .labels = MG_LIT("reason"), .most = REASONS_MOST } }
#define SECONDS(name_, help_, labels_, exemplars_) \
    { .spec = { .name = MG_LIT(name_), .help = MG_LIT(help_), .labels = MG_LIT(labels_), .kind = MG_METRIC_HISTOGRAM, \
                .bound_count = DURATIONS, .bounds = durations }, .exemplars = exemplars_ }
/* clang-format on */

static struct kind requests = COUNTER("moongate_requests_total", "Exchanges that have ended, by the class of status.",
                                      "route,status");
static struct kind bytes_in = COUNTER("moongate_request_bytes_total", "Bytes of request bodies.", "route");
static struct kind bytes_out = COUNTER("moongate_response_bytes_total", "Bytes of response bodies.", "route");
static struct kind duration = SECONDS("moongate_request_duration_seconds",
                                      "From a request's head to the end of its exchange.", "route", true);
static struct kind failures = REASONS("moongate_failures_total",
                                      "Exchanges that the proxy itself had to answer or to end, by the reason.");
static struct kind tries = COUNTER("moongate_upstream_tries_total", "Tries at peers that have ended, by their outcome.",
                                   "upstream,outcome");
static struct kind latency = SECONDS("moongate_upstream_latency_seconds",
                                     "From the beginning of a try to the response's head.", "upstream", false);
static struct kind accepted = COUNTER("moongate_connections_accepted_total", "Connections of clients.", "listener");
static struct kind open_now = LEVEL("moongate_connections_open", "Connections of clients that are open.", "listener");
static struct kind full = COUNTER("moongate_listener_full_total",
                                  "Times that a worker stopped to accept because of max_connections.", "listener");
static struct kind turned_away = REASONS("moongate_connections_turned_away_total",
                                         "Connections that came to nothing, by the reason.");
static struct kind handshakes = COUNTER("moongate_tls_handshakes_total", "TLS handshakes with clients that ended well.",
                                        "resumed");
static struct kind exchanges = LEVEL("moongate_generation_exchanges",
                                     "Exchanges under way: in the generation in force, in a canary, in older ones.",
                                     "generation");
static struct kind memory = LEVEL("moongate_lua_memory_bytes", "Memory of the Lua VMs of all workers.", "");
static struct kind vms_lost = COUNTER("moongate_lua_vms_lost_total", "Lua VMs that were thrown away.", "");
static struct kind overruns = COUNTER("moongate_lua_overruns_total", "Runs of hooks that were over cpu_budget.", "");

static double *cells(struct kind *k, mg_slice first, mg_slice second)
{
    mg_slice values[2] = { first, second };

    if (!k->number) {
        int made = mg_metric_make(&k->spec, k->exemplars);
        if (made < 0)
            return mg_metric_cells(made, values);
        k->number = made + 1;
    }
    return mg_metric_cells(k->number - 1, values);
}

static inline void count(double **kept, struct kind *k, mg_slice first, mg_slice second, double n)
{
    if (__builtin_expect(!*kept, 0))
        *kept = cells(k, first, second);
    mg_metric_count(*kept, n);
}

/* ---- Exchanges. ---- */

static void note_exemplar(double *bucket, unsigned i, double value, const struct mg_metered *x)
{
    struct mg_exemplar *e = (struct mg_exemplar *)(bucket + DURATIONS + 2) + i;

    __atomic_store_n(&e->turn, e->turn + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    e->id[0] = x->id[0];
    e->id[1] = x->id[1];
    e->traced = x->traced;
    e->value = value;
    e->time = x->time;
    __atomic_store_n(&e->turn, e->turn + 1, __ATOMIC_RELEASE);
}

/* The first exchange of the route in this generation. */
static __attribute__((noinline)) void open_route(struct mg_route_meter *m, mg_slice route)
{
    m->in = cells(&bytes_in, route, NONE);
    m->out = cells(&bytes_out, route, NONE);
    m->duration = cells(&duration, route, NONE);
}

void mg_meter_exchange(struct mg_route_meter *m, mg_slice route, const struct mg_metered *x)
{
    static const mg_slice classes[6] = { { "none", 4 }, { "1xx", 3 }, { "2xx", 3 },
                                         { "3xx", 3 },  { "4xx", 3 }, { "5xx", 3 } };
    unsigned class = x->status < 600 ? x->status / 100 : 0;

    if (__builtin_expect(!m->duration, 0))
        open_route(m, route);
    count(&m->status[class], &requests, route, classes[class], 1);
    mg_metric_count(m->in, x->in);
    mg_metric_count(m->out, x->out);
    note_exemplar(m->duration, mg_metric_observe(m->duration, durations, DURATIONS, x->duration), x->duration, x);
    if (x->failure.len)
        mg_metric_count(cells(&failures, x->failure, NONE), 1);
}

/* ---- Tries. ---- */

void mg_meter_try(struct mg_upstream_meter *m, mg_slice upstream, bool failed, double seconds)
{
    double **kept = failed ? &m->failed : seconds >= 0 ? &m->answered : &m->given_up;

    count(kept, &tries, upstream,
          failed         ? MG_LIT("failed")
          : seconds >= 0 ? MG_LIT("answered")
                         : MG_LIT("given up"),
          1);
    if (seconds < 0)
        return;
    if (!m->latency)
        m->latency = cells(&latency, upstream, NONE);
    mg_metric_observe(m->latency, durations, DURATIONS, seconds);
}

/* ---- Connections. ---- */

void mg_meter_accepted(struct mg_listener_meter *m, mg_slice listener)
{
    count(&m->accepted, &accepted, listener, NONE, 1);
}

void mg_meter_opened(struct mg_listener_meter *m, mg_slice listener)
{
    count(&m->open, &open_now, listener, NONE, 1);
}

void mg_meter_closed(struct mg_listener_meter *m, mg_slice listener)
{
    count(&m->open, &open_now, listener, NONE, -1);
}

void mg_meter_full(struct mg_listener_meter *m, mg_slice listener)
{
    count(&m->full, &full, listener, NONE, 1);
}

void mg_meter_turned_away(const char *why)
{
    mg_metric_count(cells(&turned_away, mg_slice_of(why), NONE), 1);
}

void mg_meter_handshake(bool resumed)
{
    static double *kept[2];

    count(&kept[resumed], &handshakes, resumed ? MG_LIT("yes") : MG_LIT("no"), NONE, 1);
}

/* ---- Workers. ---- */

void mg_meter_worker(const struct mg_worker_level *l)
{
    static const mg_slice words[MG_LEVELS] = { { "in force", 8 }, { "canary", 6 }, { "old", 3 } };
    static double *live[MG_LEVELS], *held;

    if (!held)
        held = cells(&memory, NONE, NONE);
    *held = l->memory;
    for (unsigned i = 0; i < MG_LEVELS; i++) {
        if (!live[i])
            live[i] = cells(&exchanges, words[i], NONE);
        *live[i] = l->exchanges[i];
    }
}

void mg_meter_vm_lost(void)
{
    static double *kept;

    count(&kept, &vms_lost, NONE, NONE, 1);
}

void mg_meter_overran(void)
{
    static double *kept;

    count(&kept, &overruns, NONE, NONE, 1);
}

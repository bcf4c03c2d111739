/* report.c - what a worker has open, as a JSON object: for `moongate status`, and for tests that nothing is left. */
#include "report.h"

#include <stdio.h>
#include <unistd.h>

#include "canary.h"
#include "coding.h"
#include "dial.h"
#include "engine.h"
#include "fetch.h"
#include "generations.h"
#include "h2.h"
#include "health_report.h"
#include "listener.h"
#include "outside.h"
#include "pool.h"
#include "queue.h"
#include "resolve.h"
#include "sink.h"
#include "srv.h"
#include "tcp.h"
#include "vm.h"

enum { REPORTED_MOST = 16 };   /* retired generations */
enum { POLICIES_MOST = 1024 }; /* bytes about the policies of each that have overrun */
enum { BEHIND_MOST = 64 };     /* bytes behind the upstreams */

static size_t report_generation(char *to, size_t size, const struct mg_generation *g)
{
    static const char *const states[] = {
        "loading", "ready", "canary", "in force", "kept", "retired", "cut", "failed"
    };
    bool old = g->state == MG_GENERATION_RETIRED || g->state == MG_GENERATION_CUT;

    char policies[POLICIES_MOST];

    mg_hooks_report(&g->hooks, policies, sizeof(policies));
    return (size_t)snprintf(to, size,
                            "{\"number\":%u,\"state\":\"%s\",\"retired_for\":%.0f,\"exchanges\":%u,\"memory\":%.0f,"
                            "\"policies\":[%s]}",
                            g->number, states[g->state], old ? mg_clock_now() - g->retired : 0, g->exchanges,
                            mg_vm_memory(g), policies);
}

struct sums {
    int tickets, fibers, requests;
    unsigned tasks;
};

static void add_counts(struct sums *s, const struct mg_generation *g)
{
    s->tickets += g->tickets.used;
    s->fibers += g->lua.fibers;
    s->requests += g->lua.requests;
    s->tasks += g->tasks;
}

static size_t report_worker(char *to, size_t size, int number, const struct mg_generation *now)
{
    struct sums s = { 0 };

    add_counts(&s, now);
    if (mg_generations_kept())
        add_counts(&s, mg_generations_kept());
    if (mg_canary)
        add_counts(&s, mg_canary);
    for (const struct mg_generation *g = mg_generations_retired(); g; g = g->next)
        add_counts(&s, g);
    return (size_t)snprintf(
        to, size,
        "{\"number\":%d,\"pid\":%d,\"generation\":%u,\"served\":%llu,\"connections\":%u,\"exchanges\":%u,"
        "\"streams\":%u,\"blocks\":%u,\"arenas\":%u,\"tickets\":%d,\"tasks\":%u,\"fibers\":%d,\"requests\":%d,"
        "\"sockets\":%u,\"fetches\":%u,\"coders\":%u,\"dials\":%u,\"idle\":%u,\"lookups\":%u,\"queued\":%u,"
        "\"memory\":%.0f,\"log_dropped\":%lu,\"generations\":[",
        number, (int)getpid(), now->number, (unsigned long long)mg_engine_served(), mg_listener_connections(),
        mg_engine_live(), mg_h1_streams() + mg_h2_streams() + mg_tcp_streams(), mg_block_live(),
        mg_arena_live() - mg_generations_declared(), s.tickets, s.tasks, s.fibers, s.requests, mg_outside_live(),
        mg_fetch_live(), mg_coding_live(), mg_dial_live(), mg_pool_idle(), mg_resolve_live() + mg_srv_live(), mg_queued,
        mg_vm_memory(now), mg_sink_dropped());
}

/* As many as there is room for. All workers would say the same, so one does. */
static size_t report_upstreams(char *to, size_t size, const struct mg_generation *now)
{
    size_t n = (size_t)snprintf(to, size, ",\"upstreams\":[");

    for (unsigned i = 0; i < now->upstream_count && size - n > BEHIND_MOST; i++) {
        size_t more = mg_health_report(now->upstreams[i], to + n, size - n - BEHIND_MOST);
        if (!more)
            break;
        n += more;
        to[n++] = ',';
    }
    if (to[n - 1] == ',')
        n--;
    to[n++] = ']';
    return n;
}

size_t mg_report(char *to, size_t size, int number, const struct mg_generation *now)
{
    unsigned told = 0;
    size_t n = report_worker(to, size, number, now);

    n += report_generation(to + n, size - n, now);
    if (mg_generations_kept()) {
        to[n++] = ',';
        n += report_generation(to + n, size - n, mg_generations_kept());
    }
    if (mg_canary) {
        to[n++] = ',';
        n += report_generation(to + n, size - n, mg_canary);
    }
    for (const struct mg_generation *g = mg_generations_retired(); g && told < REPORTED_MOST; g = g->next, told++) {
        to[n++] = ',';
        n += report_generation(to + n, size - n, g);
    }
    to[n++] = ']';
    if (number == 0)
        n += report_upstreams(to + n, size - n, now);
    return n + (size_t)snprintf(to + n, size - n, "}");
}

/* ledger.c - what a simulated run came to.
 *
 * A server's load is integrated whenever it changes, so a column of the series is a mean over its whole width, and the
 * time that servers had n requests is exact. */
#include "ledger.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BACKENDS_MOST = 4096, NO_BACKEND = 65535 };

struct backend {
    double since; /* what is in the books is up to then */
    uint32_t count, working;
};

static struct ledger {
    mg_simulation *plan;
    mg_outcome *outcomes;
    double *load, *busy, *crowd;
    uint32_t *sent;
    struct backend *backends;
    uint32_t room; /* for backends, in every list */
} l;

static void close_lists(void)
{
    free(l.outcomes);
    free(l.load);
    free(l.busy);
    free(l.crowd);
    free(l.sent);
    free(l.backends);
    l = (struct ledger){ 0 };
}

/* Columns begin anew in wider rows. */
static bool widen(uint32_t room)
{
    uint32_t buckets = l.plan->bucket_count, old = l.room;
    double *load = calloc((size_t)buckets * room, sizeof(*load));
    uint32_t *sent = calloc((size_t)buckets * room, sizeof(*sent));
    double *busy = calloc(room, sizeof(*busy));
    struct backend *backends = calloc(room, sizeof(*backends));

    if (!load || !sent || !busy || !backends) {
        free(load);
        free(sent);
        free(busy);
        free(backends);
        return false;
    }
    for (uint32_t i = 0; i < buckets && old; i++) {
        memcpy(load + (size_t)i * room, l.load + (size_t)i * old, old * sizeof(*load));
        memcpy(sent + (size_t)i * room, l.sent + (size_t)i * old, old * sizeof(*sent));
    }
    if (old) {
        memcpy(busy, l.busy, old * sizeof(*busy));
        memcpy(backends, l.backends, old * sizeof(*backends));
    }
    free(l.load);
    free(l.sent);
    free(l.busy);
    free(l.backends);
    l.load = load;
    l.sent = sent;
    l.busy = busy;
    l.backends = backends;
    l.room = room;
    return true;
}

static void show(mg_simulation *s)
{
    s->outcomes = l.outcomes;
    s->load = l.load;
    s->sent = l.sent;
    s->busy = l.busy;
    s->crowd = l.crowd;
}

bool mg_ledger_open(mg_simulation *s)
{
    close_lists();
    l.plan = s;
    l.outcomes = calloc(s->count ? s->count : 1, sizeof(*l.outcomes));
    l.crowd = calloc(MG_CROWD_MOST, sizeof(*l.crowd));
    s->served_backends = s->backend_count;
    s->retries = s->ejections = s->events = 0;
    s->began = s->ended = s->warm_up;
    bool good = l.outcomes && l.crowd && s->bucket_count && widen(s->backend_count ? s->backend_count : 1);
    if (!good) {
        close_lists();
        return false;
    }
    for (uint32_t i = 0; i < s->count; i++)
        l.outcomes[i] = (mg_outcome){ .latency = -1, .backend = NO_BACKEND };
    show(s);
    return true;
}

void mg_ledger_close(mg_simulation *s)
{
    close_lists();
    show(s);
}

bool mg_ledger_add_backend(mg_simulation *s)
{
    if (s->served_backends == BACKENDS_MOST)
        return false;
    if (s->served_backends == l.room && !widen(l.room * 2))
        return false;
    s->served_backends++;
    show(s);
    return true;
}

static uint32_t bucket_of(double now)
{
    double n = now / l.plan->bucket;
    uint32_t last = l.plan->bucket_count - 1;

    return n < 0 ? 0 : n < last ? (uint32_t)n : last;
}

void mg_ledger_sent(uint32_t backend, double now)
{
    l.sent[(size_t)bucket_of(now) * l.room + backend]++;
}

/* What the server has had since it was last looked at. */
static void book(uint32_t backend, double now)
{
    struct backend *b = &l.backends[backend];
    double from = b->since, counted = from > l.plan->warm_up ? from : l.plan->warm_up;

    b->since = now;
    if (now > counted)
        l.crowd[b->count < MG_CROWD_MOST ? b->count : MG_CROWD_MOST - 1] += now - counted;
    if (!b->count)
        return;
    double last = l.plan->bucket * l.plan->bucket_count, until = now < last ? now : last;
    if (until > counted)
        l.busy[backend] += b->working * (until - counted);
    for (uint32_t i = bucket_of(from); from < until; i++) {
        double end = l.plan->bucket * (i + 1);
        end = end < until && i + 1 < l.plan->bucket_count ? end : until;
        l.load[(size_t)i * l.room + backend] += b->count * (end - from);
        from = end;
    }
}

void mg_ledger_load(uint32_t backend, uint32_t count, double now)
{
    book(backend, now);
    l.backends[backend].count = count;
}

void mg_ledger_work(uint32_t backend, uint32_t count, double now)
{
    book(backend, now);
    l.backends[backend].working = count;
}

void mg_ledger_answered(uint32_t number, mg_outcome outcome, double now)
{
    assert(number < l.plan->count);
    l.outcomes[number] = outcome;
    if (now > l.plan->ended)
        l.plan->ended = now;
    if (outcome.tries > 1)
        l.plan->retries += outcome.tries - 1u;
}

/* Rows lie as the plan's reader expects them: as wide as there are servers. */
static void narrow(void)
{
    uint32_t wide = l.plan->served_backends;

    for (uint32_t i = 1; i < l.plan->bucket_count && wide < l.room; i++) {
        memmove(l.load + (size_t)i * wide, l.load + (size_t)i * l.room, wide * sizeof(*l.load));
        memmove(l.sent + (size_t)i * wide, l.sent + (size_t)i * l.room, wide * sizeof(*l.sent));
    }
    l.room = wide;
}

void mg_ledger_settle(double now)
{
    double sum = 0;

    for (uint32_t i = 0; i < l.plan->served_backends; i++)
        book(i, now);
    for (uint32_t n = 0; n < MG_CROWD_MOST; n++)
        sum += l.crowd[n];
    for (uint32_t n = 0; n < MG_CROWD_MOST && sum > 0; n++)
        l.crowd[n] /= sum;
    narrow();
    for (size_t i = 0; i < (size_t)l.plan->bucket_count * l.room; i++)
        l.load[i] /= l.plan->bucket;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

void mg_simulation_sort(float *values, uint32_t count)
{
    qsort(values, count, sizeof(*values), ascending);
}

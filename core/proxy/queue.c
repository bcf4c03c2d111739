/* queue.c - exchanges that wait for a peer below max_connections. */
#include "queue.h"

#include "breaker.h"
#include "engine.h"

static const double LOOK = 0.02; /* seconds between looks for a peer that another worker has freed */

unsigned mg_queued;
static struct mg_exchange *first, *last;

unsigned mg_queue_length(const struct mg_upstream *u)
{
    unsigned n = 0;

    for (const struct mg_exchange *x = first; x; x = x->next)
        n += x->view.upstream == u;
    return n;
}

static void on_patience(struct mg_timeout *t)
{
    struct mg_exchange *x = MG_HOLDER(t, struct mg_exchange, patience);

    mg_timeout_set(&x->patience, mg_clock_queue(LOOK));
    mg_engine_run(x);
}

void mg_queue_enter(struct mg_exchange *x)
{
    const mg_upstream_spec *spec = mg_upstream_spec_of(x->view.upstream);

    if (last)
        last->next = x;
    else
        first = x;
    last = x;
    mg_queued++;
    x->next = NULL;
    x->queued = true;
    x->counted_in = spec->breaker.on ? x->view.upstream : NULL;
    if (x->counted_in)
        mg_breaker_waits(x->counted_in, true);
    x->queue_until = mg_clock_now() + spec->queue_timeout;
    x->patience.fire = on_patience;
    mg_timeout_set(&x->patience, mg_clock_queue(LOOK));
}

void mg_queue_leave(struct mg_exchange *x)
{
    struct mg_exchange **link = &first, *before = NULL;

    if (!x->queued)
        return;
    while (*link != x) {
        before = *link;
        link = &(*link)->next;
    }
    *link = x->next;
    if (last == x)
        last = before;
    mg_queued--;
    x->next = NULL;
    x->queued = false;
    mg_timeout_clear(&x->patience);
    if (x->counted_in)
        mg_breaker_waits(x->counted_in, false);
    x->counted_in = NULL;
}

void mg_queue_call(const struct mg_upstream *u)
{
    for (struct mg_exchange *x = first; x; x = x->next) {
        if (x->view.upstream == u) {
            mg_engine_touch(x);
            return;
        }
    }
}

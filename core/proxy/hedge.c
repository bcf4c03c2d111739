/* hedge.c - a second try beside one that takes long: the first head wins.
 *
 * As "hedged requests" in Dean and Barroso, "The Tail at Scale" (CACM, 2013).
 * It costs the origins work, so it takes from the upstream's retry budget, and
 * only requests that may be sent twice are hedged: whole and kept. */
#include "hedge.h"

#include "breaker.h"
#include "engine.h"
#include "forward.h"
#include "in_flight.h"
#include "log.h"

static const mg_upstream_spec *spec_of(const struct mg_exchange *x)
{
    return mg_upstream_spec_of(x->view.upstream);
}

/* ---- Its end. ---- */

static void disarm(struct mg_hedge *h)
{
    if (h->alarm)
        mg_alarm_free(h->alarm);
    h->alarm = NULL;
    h->other = NULL;
    h->due = false;
}

void mg_hedge_let_go(struct mg_hedge *h)
{
    mg_timeout_clear(&h->total);
    h->stream = NULL;
    h->peer = NULL;
}

void mg_hedge_end(struct mg_hedge *h)
{
    struct mg_stream *s = h->stream;
    struct mg_peer *p = h->peer;

    disarm(h);
    if (!p)
        return;
    if (h->dial.work)
        mg_dial_cancel(&h->dial);
    mg_hedge_let_go(h);
    if (s)
        s->ops->reset(s, MG_WHY_CANCELLED);
    mg_in_flight_end(p, false, -1);
}

/* The peer has failed, or (`fault` is false) was not asked at all. */
static void fail(struct mg_hedge *h, const char *text, bool fault)
{
    struct mg_peer *p = h->peer;

    mg_log(MG_LOG_WARN, "peer %.*s: %s (hedge)", (int)p->name.len, p->name.ptr, text);
    mg_hedge_let_go(h);
    mg_in_flight_end(p, fault, -1);
    mg_engine_run(h->exchange);
}

/* ---- News from its origin. ---- */

static void on_interim(struct mg_stream *s, const struct mg_message *m)
{
    (void)s;
    (void)m; /* the client may hear of them from the other one */
}

static void on_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    struct mg_hedge *h = s->owner;
    struct mg_exchange *x = h->exchange;

    if (x->attempt.answered || x->answered || x->failed)
        return; /* its end is near */
    mg_upstream_count_one(&mg_upstream_counts(h->peer->upstream)->hedges_won);
    h->won(h, m, last);
}

static void on_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    (void)s;
    (void)last;
    mg_chain_clear(body);
}

static void on_trailers(struct mg_stream *s, const struct mg_message *m)
{
    (void)s;
    (void)m;
}

static void on_room(struct mg_stream *s)
{
    (void)s;
}

static void on_end(struct mg_stream *s, enum mg_why why)
{
    struct mg_hedge *h = s->owner;

    h->stream = NULL;
    fail(h, s->problem ? s->problem : "it ended without an answer", why != MG_WHY_STALE && why != MG_WHY_REFUSED);
}

static const struct mg_stream_events events = {
    .on_interim = on_interim,
    .on_head = on_head,
    .on_body = on_body,
    .on_trailers = on_trailers,
    .on_room = on_room,
    .on_end = on_end,
};

static void on_dialled(struct mg_dial *d, struct mg_stream *s, enum mg_failure failure, const char *text)
{
    struct mg_hedge *h = d->owner;

    (void)failure;
    h->stream = s;
    if (s)
        mg_engine_run(h->exchange);
    else
        fail(h, text, true);
}

static void on_total(struct mg_timeout *t)
{
    struct mg_hedge *h = MG_HOLDER(t, struct mg_hedge, total);
    struct mg_stream *s = h->stream;

    if (h->dial.work)
        mg_dial_cancel(&h->dial);
    if (s)
        s->ops->reset(s, MG_WHY_TIMEOUT);
    fail(h, "the attempt took longer than its timeout", true);
}

/* ---- Its way. ---- */

enum mg_status mg_hedge_choose(struct mg_exchange *x, struct mg_peer *other, double after)
{
    if (x->view.step != MG_STEP_BALANCE || other == x->attempt.picked || !mg_peer_may(other, &x->tried))
        return MG_ABSENT;
    if (!x->hedge) {
        x->hedge = mg_arena_zeroed(x->arena, sizeof(*x->hedge));
        if (!x->hedge)
            return MG_NO_MEMORY;
        x->hedge->exchange = x;
    }
    x->hedge->other = other;
    x->hedge->after = after;
    return MG_OK;
}

static void on_due(void *owner)
{
    struct mg_hedge *h = owner;

    h->alarm = NULL;
    h->due = true;
    mg_engine_run(h->exchange);
}

void mg_hedge_arm(struct mg_hedge *h)
{
    if (h->other)
        h->alarm = mg_alarm_new(h->after, on_due, h);
}

struct mg_peer *mg_hedge_take(struct mg_hedge *h)
{
    struct mg_peer *other = h->other;

    disarm(h);
    return other;
}

/* The request as the other one may get it: all of it is here. */
static bool is_whole(const struct mg_exchange *x)
{
    return x->in.whole && !x->in.filtered && !x->in.consumed && x->in.arrived == x->in.kept.bytes + x->in.held.bytes;
}

static bool may_begin(const struct mg_exchange *x, const struct mg_peer *other)
{
    const mg_upstream_spec *spec = spec_of(x);
    unsigned attempts = x->route->attempts ? x->route->attempts : spec->attempts;

    if (x->bytes || x->protocol.len || !is_whole(x) || x->view.tries >= attempts || !mg_peer_may(other, &x->tried))
        return false;
    if (!mg_method_is_idempotent(x->view.method) && !spec->non_idempotent)
        return false;
    if (spec->breaker.on && !mg_breaker_is_closed(x->view.upstream))
        return false;
    return mg_upstream_may_retry(x->view.upstream);
}

static void begin(struct mg_hedge *h, struct mg_peer *p)
{
    struct mg_exchange *x = h->exchange;

    h->peer = p;
    h->sent = h->asking = false;
    h->began = mg_clock_now();
    h->dial = (struct mg_dial){ .done = on_dialled, .events = &events, .owner = h, .client = x->client->info };
    h->total.fire = on_total;
    if (spec_of(x)->timeout > 0)
        mg_timeout_set(&h->total, mg_clock_queue(spec_of(x)->timeout));
    x->view.tries++;
    if (x->tried.count < MG_TRIED_MAX)
        x->tried.peers[x->tried.count++] = p;
    mg_in_flight_begin(p);
    mg_upstream_count_one(&mg_upstream_counts(p->upstream)->hedges);
    h->stream = mg_dial_begin(&h->dial, &p->origin, MG_DIAL_CHECKED);
    if (!h->stream && !h->dial.work)
        fail(h, "out of memory", false);
}

/* The attempt hooks see it as they see any try. True: they wait. */
static bool ask(struct mg_hedge *h)
{
    struct mg_exchange *x = h->exchange;
    struct mg_peer *first = x->attempt.peer;

    if (!h->asking) {
        h->asking = true;
        mg_engine_again(x, MG_PHASE_ATTEMPT);
        mg_forward_attempt(x, h->peer, &h->head);
    }
    x->view.attempt = &h->head;
    if (h->peer)
        x->view.peer = h->peer;
    if (mg_engine_hooks(x, MG_PHASE_ATTEMPT) == MG_PARK)
        return true;
    x->view.attempt = NULL;
    if (first)
        x->view.peer = first;
    mg_engine_again(x, MG_PHASE_ATTEMPT); /* it may be the first one's turn */
    h->asking = false;
    return false;
}

static void copy(struct mg_chain *to, const struct mg_chain *from)
{
    for (const struct mg_span *s = from->first; s; s = s->next)
        mg_chain_add(to, s->block, s->ptr, s->len);
}

static void send_request(struct mg_hedge *h)
{
    const struct mg_flow *in = &h->exchange->in;
    struct mg_stream *s = h->stream;
    struct mg_chain body = { 0 };

    copy(&body, &in->kept);
    copy(&body, &in->held);
    if (body.failed || mg_arena_failed(h->exchange->arena)) {
        mg_chain_clear(&body);
        mg_hedge_end(h);
        return;
    }
    bool trailers = in->trailers && in->trailers->count, bodiless = !body.bytes && !trailers;
    h->sent = true;
    s->ops->send_head(s, &h->head, bodiless);
    if (body.bytes)
        s->ops->send_body(s, &body, !trailers);
    if (trailers)
        s->ops->send_trailers(s, in->trailers);
}

bool mg_hedge_run(struct mg_hedge *h)
{
    struct mg_exchange *x = h->exchange;

    if (h->due && !h->peer && !x->attempt.answered && !x->attempt.failure) {
        struct mg_peer *other = mg_hedge_take(h);
        if (may_begin(x, other))
            begin(h, other);
    }
    if (h->asking || (h->stream && !h->sent && !x->attempt.answered)) {
        if (ask(h))
            return true;
        if (h->stream && !x->failed && !x->answered && !x->attempt.answered)
            send_request(h);
    }
    return false;
}

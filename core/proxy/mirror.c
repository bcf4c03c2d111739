/* mirror.c - a copy of a request to another upstream, whose answer nobody gets.
 *
 * It is made when the request itself has its answer, so that it delays
 * nothing, and lives on alone: in an arena of its own, holding its
 * generation. */
#include "mirror.h"

#include "breaker.h"
#include "forward.h"
#include "health.h"
#include "in_flight.h"

static const double LONGEST = 60; /* seconds that a copy may take in all */

struct copy {
    struct copy *next, **link;
    struct mg_arena *arena;
    struct mg_generation *generation; /* held */
    struct mg_mirror *mirror;
    struct mg_peer *peer;
    struct mg_dial dial;
    struct mg_stream *stream;
    struct mg_message head;
    struct mg_chain body;
    struct mg_timeout longest;
    double began, latency;
    bool bad;
};

static struct copy *copies;

/* Frees it. `failed` is the peer's fault. */
static void end(struct copy *c, bool failed)
{
    mg_timeout_clear(&c->longest);
    mg_chain_clear(&c->body);
    mg_in_flight_end(c->peer, failed || c->bad, failed ? -1 : c->latency);
    c->mirror->active--;
    c->generation->exchanges--;
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    mg_arena_free(c->arena);
}

static void cancel(struct copy *c, bool failed)
{
    struct mg_stream *s = c->stream;

    if (c->dial.work)
        mg_dial_cancel(&c->dial);
    if (s)
        s->ops->reset(s, MG_WHY_CANCELLED);
    end(c, failed);
}

/* ---- Its answer, which is read and dropped. ---- */

static void on_interim(struct mg_stream *s, const struct mg_message *m)
{
    (void)s;
    (void)m;
}

static void on_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    struct copy *c = s->owner;

    (void)last;
    c->latency = mg_clock_now() - c->began;
    if (c->peer->watched)
        c->bad = mg_health_see(c->peer, m);
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
    struct copy *c = s->owner;

    c->stream = NULL;
    end(c, why != MG_WHY_COMPLETE && why != MG_WHY_STALE && why != MG_WHY_REFUSED);
}

static const struct mg_stream_events events = {
    .on_interim = on_interim,
    .on_head = on_head,
    .on_body = on_body,
    .on_trailers = on_trailers,
    .on_room = on_room,
    .on_end = on_end,
};

/* ---- Its way. ---- */

static void send_request(struct copy *c)
{
    struct mg_stream *s = c->stream;
    bool bodiless = !c->body.bytes;

    s->ops->send_head(s, &c->head, bodiless);
    if (!bodiless)
        s->ops->send_body(s, &c->body, true);
}

static void on_dialled(struct mg_dial *d, struct mg_stream *s, enum mg_failure failure, const char *text)
{
    struct copy *c = d->owner;

    (void)failure;
    (void)text;
    c->stream = s;
    if (s)
        send_request(c);
    else
        end(c, true);
}

static void on_longest(struct mg_timeout *t)
{
    cancel(MG_HOLDER(t, struct copy, longest), true);
}

static void begin(struct copy *c)
{
    c->latency = -1;
    c->began = mg_clock_now();
    c->dial = (struct mg_dial){ .done = on_dialled, .events = &events, .owner = c };
    c->longest.fire = on_longest;
    mg_timeout_set(&c->longest, mg_clock_queue(LONGEST));
    c->link = &copies;
    c->next = copies;
    if (c->next)
        c->next->link = &c->next;
    copies = c;
    c->mirror->active++;
    c->generation->exchanges++;
    mg_in_flight_begin(c->peer);
    c->stream = mg_dial_begin(&c->dial, &c->peer->origin, MG_DIAL_CHECKED);
    if (c->stream)
        send_request(c);
    else if (!c->dial.work)
        end(c, false);
}

/* By chance, but of the exchange's id, so that a simulation repeats. */
static bool is_chosen(const struct mg_exchange *x)
{
    uint64_t z = (x->id ^ x->id >> 33) * 0xff51afd7ed558ccdu;

    return x->mirror_chosen || (double)((z ^ z >> 33) >> 11) * 0x1p-53 < x->route->mirror->share;
}

/* Is all of the body here, and no more than may be copied? */
static bool is_whole(const struct mg_exchange *x)
{
    return x->in.whole && x->in.arrived <= x->route->mirror->max_body &&
           x->in.arrived == x->in.kept.bytes + x->in.held.bytes;
}

/* NULL: none may get it. */
static struct mg_peer *pick(struct mg_upstream *u)
{
    struct mg_tried none = { .count = 0 };
    const char *why;
    bool full;

    if (mg_upstream_request(u) && !mg_breaker_admit(u, &why))
        return NULL;
    return mg_peer_pick(u, &none, &full);
}

static void copy_body(struct mg_chain *to, const struct mg_chain *from)
{
    for (const struct mg_span *s = from->first; s; s = s->next)
        mg_chain_add(to, s->block, s->ptr, s->len);
}

/* NULL without memory. */
static struct copy *make_copy(struct mg_exchange *x, struct mg_peer *p)
{
    struct mg_arena *arena = mg_arena_new();
    struct copy *c = arena ? mg_arena_zeroed(arena, sizeof(*c)) : NULL;
    struct mg_message head;

    if (!c)
        goto drop_arena;
    c->arena = arena;
    c->generation = x->generation;
    c->mirror = x->route->mirror;
    c->peer = p;
    mg_forward_attempt(x, p, &head);
    mg_message_keep(&c->head, &head, arena);
    if (mg_message_set(&c->head, MG_LIT("X-Moongate-Mirror"), mg_upstream_spec_of(x->view.upstream)->name) != MG_OK)
        goto drop_arena;
    copy_body(&c->body, &x->in.kept);
    copy_body(&c->body, &x->in.held);
    if (!c->body.failed && !mg_arena_failed(arena) && !mg_arena_failed(x->arena))
        return c;
    mg_chain_clear(&c->body);

drop_arena:
    mg_arena_free(arena);
    return NULL;
}

void mg_mirror_send(struct mg_exchange *x)
{
    struct mg_mirror *m = x->route->mirror;
    struct copy *c = NULL;
    struct mg_peer *p;

    x->mirrored = true;
    if (!x->view.tries || !x->view.upstream || x->protocol.len || !is_chosen(x))
        return;
    if (m->active < m->max_active && is_whole(x) && (p = pick(m->upstream)))
        c = make_copy(x, p);
    struct mg_upstream_counts *counts = mg_upstream_counts(m->upstream);
    mg_upstream_count_one(c ? &counts->mirrored : &counts->mirrors_dropped);
    if (c)
        begin(c);
}

void mg_mirror_stop(void)
{
    while (copies)
        cancel(copies, false);
}

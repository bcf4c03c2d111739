/* h1.c - an HTTP/1.1 connection: how it is kept, what it waits for, when it ends (RFC 9112 section 9).
 *
 * The same code serves and dials; it asks `client_side` only where the RFC
 * gives the two a different part. Bytes are read when the transport has them
 * (h1_read.c takes them apart); what went out (h1_write.c) is flushed once
 * after each event. A connection is freed by the flush, never inside a
 * callback. */
#include "h1_connection.h"

#include <assert.h>
#include <stdlib.h>

enum {
    H1_MAGIC = 0x6d676831,
    READS_A_TURN = 4, /* then others get their turn */
};
static const double LINGER = 2.0; /* seconds a client may take to close after our last word */
static const double TRIP = 1.0;   /* seconds in which a request must have come that was on its way when we drained */

static void destroy(struct mg_carrier *c)
{
    struct mg_h1 *h = (struct mg_h1 *)c;

    assert(!h->open && !h->carrier.dirty && !h->busy);
    mg_timeout_clear(&h->timer);
    mg_chain_clear(&h->out);
    mg_h1_drop_input(h);
    if (h->transport)
        h->transport->ops->close(h->transport, h->carrier.abort);
    h->carrier.events->on_closed(&h->carrier);
    h->carrier.magic = 0;
    free(h);
}

/* ---- Timeouts: one timer, for whatever is being waited for. ---- */

static struct mg_clock_queue *patience_between(const struct mg_h1 *h)
{
    if (!h->client_side)
        return h->settings->times.idle;
    if (h->cutting)
        return h->settings->times.send;
    if (h->lingering)
        return mg_clock_queue(LINGER);
    if (h->discarding)
        return h->settings->times.body;
    if (h->draining && h->in_at == h->in_end)
        return mg_clock_queue(TRIP);
    return h->in_at < h->in_end || !h->served ? h->settings->times.head : h->settings->times.idle;
}

static struct mg_clock_queue *patience(const struct mg_h1 *h)
{
    const struct mg_stream *s = &h->stream;

    if (!h->open)
        return patience_between(h);
    if (h->blocked)
        return s->times->send;
    if (s->tunnel) /* may idle as long as both want, but not half-closed */
        return h->incoming.whole || h->out_whole ? s->times->send : NULL;
    if (h->client_side && h->incoming.whole)
        return h->eof ? h->settings->times.half_close : NULL;
    if (!h->client_side && !h->head_in)
        return h->out_whole ? s->times->head : NULL;
    return h->wanting ? s->times->body : NULL;
}

/* A head may not buy time by arriving a byte at a time, nor a response by its interim ones: those timers
 * run on. All others start anew with each event. */
static void watch(struct mg_h1 *h)
{
    struct mg_clock_queue *queue = patience(h);
    bool for_head = h->open ? !h->client_side && !h->head_in && !h->blocked
                            : h->client_side && !h->lingering && !h->discarding;

    if (for_head && h->timer.queue == queue && queue)
        return;
    mg_timeout_set(&h->timer, queue);
}

static void timed_out_between(struct mg_h1 *h)
{
    if (h->client_side && !h->lingering && !h->discarding && h->in_at < h->in_end)
        mg_h1_refuse(h, 408, "the request's head did not come in time");
    else
        mg_h1_doom(h, false);
}

static void on_timer(struct mg_timeout *t)
{
    struct mg_h1 *h = MG_HOLDER(t, struct mg_h1, timer);

    h->busy++;
    if (!h->open)
        timed_out_between(h);
    else if (h->client_side && !h->blocked && !h->eof)
        mg_h1_break_request(h, MG_WHY_TIMEOUT, "the request's body did not come in time");
    else
        mg_h1_end(h, MG_WHY_TIMEOUT, true);
    h->busy--;
    mg_h1_mark(h);
}

/* ---- Reading. ---- */

static void on_readable(struct mg_transport *t)
{
    struct mg_h1 *h = t->owner;

    h->busy++;
    for (int turn = 0; turn < READS_A_TURN; turn++) {
        if (!mg_h1_may_read(h)) {
            t->ops->want_read(t, false);
            break;
        }
        if (!mg_h1_read_once(h))
            break;
    }
    h->busy--;
    if (!h->carrier.doomed)
        watch(h);
}

/* ---- Writing. ---- */

/* Writes what the out chain holds. False when the transport is broken. */
static bool write_out(struct mg_h1 *h)
{
    enum mg_io io = mg_transport_send(h->transport, &h->out);

    h->blocked = io == MG_IO_AGAIN;
    return io != MG_IO_ERROR;
}

/* Our side of the message is out. What follows depends on the client's side of it. */
static void finish_request(struct mg_h1 *h)
{
    mg_h1_end_stream(h, MG_WHY_COMPLETE);
    if (h->carrier.doomed)
        return;
    if (!h->keep || h->draining || (h->eof && h->in_at == h->in_end)) {
        /* Closing with bytes unread would reset the connection and take the answer with it. */
        if (h->eof || (h->incoming.whole && h->in_at == h->in_end && !h->lingering)) {
            mg_h1_doom(h, false);
            return;
        }
        h->lingering = true;
        h->transport->ops->shutdown(h->transport);
    } else if (!h->incoming.whole) {
        h->discarding = h->wanting = true;
        h->discarded = 0;
    }
    h->large = false;
    h->transport->ops->want_read(h->transport, !h->eof);
    if (h->in_at < h->in_end)
        mg_h1_mark(h); /* a pipelined request */
}

static void finish_tunnel_side(struct mg_h1 *h)
{
    if (h->incoming.whole) {
        mg_h1_end(h, MG_WHY_COMPLETE, false);
    } else if (!h->draining) {
        h->draining = true; /* once */
        h->transport->ops->shutdown(h->transport);
    }
}

static void after_write(struct mg_h1 *h)
{
    if (!h->open)
        return;
    h->stream.queued = h->out.bytes;
    if (h->crowded && h->out.bytes <= MG_STREAM_LOW) {
        h->crowded = false;
        h->stream.events->on_room(&h->stream);
    }
    if (!h->open || h->carrier.doomed || h->out.bytes || !h->out_whole || !h->head_out)
        return;
    if (h->stream.tunnel)
        finish_tunnel_side(h);
    else if (!h->client_side && h->head_in && h->incoming.whole)
        mg_h1_finish_response(h);
    else if (h->client_side && (h->incoming.whole || !h->stream.relaying))
        finish_request(h);
}

/* The other end takes no more. A client is gone; an origin may have answered before it closed. */
static void on_write_failed(struct mg_h1 *h)
{
    mg_chain_clear(&h->out);
    h->stream.queued = 0;
    if (h->client_side || !h->open) {
        mg_h1_end(h, MG_WHY_CUT, true);
        return;
    }
    h->out_broken = true;
    h->out_whole = true;
    h->keep = false;
}

static void flush(struct mg_carrier *c)
{
    struct mg_h1 *h = (struct mg_h1 *)c;
    h->busy++;
    if (h->out_broken && h->open && (h->client_side || !h->out_whole))
        mg_h1_end(h, MG_WHY_CUT, true);
    if (!h->carrier.doomed && h->in_at < h->in_end)
        mg_h1_read_on(h);
    if (h->client_side && h->eof && !h->open && !h->out.bytes)
        mg_h1_doom(h, false); /* what is left is no whole request */
    if (!h->carrier.doomed && !h->blocked && !write_out(h))
        on_write_failed(h);
    if (!h->carrier.doomed)
        after_write(h);
    /* A length or a missing last chunk shows the cut by itself; a body that the end delimits needs a reset. */
    if (h->cutting && !h->out.bytes)
        mg_h1_doom(h, h->out_kind == MG_BODY_UNTIL_CLOSE);
    h->busy--;
    if (!h->carrier.doomed)
        watch(h);
}

void mg_h1_flush(void)
{
    (void)mg_carriers_flush(&mg_h1_carriers, flush, destroy);
}

static void on_writable(struct mg_transport *t)
{
    struct mg_h1 *h = t->owner;

    h->blocked = false;
    mg_h1_mark(h);
}

/* ---- The carrier. ---- */

static struct mg_stream *open_stream(struct mg_carrier *c, const struct mg_stream_events *events, void *owner)
{
    struct mg_h1 *h = (struct mg_h1 *)c;
    struct mg_stream *s = &h->stream;

    assert(!h->open && !h->client_side);
    if (h->carrier.doomed) /* its idle time ended in this turn of the loop */
        return NULL;
    s->events = events;
    s->owner = owner;
    s->reused = h->served++ > 0;
    s->queued = 0;
    s->tunnel = false;
    s->problem = NULL;
    h->head_in = h->head_out = h->out_whole = h->out_broken = h->blocked = h->crowded = false;
    h->interims = 0;
    h->incoming = (struct mg_framing){ 0 };
    h->wanting = true;
    mg_h1_stream_open(h);
    return s;
}

/* A request that is on its way is answered, and told that it was the last one: only then nobody has to try again. */
static void drain(struct mg_carrier *c)
{
    struct mg_h1 *h = (struct mg_h1 *)c;

    if (h->stream.tunnel && h->open)
        return;
    h->draining = true;
    if (!h->carrier.doomed)
        watch(h);
}

static void close_carrier(struct mg_carrier *c)
{
    mg_h1_end((struct mg_h1 *)c, MG_WHY_CUT, ((struct mg_h1 *)c)->open);
}

static const struct mg_carrier_ops carrier_ops = { .open = open_stream, .drain = drain, .close = close_carrier };
static const struct mg_transport_events transport_events = { .on_readable = on_readable, .on_writable = on_writable };

static struct mg_h1 *adopt(struct mg_transport *t, const struct mg_h1_settings *settings,
                           const struct mg_carrier_events *events, void *owner)
{
    struct mg_h1 *h = calloc(1, sizeof(*h));

    if (!h) {
        t->ops->close(t, true);
        return NULL;
    }
    h->carrier = (struct mg_carrier){ .magic = H1_MAGIC, .ops = &carrier_ops, .events = events, .owner = owner };
    h->stream.magic = H1_MAGIC;
    h->stream.info = &h->carrier.info;
    h->stream.times = &settings->times;
    h->transport = t;
    h->settings = settings;
    h->timer.fire = on_timer;
    t->events = &transport_events;
    t->owner = h;
    t->ops->want_read(t, true);
    return h;
}

struct mg_carrier *mg_h1_serve(struct mg_transport *t, const struct mg_h1_settings *settings,
                               const struct mg_peer_info *info, const struct mg_carrier_events *events, void *owner)
{
    struct mg_h1 *h = adopt(t, settings, events, owner);

    if (!h)
        return NULL;
    h->client_side = true;
    h->carrier.info = *info;
    h->stream.ops = &mg_h1_serving_ops;
    watch(h);
    return &h->carrier;
}

struct mg_carrier *mg_h1_dialled(struct mg_transport *t, const struct mg_h1_settings *settings,
                                 const struct mg_carrier_events *events, void *owner)
{
    struct mg_h1 *h = adopt(t, settings, events, owner);

    if (!h)
        return NULL;
    h->stream.ops = &mg_h1_dialled_ops;
    return &h->carrier;
}

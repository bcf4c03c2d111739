/* tcp.c - bytes of a connection as a stream, both sides.
 *
 * What was read is passed on by reference, at once; a stream that is told to
 * stop leaves its bytes in the kernel. Small reads of all connections share a
 * block, so that an idle tunnel holds none. A connection is freed by the
 * flush, never inside a callback. */
#include "tcp.h"

#include "carrier.h"

#include <assert.h>
#include <stdlib.h>

enum {
    TCP_MAGIC = 0x6d677463,
    READS_A_TURN = 4,      /* then others get their turn */
    ROOM_LEAST = 4 * 1024, /* in the shared block, for another read */
};

struct mg_tcp {
    struct mg_carrier carrier; /* first */
    struct mg_stream stream;
    struct mg_transport *transport;
    struct mg_timeout timer;
    struct mg_chain out;
    bool client_side, open;
    bool wanting;   /* the owner takes bytes */
    bool eof;       /* the other end has ended its side */
    bool large;     /* a read has filled what it was offered */
    bool blocked;   /* the other end does not read */
    bool crowded;   /* on_room is due when less is queued */
    bool answering; /* origin's side: its head is due */
    bool standing;  /* client's side: the tunnel stands */
    bool refused;   /* client's side: there will be no tunnel */
    bool cutting;   /* reset; what is queued goes out before */
    bool out_whole, out_shut;
};

bool mg_tcp_at_work;
static struct mg_carriers carriers;
static struct mg_block *shared; /* for small reads; released when nobody else holds it */
static unsigned streams;

static struct mg_tcp *tcp_of(struct mg_stream *s)
{
    return MG_HOLDER(s, struct mg_tcp, stream);
}

static void mark(struct mg_tcp *t)
{
    mg_tcp_at_work = true;
    mg_carrier_mark(&carriers, &t->carrier);
}

static void doom(struct mg_tcp *t, bool abort)
{
    mg_tcp_at_work = true;
    mg_carrier_doom(&carriers, &t->carrier, abort);
}

static void close_stream(struct mg_tcp *t)
{
    t->open = false;
    streams--;
}

static void end(struct mg_tcp *t, enum mg_why why, bool abort)
{
    doom(t, abort);
    if (!t->open)
        return;
    close_stream(t);
    t->stream.events->on_end(&t->stream, why);
}

static void destroy(struct mg_carrier *c)
{
    struct mg_tcp *t = (struct mg_tcp *)c;

    assert(!t->open && !c->dirty);
    mg_timeout_clear(&t->timer);
    mg_chain_clear(&t->out);
    t->transport->ops->close(t->transport, c->abort);
    c->events->on_closed(c);
    c->magic = 0;
    free(t);
}

/* ---- Timeouts. The client's side sees the bytes of both directions, so the idle time is its. ---- */

static void watch(struct mg_tcp *t)
{
    const struct mg_times *times = t->stream.times;

    mg_timeout_set(&t->timer, t->blocked || t->cutting ? times->send : t->client_side ? times->idle : NULL);
}

static void on_timer(struct mg_timeout *timer)
{
    struct mg_tcp *t = MG_HOLDER(timer, struct mg_tcp, timer);

    t->stream.problem = t->blocked ? "it did not read within send_timeout"
                                   : "no byte passed in either direction within idle_timeout";
    end(t, MG_WHY_TIMEOUT, t->blocked);
}

/* ---- Reading. ---- */

static struct mg_block *block_for(const struct mg_tcp *t)
{
    if (t->large) {
        struct mg_block *b = mg_block_take(MG_BLOCK_LARGE);
        if (b)
            b->used = 0;
        return b;
    }
    if (shared && shared->size - shared->used < ROOM_LEAST) {
        mg_block_give(shared);
        shared = NULL;
    }
    if (!shared)
        shared = mg_block_take(MG_BLOCK_SMALL);
    if (shared)
        mg_block_hold(shared);
    mg_tcp_at_work = true; /* it is looked at behind this event */
    return shared;
}

static void on_eof(struct mg_tcp *t)
{
    struct mg_chain none = { 0 };

    t->eof = true;
    t->transport->ops->want_read(t->transport, false);
    t->stream.events->on_body(&t->stream, &none, true);
    mark(t);
}

/* One read. True if it filled its block, so that there may be more. */
static bool read_once(struct mg_tcp *t)
{
    struct mg_block *b = block_for(t);
    struct mg_chain body = { 0 };
    size_t n = 0;

    if (!b) {
        end(t, MG_WHY_CUT, true);
        return false;
    }
    size_t room = b->size - b->used;
    char *to = b->data + b->used;
    enum mg_io io = t->transport->ops->read(t->transport, to, room, &n);
    b->used += (unsigned)n;
    mg_chain_add(&body, b, to, n);
    mg_block_give(b);
    t->large = n == room;
    switch (io) {
    case MG_IO_DONE:
        t->stream.events->on_body(&t->stream, &body, false);
        mg_chain_clear(&body);
        return t->large;
    case MG_IO_AGAIN:
        return false;
    case MG_IO_CLOSED:
        on_eof(t);
        return false;
    case MG_IO_ERROR:
        end(t, MG_WHY_CUT, true);
        return false;
    }
    return false;
}

static void on_readable(struct mg_transport *transport)
{
    struct mg_tcp *t = transport->owner;

    for (int turn = 0; turn < READS_A_TURN; turn++) {
        if (!t->open || t->eof || !t->wanting) {
            transport->ops->want_read(transport, false);
            return;
        }
        if (!read_once(t))
            break;
    }
    if (t->open && !t->blocked)
        watch(t);
}

/* ---- Writing. ---- */

static void on_writable(struct mg_transport *transport)
{
    struct mg_tcp *t = transport->owner;

    t->blocked = false;
    mark(t);
}

/* False when the transport is broken. */
static bool write_out(struct mg_tcp *t)
{
    if (!t->out.bytes)
        return true;
    enum mg_io io = mg_transport_send(t->transport, &t->out);
    t->blocked = io == MG_IO_AGAIN;
    watch(t);
    return io != MG_IO_ERROR;
}

/* An origin that had ended its side and takes no more has gone, which is one way to end a tunnel. */
static void on_write_failed(struct mg_tcp *t)
{
    mg_chain_clear(&t->out);
    end(t, !t->client_side && t->eof ? MG_WHY_COMPLETE : MG_WHY_CUT, true);
}

/* Ends what can end when all that was queued is out. A client whose origin has gone has nobody to send to. */
static void after_write(struct mg_tcp *t)
{
    t->stream.queued = t->out.bytes;
    if (t->crowded && t->out.bytes <= MG_STREAM_LOW) {
        t->crowded = false;
        t->stream.events->on_room(&t->stream);
    }
    if (!t->open || t->out.bytes)
        return;
    if (t->refused) {
        end(t, MG_WHY_COMPLETE, false);
    } else if (t->out_whole && (t->eof || (t->standing && !t->stream.relaying))) {
        end(t, MG_WHY_COMPLETE, false);
    } else if (t->out_whole && !t->out_shut) {
        t->out_shut = true;
        t->transport->ops->shutdown(t->transport);
    }
}

static void answer(struct mg_tcp *t)
{
    struct mg_message connected = { .version = 11, .status = 200 };

    t->answering = false;
    t->stream.events->on_head(&t->stream, &connected, false);
}

static void flush(struct mg_carrier *c)
{
    struct mg_tcp *t = (struct mg_tcp *)c;

    if (t->answering && t->open)
        answer(t);
    if (t->out.failed)
        end(t, MG_WHY_CUT, true); /* bytes are missing */
    if (!c->doomed && !t->blocked && !write_out(t))
        on_write_failed(t);
    if (!c->doomed && t->open)
        after_write(t);
    if (t->cutting && !t->out.bytes)
        doom(t, true);
}

void mg_tcp_flush(void)
{
    mg_tcp_at_work = false;
    (void)mg_carriers_flush(&carriers, flush, destroy);
    if (shared && shared->refs == 1) {
        mg_block_give(shared);
        shared = NULL;
    }
    mg_tcp_at_work = shared != NULL;
}

/* ---- The stream. ---- */

static void send_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    struct mg_tcp *t = tcp_of(s);

    if (!t->client_side)
        t->answering = true;
    else if (m->status / 100 == 2)
        t->standing = true;
    else
        t->refused = true;
    s->tunnel = !t->refused;
    t->out_whole |= last;
    mark(t);
}

static void send_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    struct mg_tcp *t = tcp_of(s);

    if (t->refused)
        mg_chain_clear(body);
    mg_chain_move(&t->out, body);
    t->out_whole |= last;
    s->queued = t->out.bytes;
    t->crowded |= s->queued > MG_STREAM_HIGH;
    mark(t);
}

static void want(struct mg_stream *s, bool more)
{
    struct mg_tcp *t = tcp_of(s);

    t->wanting = more;
    if (!t->eof)
        t->transport->ops->want_read(t->transport, more);
    mark(t); /* the owner may relay no more */
}

static void reset(struct mg_stream *s, enum mg_why why)
{
    struct mg_tcp *t = tcp_of(s);

    close_stream(t);
    if (t->client_side && why == MG_WHY_CUT && t->out.bytes) {
        t->cutting = true;
        t->wanting = false;
        watch(t);
        mark(t);
        return;
    }
    doom(t, why != MG_WHY_COMPLETE);
}

static const struct mg_stream_ops stream_ops = {
    .name = "tcp",
    .send_head = send_head,
    .send_body = send_body,
    .want = want,
    .reset = reset,
};

/* ---- The carrier. ---- */

static struct mg_stream *open_stream(struct mg_carrier *c, const struct mg_stream_events *events, void *owner)
{
    struct mg_tcp *t = (struct mg_tcp *)c;

    t->stream.events = events;
    t->stream.owner = owner;
    return &t->stream;
}

/* A tunnel has no end of its own: drain_timeout is its. */
static void drain(struct mg_carrier *c)
{
    (void)c;
}

static void close_carrier(struct mg_carrier *c)
{
    end((struct mg_tcp *)c, MG_WHY_CUT, true);
}

static const struct mg_carrier_ops carrier_ops = { .open = open_stream, .drain = drain, .close = close_carrier };
static const struct mg_transport_events transport_events = { .on_readable = on_readable, .on_writable = on_writable };

static struct mg_tcp *adopt(struct mg_transport *transport, const struct mg_times *times,
                            const struct mg_carrier_events *events, void *owner)
{
    struct mg_tcp *t = calloc(1, sizeof(*t));

    if (!t) {
        transport->ops->close(transport, true);
        return NULL;
    }
    t->carrier = (struct mg_carrier){ .magic = TCP_MAGIC, .ops = &carrier_ops, .events = events, .owner = owner };
    t->stream = (struct mg_stream){ .magic = TCP_MAGIC, .ops = &stream_ops, .info = &t->carrier.info, .times = times };
    t->transport = transport;
    t->timer.fire = on_timer;
    t->open = t->wanting = true;
    streams++;
    transport->events = &transport_events;
    transport->owner = t;
    transport->ops->want_read(transport, true);
    return t;
}

struct mg_carrier *mg_tcp_serve(struct mg_transport *transport, const struct mg_times *times,
                                const struct mg_peer_info *info, const struct mg_carrier_events *events, void *owner)
{
    struct mg_tcp *t = adopt(transport, times, events, owner);

    if (!t)
        return NULL;
    t->client_side = true;
    t->carrier.info = *info;
    watch(t);
    return &t->carrier;
}

struct mg_stream *mg_tcp_stream(struct mg_carrier *c)
{
    assert(c->magic == TCP_MAGIC);
    return &((struct mg_tcp *)c)->stream;
}

struct mg_carrier *mg_tcp_dialled(struct mg_transport *transport, const struct mg_times *times,
                                  const struct mg_carrier_events *events, void *owner)
{
    struct mg_tcp *t = adopt(transport, times, events, owner);

    return t ? &t->carrier : NULL;
}

unsigned mg_tcp_streams(void)
{
    return streams;
}

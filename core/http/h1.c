/* h1.c - an HTTP/1.1 connection: what it reads, how it is kept, when it ends (RFC 9112 section 9).
 *
 * The same code serves and dials; it asks `client_side` only where the RFC
 * gives the two a different part. Bytes are read when the transport has them,
 * taken apart here, and handed up; what went out is flushed once after each
 * event. A connection is freed by the flush, never inside a callback. */
#include "h1_connection.h"

#include <assert.h>
#include <stdlib.h>

enum {
    H1_MAGIC = 0x6d676831,
    READS_A_TURN = 4,           /* then others get their turn */
    INTERIMS_MOST = 16,
    DISCARD_MOST = 256 * 1024,  /* of a request's body that nobody wants, to save the connection */
    IOVECS = 64,
};
static const double LINGER = 2.0;   /* seconds a client may take to close after our last word */

static void end_stream(struct mg_h1 *h, enum mg_why why)
{
    if (!h->open)
        return;
    mg_h1_stream_close(h);
    h->stream.events->on_end(&h->stream, why);
}

static void end_connection(struct mg_h1 *h, enum mg_why why, bool abort)
{
    mg_h1_doom(h, abort);
    end_stream(h, why);
}

static void drop_input(struct mg_h1 *h)
{
    if (h->in)
        mg_block_give(h->in);
    h->in = NULL;
    h->in_at = h->in_end = h->scanned = 0;
}

static void destroy(struct mg_h1 *h)
{
    assert(!h->open && !h->dirty && !h->busy);
    mg_timeout_clear(&h->timer);
    mg_chain_clear(&h->out);
    drop_input(h);
    h->transport->ops->close(h->transport, h->abort);
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
    return h->in_at < h->in_end || !h->served ? h->settings->times.head : h->settings->times.idle;
}

static struct mg_clock_queue *patience(const struct mg_h1 *h)
{
    const struct mg_stream *s = &h->stream;

    if (!h->open)
        return patience_between(h);
    if (h->blocked)
        return s->times->send;
    if (s->tunnel)                      /* may idle as long as both want, but not half-closed */
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

static void broken_request(struct mg_h1 *h, enum mg_why why, const char *text)
{
    h->incoming.whole = true;
    h->keep = false;
    h->lingering = true;            /* what still comes of it is not read */
    h->stream.events->on_broken(&h->stream, why, text);
}

static void refuse(struct mg_h1 *h, unsigned status, const char *why);

static void timed_out_between(struct mg_h1 *h)
{
    if (h->client_side && !h->lingering && !h->discarding && h->in_at < h->in_end)
        refuse(h, 408, "the request's head did not come in time");
    else
        mg_h1_doom(h, false);
}

static void on_timer(struct mg_timeout *t)
{
    struct mg_h1 *h = (struct mg_h1 *)((char *)t - offsetof(struct mg_h1, timer));

    h->busy++;
    if (!h->open)
        timed_out_between(h);
    else if (h->client_side && !h->blocked && !h->eof)
        broken_request(h, MG_WHY_TIMEOUT, "the request's body did not come in time");
    else
        end_connection(h, MG_WHY_TIMEOUT, true);
    h->busy--;
    mg_h1_mark(h);
}

/* ---- Reading. ---- */

/* More room behind the bytes that wait in `in`: in a larger block if they fill theirs. */
static bool make_room(struct mg_h1 *h)
{
    uint32_t waiting = h->in_end - h->in_at;

    if (h->in && h->in_end < h->in->size)
        return true;
    struct mg_block *b = mg_block_take(waiting * 2 > MG_BLOCK_SMALL ? waiting * 2
                                       : h->large                   ? MG_BLOCK_LARGE
                                                                    : MG_BLOCK_SMALL);
    if (!b)
        return false;
    if (waiting)
        memcpy(b->data, h->in->data + h->in_at, waiting);
    if (h->in)
        mg_block_give(h->in);
    h->in = b;
    h->in_at = 0;
    h->in_end = b->used = waiting;
    return true;
}

static void release_input(struct mg_h1 *h)
{
    if (h->in && h->in_at == h->in_end)
        drop_input(h);
}

/* Starts a stream on a request's head, good or refused. */
static void open_request(struct mg_h1 *h, const struct mg_message *m)
{
    struct mg_stream *s = &h->stream;

    h->served++;
    h->wanting = true;
    h->blocked = h->crowded = h->head_out = h->out_whole = false;
    h->out_broken = false;
    s->times = &h->settings->times;
    s->queued = 0;
    s->tunnel = s->final = s->relaying = false;
    mg_h1_stream_open(h);
    h->carrier.events->on_stream(&h->carrier, s, m, h->incoming.whole);
}

/* The bytes are no request: one answer, and the end (RFC 9112 section 9.6). */
static void refuse(struct mg_h1 *h, unsigned status, const char *why)
{
    struct mg_message m = { .version = 11, .status = (uint16_t)status, .reason = mg_slice_of(why) };

    h->incoming = (struct mg_framing){ .kind = MG_BODY_NONE, .whole = true };
    h->keep = h->old = h->head_method = h->connect_method = h->upgrade = h->expects = false;
    h->lingering = true;
    h->in_at = h->in_end;
    open_request(h, &m);
}

static bool asks_to_keep(const struct mg_message *m)
{
    mg_slice list;

    if (!mg_message_has(m, MG_FIELD_CONNECTION))
        return m->version >= 11;
    if (mg_message_get(m, mg_field_name(MG_FIELD_CONNECTION), &list) != MG_OK)
        list = mg_message_known(m, MG_FIELD_CONNECTION)->value;
    if (mg_text_list_has(list, MG_LIT("close")))
        return false;
    return m->version >= 11 || mg_text_list_has(list, MG_LIT("keep-alive"));
}

static struct mg_head_limits head_limits(const struct mg_h1 *h)
{
    const struct mg_limits *l = h->settings->limits;

    return (struct mg_head_limits){ l->max_head_size, l->max_fields, l->max_target_size };
}

static struct mg_framing_limits framing_limits(const struct mg_h1 *h)
{
    const struct mg_limits *l = h->settings->limits;

    return (struct mg_framing_limits){ l->max_chunk_line, l->max_chunk_extensions, l->max_trailer_size };
}

static void accept_request(struct mg_h1 *h, const struct mg_message *m)
{
    const char *why;
    int status = mg_framing_of_request(m, &h->incoming, &why);

    if (status) {
        refuse(h, (unsigned)status, why);
        return;
    }
    h->old = m->version < 11;
    h->keep = asks_to_keep(m);
    h->head_method = mg_method_is(m->method, "HEAD");
    h->connect_method = mg_method_is(m->method, "CONNECT");
    h->upgrade = !h->old && mg_message_has(m, MG_FIELD_UPGRADE);
    h->expects = !h->old && mg_message_has(m, MG_FIELD_EXPECT);
    open_request(h, m);
}

/* Is a whole head there? Its bytes are taken off and it is handed up. False: wait for more. */
static bool read_request(struct mg_h1 *h)
{
    const char *data = h->in->data + h->in_at, *why = "";
    uint32_t len = h->in_end - h->in_at;
    struct mg_head_limits limits = head_limits(h);
    struct mg_message m;

    if (h->scanned && len < limits.max_head_size && !mg_head_is_whole(data, len, h->scanned)) {
        h->scanned = len;
        return false;
    }
    int n = mg_head_request(data, len, &limits, &m, &why);
    if (n == 0 && len < limits.max_head_size) {
        h->scanned = len;
        return false;
    }
    h->scanned = 0;
    if (n <= 0) {
        refuse(h, n ? (unsigned)-n : 431, n ? why : "the head is longer than max_head_size");
        return true;
    }
    h->in_at += (uint32_t)n;
    accept_request(h, &m);
    return true;
}

static void failed_response(struct mg_h1 *h, enum mg_why why, const char *text)
{
    h->stream.problem = text;
    end_connection(h, why, true);
}

/* A response's head that is final, or 101. */
static void accept_response(struct mg_h1 *h, const struct mg_message *m, mg_slice method)
{
    const char *why;

    if (m->status == 101 && !h->upgrade) {
        failed_response(h, MG_WHY_MALFORMED, "101 without a request for it");
        return;
    }
    if (mg_framing_of_response(m, method, &h->incoming, &why)) {
        failed_response(h, MG_WHY_MALFORMED, why);
        return;
    }
    h->head_in = true;
    h->old = m->version < 11;
    h->keep = asks_to_keep(m);
    if (m->status == 101 || (h->connect_method && m->status / 100 == 2)) {
        h->incoming = (struct mg_framing){ .kind = MG_BODY_UNTIL_CLOSE };
        h->out_kind = MG_BODY_UNTIL_CLOSE;
        h->out_whole = false;
        h->stream.tunnel = true;
    }
    if (h->incoming.kind == MG_BODY_UNTIL_CLOSE)
        h->keep = false;
    h->stream.events->on_head(&h->stream, m, h->incoming.whole);
}

static bool read_response(struct mg_h1 *h)
{
    const char *data = h->in->data + h->in_at, *why = "";
    uint32_t len = h->in_end - h->in_at;
    struct mg_head_limits limits = head_limits(h);
    struct mg_message m;

    if (h->scanned && len < limits.max_head_size && !mg_head_is_whole(data, len, h->scanned)) {
        h->scanned = len;
        return false;
    }
    int n = mg_head_response(data, len, &limits, &m, &why);
    if (n == 0 && len < limits.max_head_size) {
        h->scanned = len;
        return false;
    }
    h->scanned = 0;
    if (n <= 0) {
        failed_response(h, MG_WHY_MALFORMED, n ? why : "the head is longer than max_head_size");
        return false;
    }
    h->in_at += (uint32_t)n;
    if (m.status >= 200 || m.status == 101) {
        accept_response(h, &m, h->head_method ? MG_LIT("HEAD") : h->connect_method ? MG_LIT("CONNECT") : MG_LIT("GET"));
    } else if (++h->interims > INTERIMS_MOST) {
        failed_response(h, MG_WHY_MALFORMED, "too many interim responses");
    } else {
        h->stream.events->on_interim(&h->stream, &m);
    }
    return true;
}

static void broken_body(struct mg_h1 *h, const char *why)
{
    if (!h->client_side)
        failed_response(h, MG_WHY_MALFORMED, why);
    else if (h->open)
        broken_request(h, MG_WHY_MALFORMED, why);
    else
        mg_h1_doom(h, false);
}

/* True when the trailer section was read, which ends the message. */
static bool read_trailers(struct mg_h1 *h)
{
    struct mg_framing_limits limits = framing_limits(h);
    struct mg_message m;
    const char *why = "";
    int n = mg_trailer_read(&h->incoming, &limits, h->in->data + h->in_at, h->in_end - h->in_at, &m, &why);

    if (n < 0)
        broken_body(h, why);
    if (n <= 0)
        return false;
    h->in_at += (uint32_t)n;
    if (h->open)
        h->stream.events->on_trailers(&h->stream, &m);
    return true;
}

/* All pieces of body that lie in `in`, as spans over its block. False if the framing is broken. */
static bool take_pieces(struct mg_h1 *h, struct mg_chain *body, const char **why)
{
    struct mg_framing_limits limits = framing_limits(h);

    while (h->in_at < h->in_end && !h->incoming.whole && h->incoming.state != MG_FRAMING_TRAILER) {
        size_t used = 0;
        mg_slice piece = { 0 };
        if (mg_framing_take(&h->incoming, &limits, h->in->data + h->in_at, h->in_end - h->in_at, &used, &piece, why) != MG_OK)
            return false;
        h->in_at += (uint32_t)used;
        if (piece.len)
            mg_chain_add(body, h->in, piece.ptr, piece.len);
    }
    return true;
}

static void hand_up_body(struct mg_h1 *h, struct mg_chain *body)
{
    if (h->open && (body->bytes || h->incoming.whole)) {
        h->stream.events->on_body(&h->stream, body, h->incoming.whole);
        if (h->client_side && h->incoming.whole && h->out_whole)
            mg_h1_mark(h);              /* the response was whole before: both are now */
    } else if (h->discarding) {
        h->discarded += (uint32_t)body->bytes;
        if (h->discarded > DISCARD_MOST)
            h->lingering = true;
    }
    mg_chain_clear(body);
}

/* False: wait for more. */
static bool read_body(struct mg_h1 *h)
{
    struct mg_chain body = { 0 };
    const char *why = "";

    if (h->incoming.state != MG_FRAMING_TRAILER) {
        bool good = take_pieces(h, &body, &why);
        hand_up_body(h, &body);
        if (h->doomed)
            return false;
        if (!good) {
            broken_body(h, why);
            return true;
        }
    }
    if (h->incoming.state == MG_FRAMING_TRAILER && !h->incoming.whole)
        return h->in_at < h->in_end && h->wanting && read_trailers(h);
    return h->incoming.whole;
}

/* The origin's side: the response is whole. The connection is kept if nothing is in doubt. */
static void finish_response(struct mg_h1 *h)
{
    bool keep = h->keep && !h->draining && h->out_whole && !h->out.bytes && !h->out_broken && h->in_at == h->in_end;

    if (!h->out_whole || (h->out.bytes && !h->out_broken))
        return;                         /* the request still goes on; after_write() comes back here */
    if (!keep)
        mg_h1_doom(h, false);
    end_stream(h, MG_WHY_COMPLETE);
    if (keep && !h->doomed) {
        drop_input(h);
        h->large = false;
        h->transport->ops->want_read(h->transport, true);   /* back-pressure may have ended it: now a close must show */
        h->carrier.events->on_idle(&h->carrier);
    }
}

static void read_dialled(struct mg_h1 *h)
{
    while (!h->doomed && h->in_at < h->in_end) {
        if (!h->open) {
            mg_h1_doom(h, false);       /* an answer that nobody asked for (RFC 9112 9.2) */
        } else if (!h->head_in) {
            if (!read_response(h))
                return;
        } else if (!h->incoming.whole) {
            if (!h->wanting || !read_body(h))
                return;
        } else {
            break;
        }
        if (!h->doomed && h->open && h->head_in && h->incoming.whole)
            finish_response(h);
    }
    if (!h->doomed && h->open && h->head_in && h->incoming.whole)
        finish_response(h);
}

static void read_serving(struct mg_h1 *h)
{
    while (!h->doomed && h->in_at < h->in_end) {
        if (h->lingering) {
            h->in_at = h->in_end;
        } else if (h->open && h->incoming.whole) {
            return;                     /* the next request waits for this one's end */
        } else if (!h->open && !h->discarding) {
            if (!read_request(h))
                return;
        } else if (!h->wanting || !read_body(h)) {
            return;
        } else if (h->discarding && h->incoming.whole) {
            h->discarding = false;
        }
    }
}

/* Hands up what lies in `in`. */
static void read_on(struct mg_h1 *h)
{
    if (h->client_side)
        read_serving(h);
    else
        read_dialled(h);
    release_input(h);
}

/* The other end has ended its side. */
static void on_eof(struct mg_h1 *h)
{
    struct mg_chain none = { 0 };

    h->eof = true;
    h->keep = false;
    h->transport->ops->want_read(h->transport, false);
    if (!h->open) {
        mg_h1_doom(h, false);
    } else if ((h->client_side || h->head_in) && h->incoming.kind == MG_BODY_UNTIL_CLOSE && !h->incoming.whole) {
        h->incoming.whole = true;
        h->stream.events->on_body(&h->stream, &none, true);
        if (!h->client_side && h->open)
            finish_response(h);
        mg_h1_mark(h);
    } else if (!h->client_side || !h->incoming.whole) {
        bool fresh = h->in_at == h->in_end && !h->interims;
        end_connection(h, !h->client_side && h->stream.reused && !h->head_in && fresh ? MG_WHY_STALE : MG_WHY_CUT,
                       true);
    }
}

static void on_lost(struct mg_h1 *h)
{
    bool stale = !h->client_side && h->open && h->stream.reused && !h->head_in && h->in_at == h->in_end;

    end_connection(h, stale ? MG_WHY_STALE : MG_WHY_CUT, true);
}

/* May more bytes be read into `in`? Pipelined requests wait in one block. */
static bool may_read(const struct mg_h1 *h)
{
    if (h->doomed || h->eof)
        return false;
    if (!h->open || h->lingering || (!h->client_side && !h->head_in))
        return true;
    if (h->incoming.whole)
        return !h->in || h->in_end < h->in->size;
    return h->wanting;
}

/* One read. True if it filled its block, so that there may be more. */
static bool read_once(struct mg_h1 *h)
{
    size_t n = 0;

    if (!make_room(h)) {
        end_connection(h, MG_WHY_CUT, true);
        return false;
    }
    size_t room = h->in->size - h->in_end;
    switch (h->transport->ops->read(h->transport, h->in->data + h->in_end, room, &n)) {
    case MG_IO_DONE:
        h->in_end += (uint32_t)n;
        h->in->used = h->in_end;
        h->large |= n == room;
        read_on(h);
        return n == room;
    case MG_IO_AGAIN:
        release_input(h);
        return false;
    case MG_IO_CLOSED:
        on_eof(h);
        release_input(h);
        return false;
    case MG_IO_ERROR:
        on_lost(h);
        return false;
    }
    return false;
}

static void on_readable(struct mg_transport *t)
{
    struct mg_h1 *h = t->owner;

    h->busy++;
    for (int turn = 0; turn < READS_A_TURN; turn++) {
        if (!may_read(h)) {
            t->ops->want_read(t, false);
            break;
        }
        if (!read_once(h))
            break;
    }
    h->busy--;
    if (!h->doomed)
        watch(h);
}

/* ---- Writing. ---- */

/* Writes what the out chain holds. False when the transport is broken. */
static bool write_out(struct mg_h1 *h)
{
    struct iovec v[IOVECS];

    while (h->out.bytes) {
        size_t n = 0, offered = 0;
        int count = mg_chain_iovec(&h->out, v, IOVECS);
        for (int i = 0; i < count; i++)
            offered += v[i].iov_len;
        enum mg_io io = h->transport->ops->write(h->transport, v, count, &n);
        if (io == MG_IO_ERROR || io == MG_IO_CLOSED)
            return false;
        if (io == MG_IO_DONE)
            mg_chain_drop(&h->out, n);
        if (n < offered) {
            h->blocked = true;
            h->transport->ops->want_write(h->transport);
            return true;
        }
    }
    return true;
}

/* Our side of the message is out. What follows depends on the client's side of it. */
static void finish_request(struct mg_h1 *h)
{
    end_stream(h, MG_WHY_COMPLETE);
    if (h->doomed)
        return;
    if (!h->keep || h->draining || h->eof) {
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
    h->transport->ops->want_read(h->transport, true);
    if (h->in_at < h->in_end)
        mg_h1_mark(h);                  /* a pipelined request */
}

static void finish_tunnel_side(struct mg_h1 *h)
{
    if (h->incoming.whole) {
        end_connection(h, MG_WHY_COMPLETE, false);
    } else if (!h->draining) {
        h->draining = true;             /* once */
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
    if (!h->open || h->doomed || h->out.bytes || !h->out_whole || !h->head_out)
        return;
    if (h->stream.tunnel)
        finish_tunnel_side(h);
    else if (!h->client_side && h->head_in && h->incoming.whole)
        finish_response(h);
    else if (h->client_side && (h->incoming.whole || !h->stream.relaying))
        finish_request(h);
}

/* The other end takes no more. A client is gone; an origin may have answered before it closed. */
static void on_write_failed(struct mg_h1 *h)
{
    mg_chain_clear(&h->out);
    h->stream.queued = 0;
    if (h->client_side || !h->open) {
        end_connection(h, MG_WHY_CUT, true);
        return;
    }
    h->out_broken = true;
    h->out_whole = true;
    h->keep = false;
}

static void flush(struct mg_h1 *h)
{
    h->busy++;
    if (h->out_broken && h->open && (h->client_side || !h->out_whole))
        end_connection(h, MG_WHY_CUT, true);
    if (!h->doomed && h->in_at < h->in_end)
        read_on(h);
    if (!h->doomed && !h->blocked && !write_out(h))
        on_write_failed(h);
    if (!h->doomed)
        after_write(h);
    /* A length or a missing last chunk shows the cut by itself; a body that the end delimits needs a reset. */
    if (h->cutting && !h->out.bytes)
        mg_h1_doom(h, h->out_kind == MG_BODY_UNTIL_CLOSE);
    h->busy--;
    if (!h->doomed)
        watch(h);
}

void mg_h1_flush(void)
{
    static bool flushing;
    struct mg_h1 *h;

    if (flushing)
        return;
    flushing = true;
    while ((h = mg_h1_next_dirty())) {
        if (!h->doomed)
            flush(h);
        if (h->doomed && !h->dirty)
            destroy(h);
    }
    flushing = false;
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
    if (h->doomed)                      /* its idle time ended in this turn of the loop */
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

static void drain(struct mg_carrier *c)
{
    struct mg_h1 *h = (struct mg_h1 *)c;

    if (h->stream.tunnel && h->open)
        return;
    h->draining = true;
    if (!h->open && h->in_at == h->in_end)
        mg_h1_doom(h, false);
}

static void close_carrier(struct mg_carrier *c)
{
    end_connection((struct mg_h1 *)c, MG_WHY_CUT, ((struct mg_h1 *)c)->open);
}

static const struct mg_carrier_ops carrier_ops = { open_stream, drain, close_carrier };
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

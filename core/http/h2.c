/* h2.c - an HTTP/2 connection: how it begins, what it waits for, when it ends (RFC 9113).
 *
 * The same code serves and dials. Bytes are read when the transport has them
 * and given to nghttp2, which calls h2_read.c; once a turn of the loop the flush
 * looks at the streams that are due and writes the frames of all of them at
 * once. A connection is freed by the flush, never inside a callback. */
#include "h2_connection.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

enum {
    H2_MAGIC = 0x6d676832,
    READS_A_TURN = 4,                 /* then others get their turn */
    UNREAD_WHILE_BLOCKED = 64 * 1024, /* who reads so much less than we send is not read */
    WINDOWS = 16,                     /* a connection's window, in windows of a stream */
    WINDOW_MOST = 64 * 1024 * 1024,
    HEADER_BLOCK_MOST = 32 * 1024 * 1024, /* limits of ours are below */
};
static const double LINGER = 2.0; /* seconds a peer may take to close after our last word */
static const double TRIP = 1.0;   /* seconds in which it must have heard that we are going */

static nghttp2_option *options;

static void destroy(struct mg_carrier *c)
{
    struct mg_h2 *h = (struct mg_h2 *)c;

    assert(!h->open && !h->carrier.dirty && !h->busy);
    mg_timeout_clear(&h->timer);
    for (h->due = NULL; h->streams;) {
        h->streams->due = false;
        mg_h2_stream_free(h->streams);
    }
    nghttp2_session_del(h->session);
    mg_chain_clear(&h->out);
    mg_h2_head_end(h);
    if (h->in)
        mg_block_give(h->in);
    if (h->scratch)
        mg_block_give(h->scratch);
    h->transport->ops->close(h->transport, h->carrier.abort);
    h->carrier.events->on_closed(&h->carrier);
    h->carrier.magic = 0;
    free(h);
}

static void end_streams(struct mg_h2 *h, enum mg_why why)
{
    for (struct mg_h2_stream *s = h->streams; s; s = s->next) {
        /* A kept connection that ends before any byte of an answer is no fault of the request. */
        bool stale = why == MG_WHY_CUT && !h->client_side && s->stream.reused && !s->head_in && !s->interims;
        s->closed = true;
        mg_h2_stream_end(s, stale ? MG_WHY_STALE : why);
    }
}

static void end(struct mg_h2 *h, enum mg_why why, bool abort)
{
    mg_h2_doom(h, abort);
    end_streams(h, why);
}

/* A last GOAWAY; what is in progress ends with it. */
static void terminate(struct mg_h2 *h, uint32_t code)
{
    (void)nghttp2_session_terminate_session(h->session, code);
    mg_h2_mark(h);
}

static void demand_calm(struct mg_h2 *h)
{
    char ip[INET6_ADDRSTRLEN];

    mg_log(MG_LOG_WARN, "client %.*s: HTTP/2 connection closed: %s",
           (int)mg_endpoint_print(&h->carrier.info.client, ip), ip, h->calm);
    h->calm = NULL;
    terminate(h, NGHTTP2_ENHANCE_YOUR_CALM);
}

/* ---- Timeouts of the connection; streams have their own. ---- */

static struct mg_clock_queue *patience(const struct mg_h2 *h)
{
    const struct mg_times *times = &h->settings->times;

    if (h->lingering)
        return mg_clock_queue(LINGER);
    if (h->blocked)
        return times->send;
    if (h->draining && !h->told && h->client_side)
        return mg_clock_queue(TRIP);
    if (h->heading && h->client_side)
        return times->head;
    if (h->open)
        return NULL;
    return h->client_side && !h->served ? times->head : times->idle;
}

/* A timer runs on while the same is waited for, whatever else comes in: control frames buy no time. */
static void watch(struct mg_h2 *h)
{
    struct mg_clock_queue *queue = patience(h);

    if (queue && queue == h->timer.queue && h->watched == h->served && !(h->blocked && h->moved))
        return;
    h->watched = h->served;
    h->moved = false;
    if (queue || h->timer.queue)
        mg_timeout_set(&h->timer, queue);
}

static void on_timer(struct mg_timeout *t)
{
    struct mg_h2 *h = MG_HOLDER(t, struct mg_h2, timer);

    if (h->carrier.doomed)
        return;
    h->busy++;
    if (h->lingering || h->blocked)
        end(h, MG_WHY_TIMEOUT, h->blocked);
    else if (h->draining && !h->told && h->client_side)
        mg_h2_name_last(h);
    else
        terminate(h, h->heading ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_NO_ERROR);
    h->busy--;
    mg_h2_mark(h);
}

/* ---- Reading. ---- */

/* Bytes that were put at the end of h->in. */
static void take_bytes(struct mg_h2 *h, size_t len)
{
    struct mg_block *b = h->in;
    ssize_t n = nghttp2_session_mem_recv(h->session, (const uint8_t *)b->data + b->used, len);

    b->used += (unsigned)len;
    mg_h2_mark(h);
    if (n == NGHTTP2_ERR_FLOODED)
        h->calm = h->calm ? h->calm : "more frames to acknowledge than are kept";
    else if (n == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS)
        h->calm = "more CONTINUATION frames than one head may have";
    else if (n == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        terminate(h, NGHTTP2_PROTOCOL_ERROR);
    else if (n < 0)
        end(h, MG_WHY_CUT, true);
}

static bool make_room(struct mg_h2 *h)
{
    if (h->in && h->in->refs == 1)
        h->in->used = 0;
    if (h->in && h->in->used < h->in->size)
        return true;
    if (h->in)
        mg_block_give(h->in);
    h->in = mg_block_take(h->large ? MG_BLOCK_LARGE : MG_BLOCK_SMALL);
    return h->in;
}

/* True if the read filled its block, so that there may be more. */
static bool read_once(struct mg_h2 *h)
{
    size_t n = 0, room;

    if (!make_room(h)) {
        end(h, MG_WHY_CUT, true);
        return false;
    }
    room = h->in->size - h->in->used;
    switch (h->transport->ops->read(h->transport, h->in->data + h->in->used, room, &n)) {
    case MG_IO_DONE:
        if (!h->lingering && nghttp2_session_want_read(h->session))
            take_bytes(h, n);
        h->large |= n == room && room == MG_BLOCK_SMALL;
        return n == room && !h->carrier.doomed;
    case MG_IO_AGAIN:
        return false;
    case MG_IO_CLOSED:
        end(h, MG_WHY_CUT, false);
        return false;
    case MG_IO_ERROR:
        end(h, MG_WHY_CUT, true);
        return false;
    }
    return false;
}

static void release_input(struct mg_h2 *h)
{
    if (h->in)
        mg_block_give(h->in);
    h->in = NULL;
}

static void on_readable(struct mg_transport *t)
{
    struct mg_h2 *h = t->owner;

    if (h->carrier.doomed)
        return;
    h->busy++;
    if (h->blocked && h->out.bytes > UNREAD_WHILE_BLOCKED) {
        t->ops->want_read(t, false);
    } else {
        for (int turn = 0; turn < READS_A_TURN && read_once(h); turn++)
            continue;
        release_input(h);
    }
    h->busy--;
}

/* ---- Writing. ---- */

/* Writes what the out chain holds. False when the transport is broken. */
static bool write_out(struct mg_h2 *h)
{
    size_t before = h->out.bytes;
    enum mg_io io = mg_transport_send(h->transport, &h->out);

    h->moved |= h->out.bytes < before;
    h->blocked = io == MG_IO_AGAIN;
    return io != MG_IO_ERROR;
}

/* Frames are made and written until there are none, or no more can be taken. */
static void send_all(struct mg_h2 *h)
{
    while (!h->carrier.doomed && !h->blocked) {
        if (!mg_h2_fill(h) || h->out.failed || !write_out(h)) {
            end(h, MG_WHY_CUT, true);
            return;
        }
        mg_h2_look(h);
        if (h->out.bytes || !nghttp2_session_want_write(h->session))
            return;
    }
}

/* GOAWAY is out and nothing is in progress. Closing with bytes unread would take it back. */
static void begin_to_linger(struct mg_h2 *h)
{
    h->lingering = true;
    end_streams(h, MG_WHY_CUT);
    h->transport->ops->shutdown(h->transport);
    h->transport->ops->want_read(h->transport, true);
}

static void drain(struct mg_carrier *c);

static void flush(struct mg_carrier *c)
{
    struct mg_h2 *h = (struct mg_h2 *)c;
    uint32_t keepalive = h->settings->limits->keepalive_requests;

    h->busy++;
    mg_h2_look(h);
    if (h->client_side && keepalive && h->served >= keepalive)
        drain(&h->carrier);
    if (h->calm)
        demand_calm(h);
    if (!h->lingering)
        send_all(h);
    if (!h->out.bytes && h->scratch) {
        mg_block_give(h->scratch);
        h->scratch = NULL;
    }
    if (!h->carrier.doomed && !h->client_side && h->draining && !h->open && !h->told) {
        h->told = true;
        terminate(h, NGHTTP2_NO_ERROR);
    }
    if (!h->carrier.doomed && !h->lingering && !h->out.bytes && !nghttp2_session_want_write(h->session) &&
        !nghttp2_session_want_read(h->session))
        begin_to_linger(h);
    mg_h2_look(h);
    if (h->freed && !h->client_side && !h->carrier.doomed && !h->draining && !h->lingering) {
        h->freed = false;
        h->carrier.events->on_idle(&h->carrier);
    }
    h->busy--;
    if (!h->carrier.doomed)
        watch(h);
}

bool mg_h2_flush(void)
{
    return mg_carriers_flush(&mg_h2_carriers, flush, destroy);
}

static void on_writable(struct mg_transport *t)
{
    struct mg_h2 *h = t->owner;

    h->blocked = false;
    t->ops->want_read(t, true);
    mg_h2_mark(h);
}

/* ---- The carrier. ---- */

static unsigned room(struct mg_carrier *c)
{
    struct mg_h2 *h = (struct mg_h2 *)c;
    uint32_t most = nghttp2_session_get_remote_settings(h->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    uint32_t ours = h->settings->limits->max_concurrent_streams;

    if (h->carrier.doomed || h->draining || h->lingering || !nghttp2_session_check_request_allowed(h->session))
        return 0;
    if (ours && ours < most)
        most = ours;
    return most > h->open ? most - h->open : 0;
}

static struct mg_stream *open_stream(struct mg_carrier *c, const struct mg_stream_events *events, void *owner)
{
    struct mg_h2 *h = (struct mg_h2 *)c;
    struct mg_h2_stream *s = room(c) ? mg_h2_stream_new(h, &mg_h2_dialled_ops) : NULL;

    if (!s)
        return NULL;
    mg_h2_stream_open(s, events, owner);
    return &s->stream;
}

/* Two steps, so that no request that is on its way is lost (RFC 9113 6.8): the client hears that we are going, and when
 * it must have heard, which the answer to a PING shows, the last stream that is served is named. */
static void drain(struct mg_carrier *c)
{
    struct mg_h2 *h = (struct mg_h2 *)c;

    if (h->draining)
        return;
    h->draining = true;
    mg_h2_mark(h);
    if (!h->client_side)
        return;
    (void)nghttp2_submit_shutdown_notice(h->session);
}

static void close_carrier(struct mg_carrier *c)
{
    end((struct mg_h2 *)c, MG_WHY_CUT, ((struct mg_h2 *)c)->open);
}

static const struct mg_carrier_ops carrier_ops = {
    .open = open_stream,
    .room = room,
    .drain = drain,
    .close = close_carrier,
};
static const struct mg_transport_events transport_events = { .on_readable = on_readable, .on_writable = on_writable };

/* The same for all connections; false without memory. */
static bool make_options(void)
{
    if (options)
        return true;
    if (nghttp2_option_new(&options) != 0)
        return false;
    nghttp2_option_set_no_auto_window_update(options, 1);
    nghttp2_option_set_no_closed_streams(options, 1);
    nghttp2_option_set_builtin_recv_extension_type(options, NGHTTP2_PRIORITY_UPDATE);
    nghttp2_option_set_max_send_header_block_length(options, HEADER_BLOCK_MOST);
    nghttp2_option_set_stream_reset_rate_limit(options, UINT64_MAX, UINT64_MAX); /* max_resets has a name */
    return true;
}

void mg_h2_trim(void)
{
    nghttp2_option_del(options);
    options = NULL;
    mg_h2_callbacks_free();
    mg_h2_streams_trim();
}

/* What we say of ourselves. */
static bool submit_settings(struct mg_h2 *h)
{
    const struct mg_limits *l = h->settings->limits;
    uint64_t window = (uint64_t)l->stream_window * WINDOWS;
    nghttp2_settings_entry mine[5] = {
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, l->stream_window },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, l->max_head_size },
    };
    size_t n = 2;

    if (h->client_side) {
        mine[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, l->max_concurrent_streams };
        mine[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1 };
        mine[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 }; /* RFC 9218's instead */
    } else {
        mine[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 };
    }
    return nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, mine, n) == 0 &&
           nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0,
                                                 window < WINDOW_MOST ? (int32_t)window : WINDOW_MOST) == 0;
}

static struct mg_h2 *adopt(struct mg_transport *t, const struct mg_h1_settings *settings, bool client_side,
                           const struct mg_carrier_events *events, void *owner)
{
    struct mg_h2 *h = make_options() && mg_h2_callbacks() ? calloc(1, sizeof(*h)) : NULL;
    int made = -1;

    if (h) {
        h->client_side = client_side;
        h->settings = settings;
        made = (client_side ? nghttp2_session_server_new2 : nghttp2_session_client_new2)(&h->session, mg_h2_callbacks(),
                                                                                         h, options);
    }
    if (made != 0 || !submit_settings(h)) {
        if (h)
            nghttp2_session_del(h->session);
        free(h);
        t->ops->close(t, true);
        return NULL;
    }
    h->carrier = (struct mg_carrier){ .magic = H2_MAGIC, .ops = &carrier_ops, .events = events, .owner = owner };
    h->transport = t;
    h->timer.fire = on_timer;
    t->events = &transport_events;
    t->owner = h;
    t->ops->want_read(t, true);
    mg_h2_mark(h);
    watch(h);
    return h;
}

struct mg_carrier *mg_h2_serve(struct mg_transport *t, const struct mg_h1_settings *settings,
                               const struct mg_peer_info *info, const struct mg_carrier_events *events, void *owner,
                               mg_slice begun)
{
    struct mg_h2 *h = adopt(t, settings, true, events, owner);

    if (!h)
        return NULL;
    h->carrier.info = *info;
    if (!begun.len)
        return &h->carrier;
    h->in = mg_block_take(begun.len);
    h->busy++;
    if (h->in) {
        memcpy(h->in->data, begun.ptr, begun.len);
        take_bytes(h, begun.len);
        release_input(h);
    } else {
        mg_h2_doom(h, true);
    }
    h->busy--;
    return &h->carrier;
}

struct mg_carrier *mg_h2_dialled(struct mg_transport *t, const struct mg_h1_settings *settings,
                                 struct mg_tls_session *tls, const struct mg_carrier_events *events, void *owner)
{
    struct mg_h2 *h = adopt(t, settings, false, events, owner);

    if (!h)
        return NULL;
    h->carrier.info.tls = tls;
    return &h->carrier;
}

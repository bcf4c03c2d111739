/* h2_write.c - what a stream's owner asks for, and how nghttp2 gets our bytes.
 *
 * Nothing is sent where it is asked for: frames are made when h2.c flushes, so
 * that all streams of a connection leave in one write. Bodies go out as the
 * blocks they came in; nghttp2 sees their length alone. */
#include "h2_connection.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    H2_STREAM_MAGIC = 0x6d673273,
    COPY_MOST = 1024,      /* pieces of a body that are cheaper to copy than to send as a run of their own */
    OUT_MOST = 256 * 1024, /* frames that may wait for the transport; the rest stays with its streams */
    STREAMS_KEPT = 1024,   /* structs kept for reuse */
};

static struct mg_h2 *dirty;
static struct mg_h2_stream *free_streams;
static unsigned streams, free_count;

void mg_h2_mark(struct mg_h2 *h)
{
    if (h->dirty)
        return;
    h->dirty = true;
    h->next_dirty = dirty;
    dirty = h;
}

struct mg_h2 *mg_h2_next_dirty(void)
{
    struct mg_h2 *h = dirty;

    if (h) {
        dirty = h->next_dirty;
        h->dirty = false;
    }
    return h;
}

void mg_h2_doom(struct mg_h2 *h, bool abort)
{
    h->doomed = true;
    h->abort |= abort;
    mg_h2_mark(h);
}

unsigned mg_h2_streams(void)
{
    return streams;
}

/* ---- A stream's life. ---- */

static void on_timer(struct mg_timeout *t);

struct mg_h2_stream *mg_h2_stream_new(struct mg_h2 *h)
{
    struct mg_h2_stream *s = free_streams;

    if (s) {
        free_streams = s->next;
        free_count--;
        memset(s, 0, sizeof(*s));
    } else {
        s = calloc(1, sizeof(*s));
        if (!s)
            return NULL;
    }
    s->stream.magic = H2_STREAM_MAGIC;
    s->stream.ops = h->client_side ? &mg_h2_serving_ops : &mg_h2_dialled_ops;
    s->stream.info = &h->carrier.info;
    s->stream.times = &h->settings->times;
    s->stream.reused = !h->client_side && h->served > 0;
    s->connection = h;
    s->timer.fire = on_timer;
    s->next = h->streams;
    if (h->streams)
        h->streams->previous = s;
    h->streams = s;
    return s;
}

void mg_h2_stream_free(struct mg_h2_stream *s)
{
    struct mg_h2 *h = s->connection;

    assert(!s->open && !s->due);
    mg_timeout_clear(&s->timer);
    mg_chain_clear(&s->in);
    mg_chain_clear(&s->out);
    mg_arena_free(s->arena);
    if (s->previous)
        s->previous->next = s->next;
    else
        h->streams = s->next;
    if (s->next)
        s->next->previous = s->previous;
    if (free_count == STREAMS_KEPT) {
        free(s);
        return;
    }
    s->stream.magic = 0;
    s->next = free_streams;
    free_streams = s;
    free_count++;
}

void mg_h2_streams_trim(void)
{
    while (free_streams) {
        struct mg_h2_stream *s = free_streams;
        free_streams = s->next;
        free(s);
    }
    free_count = 0;
}

void mg_h2_stream_open(struct mg_h2_stream *s, const struct mg_stream_events *events, void *owner)
{
    s->stream.events = events;
    s->stream.owner = owner;
    s->open = s->wanting = true;
    s->connection->open++;
    s->connection->served++;
    streams++;
}

/* The owner listens no more. */
static void let_go(struct mg_h2_stream *s)
{
    struct mg_h2 *h = s->connection;

    s->open = false;
    h->open--;
    h->freed = true;
    streams--;
    mg_timeout_clear(&s->timer);
    mg_chain_clear(&s->in);
    mg_h2_mark(h);
    if (s->closed)
        mg_h2_stream_touch(s); /* nothing else keeps it: the flush frees it */
}

void mg_h2_stream_end(struct mg_h2_stream *s, enum mg_why why)
{
    if (!s->open)
        return;
    let_go(s);
    s->stream.events->on_end(&s->stream, why);
}

void mg_h2_stream_reset(struct mg_h2_stream *s, uint32_t code)
{
    mg_chain_clear(&s->out);
    s->stream.queued = 0;
    s->out_whole = true;
    if (s->closed)
        return;
    if (s->id)
        (void)nghttp2_submit_rst_stream(s->connection->session, NGHTTP2_FLAG_NONE, s->id, code);
    else
        s->closed = true; /* a request that was never sent */
    mg_h2_mark(s->connection);
}

void mg_h2_stream_touch(struct mg_h2_stream *s)
{
    struct mg_h2 *h = s->connection;

    mg_h2_mark(h);
    if (s->due)
        return;
    s->due = true;
    s->next_due = h->due;
    h->due = s;
}

static bool owes_frames(const struct mg_h2_stream *s)
{
    return s->head_out && !s->closed && (s->out.bytes || (s->out_whole && !s->out_sent));
}

static struct mg_clock_queue *patience(const struct mg_h2_stream *s)
{
    const struct mg_times *times = s->stream.times;

    if (!s->open)
        return owes_frames(s) ? times->send : NULL;
    if (owes_frames(s))
        return times->send;
    if (s->stream.tunnel)
        return s->in_whole || s->out_whole ? times->send : NULL;
    if (!s->connection->client_side && !s->head_in)
        return s->out_whole ? times->head : NULL;
    return s->wanting && !s->in_whole && !s->tunnels ? times->body : NULL;
}

void mg_h2_stream_watch(struct mg_h2_stream *s)
{
    struct mg_clock_queue *queue = patience(s);

    /* Interim responses buy no time. */
    if (!s->connection->client_side && !s->head_in && queue && queue == s->timer.queue && !owes_frames(s))
        return;
    if (queue || s->timer.queue)
        mg_timeout_set(&s->timer, queue);
}

static void on_timer(struct mg_timeout *t)
{
    struct mg_h2_stream *s = (struct mg_h2_stream *)((char *)t - offsetof(struct mg_h2_stream, timer));
    struct mg_h2 *h = s->connection;

    h->busy++;
    if (s->open && h->client_side && !owes_frames(s) && !s->stream.tunnel) {
        s->broken = s->in_whole = true;
        s->stream.events->on_broken(&s->stream, MG_WHY_TIMEOUT, "the request's body did not come in time");
    } else {
        mg_h2_stream_reset(s, NGHTTP2_CANCEL);
        mg_h2_stream_end(s, MG_WHY_TIMEOUT);
    }
    h->busy--;
    mg_h2_mark(h);
}

/* ---- What the owner asks for. ---- */

static struct mg_h2_stream *stream_of(struct mg_stream *s)
{
    assert(s->magic == H2_STREAM_MAGIC);
    return (struct mg_h2_stream *)s;
}

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *to, size_t cap, uint32_t *flags,
                       nghttp2_data_source *source, void *user);

static void queued(struct mg_h2_stream *s)
{
    s->stream.queued = s->out.bytes;
    if (s->out.bytes > MG_STREAM_HIGH)
        s->crowded = true;
    if (s->deferred) {
        s->deferred = false;
        (void)nghttp2_session_resume_data(s->connection->session, s->id);
    }
    mg_h2_stream_watch(s);
    mg_h2_mark(s->connection);
}

/* What was promised can't be kept: the other side sees a cut, the owner is told by the flush. */
static void give_up(struct mg_h2_stream *s)
{
    mg_h2_stream_reset(s, NGHTTP2_INTERNAL_ERROR);
    s->failed = true;
    mg_h2_stream_touch(s);
}

static void note_length(struct mg_h2_stream *s, const struct mg_message *m)
{
    s->has_length = mg_message_has(m, MG_FIELD_CONTENT_LENGTH) &&
                    mg_text_number(mg_message_known(m, MG_FIELD_CONTENT_LENGTH)->value, &s->out_left);
}

/* From here on both messages are plain bytes. */
static void begin_tunnel(struct mg_h2_stream *s)
{
    s->stream.tunnel = true;
    s->has_length = s->bodiless = false;
    s->in_whole = s->out_whole = false;
    mg_h2_stream_touch(s); /* what has come already is handed up by the flush */
}

static void send_response_head(struct mg_stream *stream, const struct mg_message *m, bool last)
{
    struct mg_h2_stream *s = stream_of(stream);
    unsigned status = s->websocket && m->status == 101 ? 200 : m->status;
    nghttp2_data_provider body = { .source.ptr = s, .read_callback = on_read };
    nghttp2_nv *fields;

    if (s->closed)
        return;
    size_t n = mg_h2_head_of_response(m, status, &fields);
    s->bodiless = s->head_method || status == 204 || status == 304;
    note_length(s, m);
    s->out_whole = last || s->bodiless;
    if (s->websocket ? m->status == 101 : s->connect && status / 100 == 2)
        begin_tunnel(s);
    if (nghttp2_submit_response(s->connection->session, s->id, fields, n, s->out_whole ? NULL : &body) != 0)
        give_up(s);
    s->head_out = true;
    queued(s);
}

static void send_interim(struct mg_stream *stream, const struct mg_message *m)
{
    struct mg_h2_stream *s = stream_of(stream);
    nghttp2_nv *fields;
    size_t n = mg_h2_head_of_response(m, m->status, &fields);

    if (s->closed || s->head_out)
        return;
    (void)nghttp2_submit_headers(s->connection->session, NGHTTP2_FLAG_NONE, s->id, NULL, fields, n, NULL);
    mg_h2_mark(s->connection);
}

static void send_request_head(struct mg_stream *stream, const struct mg_message *m, bool last)
{
    struct mg_h2_stream *s = stream_of(stream);
    struct mg_h2 *h = s->connection;
    nghttp2_data_provider body = { .source.ptr = s, .read_callback = on_read };
    nghttp2_nv *fields;

    if (mg_message_has(m, MG_FIELD_UPGRADE)) {
        s->stream.problem = "the origin's HTTP/2 takes no Upgrade";
        give_up(s);
        return;
    }
    s->head_method = mg_method_is(m->method, "HEAD");
    s->connect = s->tunnels = mg_method_is(m->method, "CONNECT");
    note_length(s, m);
    s->out_whole = last && !s->connect;
    size_t n = mg_h2_head_of_request(m, h->carrier.info.tls != NULL, false, &fields);
    s->id = nghttp2_submit_request(h->session, NULL, fields, n, s->out_whole ? NULL : &body, s);
    s->head_out = true;
    if (s->id < 0) {
        s->id = 0;
        give_up(s);
        return;
    }
    queued(s);
}

static void send_body(struct mg_stream *stream, struct mg_chain *body, bool last)
{
    struct mg_h2_stream *s = stream_of(stream);
    bool wrong = s->has_length && (body->bytes > s->out_left || (last && body->bytes < s->out_left));

    if (s->closed || s->bodiless || (s->out_whole && !s->stream.tunnel)) {
        mg_chain_clear(body);
        return;
    }
    /* A chain that could not hold all of its bytes must not pass for whole, nor a body of another length. */
    if (body->failed || s->out.failed || wrong) {
        mg_chain_clear(body);
        give_up(s);
        return;
    }
    s->out_left -= s->has_length ? body->bytes : 0;
    mg_chain_move(&s->out, body);
    s->out_whole = last;
    queued(s);
}

static void send_trailers(struct mg_stream *stream, const struct mg_message *m)
{
    struct mg_h2_stream *s = stream_of(stream);
    struct mg_chain none = { 0 };

    if (!s->closed && !s->bodiless && !s->out_whole) {
        s->arena = s->arena ? s->arena : mg_arena_new();
        if (!s->arena) {
            give_up(s);
            return;
        }
        mg_message_keep(&s->trailers, m, s->arena);
        s->has_trailers = !mg_arena_failed(s->arena);
    }
    send_body(stream, &none, true);
}

static void want(struct mg_stream *stream, bool more)
{
    struct mg_h2_stream *s = stream_of(stream);

    s->wanting = more;
    if (more)
        mg_h2_stream_touch(s);
    mg_h2_stream_watch(s);
}

static void reset(struct mg_stream *stream, enum mg_why why)
{
    struct mg_h2_stream *s = stream_of(stream);
    bool behind = s->connection->client_side && why == MG_WHY_CUT && s->head_out && s->out.bytes && !s->closed;

    if (s->open)
        let_go(s);
    if (behind) {
        s->cutting = true; /* what is queued goes out first */
        mg_h2_stream_watch(s);
        return;
    }
    mg_h2_stream_reset(s, s->connection->client_side ? NGHTTP2_INTERNAL_ERROR : NGHTTP2_CANCEL);
    if (s->closed)
        mg_h2_stream_touch(s);
}

const struct mg_stream_ops mg_h2_serving_ops = {
    .name = "h2",
    .send_head = send_response_head,
    .send_interim = send_interim,
    .send_body = send_body,
    .send_trailers = send_trailers,
    .want = want,
    .reset = reset,
};

const struct mg_stream_ops mg_h2_dialled_ops = {
    .name = "h2",
    .send_head = send_request_head,
    .send_interim = send_interim,
    .send_body = send_body,
    .send_trailers = send_trailers,
    .want = want,
    .reset = reset,
};

/* ---- What nghttp2 asks for. ---- */

static void moved(struct mg_h2_stream *s)
{
    s->stream.queued = s->out.bytes;
    if (s->crowded && s->out.bytes <= MG_STREAM_LOW)
        mg_h2_stream_touch(s);
    mg_h2_stream_watch(s);
}

static int end_with_trailers(struct mg_h2_stream *s, uint32_t *flags)
{
    nghttp2_nv *fields;
    size_t n = mg_h2_head_of_trailers(&s->trailers, &fields);

    if (!n)
        return 0;
    *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    return nghttp2_submit_trailer(s->connection->session, s->id, fields, n);
}

/* How much of a body may go into the next DATA frame. */
static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *to, size_t cap, uint32_t *flags,
                       nghttp2_data_source *source, void *user)
{
    struct mg_h2_stream *s = source->ptr;
    size_t n = s->out.bytes < cap ? s->out.bytes : cap;

    (void)session;
    (void)id;
    (void)user;
    if (!n && !s->out_whole) {
        if (s->cutting)
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        s->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n == s->out.bytes && s->out_whole) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (s->has_trailers && end_with_trailers(s, flags) != 0)
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (n > COPY_MOST) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        return (ssize_t)n;
    }
    struct mg_chain some = { 0 };
    mg_chain_split(&some, &s->out, n);
    mg_chain_read(&some, (char *)to);
    mg_chain_clear(&some);
    moved(s);
    return (ssize_t)n;
}

/* Small pieces lie together in one block. */
static bool put(struct mg_h2 *h, const uint8_t *bytes, size_t len)
{
    while (len) {
        struct mg_block *b = h->scratch;
        if (b && b->used == b->size) {
            mg_block_give(b);
            b = NULL;
        }
        if (!b)
            b = h->scratch = mg_block_take(MG_BLOCK_SMALL);
        if (!b)
            return false;
        size_t n = b->size - b->used < len ? b->size - b->used : len;
        memcpy(b->data + b->used, bytes, n);
        mg_chain_add(&h->out, b, b->data + b->used, n);
        b->used += (unsigned)n;
        bytes += n;
        len -= n;
    }
    return !h->out.failed;
}

ssize_t mg_h2_on_send(nghttp2_session *session, const uint8_t *data, size_t len, int flags, void *user)
{
    struct mg_h2 *h = user;

    (void)session;
    (void)flags;
    if (h->out.bytes >= OUT_MOST)
        return NGHTTP2_ERR_WOULDBLOCK;
    return put(h, data, len) ? (ssize_t)len : NGHTTP2_ERR_CALLBACK_FAILURE;
}

int mg_h2_on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t len,
                       nghttp2_data_source *source, void *user)
{
    struct mg_h2 *h = user;
    struct mg_h2_stream *s = source->ptr;

    (void)session;
    (void)frame;
    if (h->out.bytes >= OUT_MOST)
        return NGHTTP2_ERR_WOULDBLOCK;
    if (len > s->out.bytes) /* cleared since nghttp2 was told of it: the stream was reset */
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (!put(h, head, 9))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    mg_chain_split(&h->out, &s->out, len);
    if (h->controls.count && len > COPY_MOST)
        h->controls.count--; /* who takes data may send WINDOW_UPDATE */
    moved(s);
    return 0;
}

int mg_h2_on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct mg_h2 *h = user;

    if (frame->hd.type == NGHTTP2_RST_STREAM && h->client_side && frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
        frame->rst_stream.error_code != NGHTTP2_CANCEL)
        h->resets.count++; /* a client that makes us reset its streams counts as one that does so itself */
    if (frame->hd.type == NGHTTP2_GOAWAY && h->draining && !h->told && h->client_side)
        return nghttp2_submit_ping(session, NGHTTP2_FLAG_NONE, NULL); /* which overtakes what is not sent yet */
    if ((frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) ||
        !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    struct mg_h2_stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (s) {
        s->out_sent = true;
        mg_h2_stream_watch(s);
        if (h->client_side && !s->in_ended)
            mg_h2_stream_touch(s); /* is the rest of its request still wanted? */
    }
    return 0;
}

bool mg_h2_fill(struct mg_h2 *h)
{
    return h->out.bytes >= OUT_MOST || nghttp2_session_send(h->session) == 0;
}

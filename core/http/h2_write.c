/* h2_write.c - what a stream's owner asks for.
 *
 * Nothing is sent where it is asked for: frames are made when h2.c flushes, so
 * that all streams of a connection leave in one write. */
#include "h2_connection.h"

#include <assert.h>

static struct mg_h2_stream *stream_of(struct mg_stream *s)
{
    assert(s->magic == MG_H2_STREAM_MAGIC);
    return (struct mg_h2_stream *)s;
}

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
    nghttp2_data_provider body = { .source.ptr = s, .read_callback = mg_h2_on_body };
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
    nghttp2_data_provider body = { .source.ptr = s, .read_callback = mg_h2_on_body };
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
    size_t n = mg_h2_head_of_request(m, h->carrier.info.tls != NULL, &fields);
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
        mg_h2_stream_let_go(s);
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

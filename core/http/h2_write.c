/* h2_write.c - what a stream's owner asks for.
 *
 * Nothing is sent where it is asked for: frames are made when h2.c flushes, so
 * that all streams of a connection leave in one write. */
#include "h2_connection.h"

#include <assert.h>

#include "websocket_key.h"

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

static void submit_request(struct mg_h2_stream *s, const nghttp2_nv *fields, size_t n)
{
    nghttp2_data_provider body = { .source.ptr = s, .read_callback = mg_h2_on_body };

    s->id = nghttp2_submit_request(s->connection->session, NULL, fields, n, s->out_whole ? NULL : &body, s);
    if (s->id < 0) {
        s->id = 0;
        give_up(s);
        return;
    }
    queued(s);
}

/* ---- WebSockets with origins (RFC 8441). ---- */

/* The fields' bytes are the owner's, and not to be kept. */
static void hold(struct mg_h2_stream *s, const nghttp2_nv *fields, size_t n)
{
    s->held = mg_arena_take(s->arena, n * sizeof(*fields));
    for (size_t i = 0; i < n && s->held; i++) {
        mg_slice name = { (const char *)fields[i].name, (uint32_t)fields[i].namelen };
        mg_slice value = { (const char *)fields[i].value, (uint32_t)fields[i].valuelen };
        s->held[i] = fields[i];
        s->held[i].name = (uint8_t *)(uintptr_t)mg_arena_copy(s->arena, name).ptr;
        s->held[i].value = (uint8_t *)(uintptr_t)mg_arena_copy(s->arena, value).ptr;
    }
    s->held_count = n;
}

static void submit_websocket(struct mg_h2_stream *s, const nghttp2_nv *fields, size_t n)
{
    nghttp2_session *session = s->connection->session;

    if (nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1) {
        submit_request(s, fields, n);
        return;
    }
    s->stream.problem = "its HTTP/2 takes no WebSocket: SETTINGS_ENABLE_CONNECT_PROTOCOL is not in its SETTINGS";
    give_up(s);
}

void mg_h2_introduced(struct mg_h2 *h)
{
    h->introduced = true;
    for (struct mg_h2_stream *s = h->streams; s; s = s->next)
        if (s->held && s->open && !s->id && !s->closed)
            submit_websocket(s, s->held, s->held_count);
}

/* Makes the answer that its client waits for. */
static bool begin_websocket(struct mg_h2_stream *s, const struct mg_message *m)
{
    const struct mg_field *key = mg_message_find(m, MG_LIT("sec-websocket-key"));

    if (!mg_text_same(mg_message_known(m, MG_FIELD_UPGRADE)->value, MG_LIT("websocket"))) {
        s->stream.problem = "its HTTP/2 takes no Upgrade but a WebSocket's";
        return false;
    }
    s->arena = mg_arena_new();
    s->accept = s->arena ? mg_arena_take(s->arena, MG_WEBSOCKET_ACCEPT + 1) : NULL;
    s->stream.problem = "a WebSocket's request without a key";
    if (!s->accept || !key || !mg_websocket_accept(key->value, s->accept))
        return false;
    s->stream.problem = NULL;
    return true;
}

static void send_request_head(struct mg_stream *stream, const struct mg_message *m, bool last)
{
    struct mg_h2_stream *s = stream_of(stream);
    struct mg_h2 *h = s->connection;
    nghttp2_nv *fields;

    s->websocket = mg_message_has(m, MG_FIELD_UPGRADE);
    if (s->websocket && !begin_websocket(s, m)) {
        give_up(s);
        return;
    }
    s->head_method = mg_method_is(m->method, "HEAD");
    s->connect = mg_method_is(m->method, "CONNECT");
    s->tunnels = s->connect || s->websocket;
    note_length(s, m);
    s->out_whole = last && !s->tunnels;
    size_t n = mg_h2_head_of_request(m, h->carrier.info.tls != NULL, s->websocket, &fields);
    s->head_out = true;
    if (!s->websocket) {
        submit_request(s, fields, n);
    } else if (h->introduced) {
        submit_websocket(s, fields, n);
    } else {
        hold(s, fields, n);
        if (mg_arena_failed(s->arena))
            give_up(s);
        mg_h2_stream_watch(s);
    }
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

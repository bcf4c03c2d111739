/* h2_read.c - what nghttp2 has read, handed up (RFC 9113).
 *
 * Heads go up at once, since the next one uses their room; bodies wait for the
 * flush, so that a connection's frames make one piece. The connection's window
 * is given back as bytes come, a stream's when its owner takes them: one
 * that takes none stops nobody else, and holds a window's bytes at most. */
#include "h2_connection.h"

#include "log.h"

enum { INTERIMS_MOST = 16 };
static const double SPAN = 10; /* seconds in which max_resets and max_control_frames count */

/* ---- What costs a peer nothing. ---- */

static void count(struct mg_h2 *h, struct mg_h2_count *c, uint32_t most, const char *what)
{
    if (mg_clock_now() - c->since > SPAN)
        *c = (struct mg_h2_count){ .since = mg_clock_now() };
    if (++c->count > most && most && h->client_side)
        h->calm = what;
}

/* A stream that is over, or was passed over by a later one, takes no head (RFC 9113 5.1, 5.1.1). nghttp2 lets it be,
 * since it may have been on its way when the stream was reset; where no reset explains it, the connection ends. */
static bool is_late_head(struct mg_h2 *h, int32_t id)
{
    return h->client_side && id > h->last_reset && id <= nghttp2_session_get_last_proc_stream_id(h->session) &&
           !nghttp2_session_find_stream(h->session, id);
}

static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *user)
{
    struct mg_h2 *h = user;
    const struct mg_limits *limits = h->settings->limits;

    switch (hd->type) {
    case NGHTTP2_HEADERS:
        if (is_late_head(h, hd->stream_id))
            return nghttp2_session_terminate_session(session, NGHTTP2_STREAM_CLOSED);
        break;
    case NGHTTP2_RST_STREAM:
        mg_h2_note_reset(h, hd->stream_id);
        count(h, &h->resets, limits->max_resets, "more resets than max_resets");
        break;
    case NGHTTP2_DATA:
        if (hd->length || hd->flags & NGHTTP2_FLAG_END_STREAM)
            break;
        /* fall through */
    case NGHTTP2_SETTINGS:
    case NGHTTP2_PING:
    case NGHTTP2_PRIORITY:
    case NGHTTP2_PRIORITY_UPDATE:
    case NGHTTP2_WINDOW_UPDATE:
        if (hd->type == NGHTTP2_PRIORITY && hd->stream_id == 0) /* unseen by nghttp2, as they mean nothing any more */
            return nghttp2_session_terminate_session(session, NGHTTP2_PROTOCOL_ERROR);
        if (!(hd->type == NGHTTP2_PING || hd->type == NGHTTP2_SETTINGS) || !(hd->flags & NGHTTP2_FLAG_ACK))
            count(h, &h->controls, limits->max_control_frames, "more control frames than max_control_frames");
        break;
    default:
        break;
    }
    return 0;
}

/* ---- Heads. ---- */

static struct mg_h2_stream *stream_of(nghttp2_session *session, int32_t id)
{
    return id ? nghttp2_session_get_stream_user_data(session, id) : NULL;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct mg_h2 *h = user;

    mg_h2_head_begin(h);
    if (!h->client_side || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct mg_h2_stream *s = mg_h2_stream_new(h, &mg_h2_serving_ops);
    if (!s)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    s->id = frame->hd.stream_id;
    return nghttp2_session_set_stream_user_data(session, s->id, s);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                     const uint8_t *value, size_t value_len, uint8_t flags, void *user)
{
    struct mg_h2 *h = user;
    struct mg_h2_stream *s = stream_of(session, frame->hd.stream_id);

    (void)flags;
    if (!s || name_len > INT32_MAX || value_len > INT32_MAX)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    return mg_h2_head_field(h, s, (mg_slice){ (const char *)name, (uint32_t)name_len },
                            (mg_slice){ (const char *)value, (uint32_t)value_len })
               ? 0
               : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

/* nghttp2 would leave out a field that is malformed; the whole message is (RFC 9113 8.1.1). */
static int on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                             const uint8_t *value, size_t value_len, uint8_t flags, void *user)
{
    (void)session;
    (void)frame;
    (void)name;
    (void)name_len;
    (void)value;
    (void)value_len;
    (void)flags;
    (void)user;
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static void accept_request(struct mg_h2 *h, struct mg_h2_stream *s)
{
    mg_h2_head_request(h, s);
    s->head_in = true;
    s->in_whole = s->in_ended || s->tunnels || s->refused;
    mg_h2_stream_open(s, NULL, NULL);
    h->carrier.events->on_stream(&h->carrier, &s->stream, &h->message, s->in_whole);
    mg_h2_stream_watch(s);
}

static void fail(struct mg_h2_stream *s, const char *text)
{
    s->stream.problem = text;
    mg_h2_stream_reset(s, NGHTTP2_PROTOCOL_ERROR);
    mg_h2_stream_end(s, MG_WHY_MALFORMED);
}

/* The origin takes no tunnel: nothing follows the request's head. */
static void end_request(struct mg_h2_stream *s)
{
    struct mg_chain none = { 0 };

    s->stream.ops->send_body(&s->stream, &none, true);
}

static void accept_response(struct mg_h2 *h, struct mg_h2_stream *s)
{
    const struct mg_message *m = &h->message;
    bool agreed = s->tunnels && m->status / 100 == 2;

    if (!s->open)
        return;
    if (s->refused) {
        fail(s, s->refusal);
    } else if (m->status < 200) {
        if (++s->interims > INTERIMS_MOST)
            fail(s, "too many interim responses");
        else
            s->stream.events->on_interim(&s->stream, m);
    } else if (agreed && s->websocket && !mg_h2_head_agreed(h, s)) {
        fail(s, "out of memory");
    } else {
        s->head_in = true;
        s->stream.tunnel = agreed;
        if (s->tunnels && !agreed)
            end_request(s);
        s->in_whole = s->in_ended && !s->stream.tunnel;
        s->stream.events->on_head(&s->stream, m, s->in_whole);
        mg_h2_stream_watch(s);
    }
}

static void accept_trailers(struct mg_h2 *h, struct mg_h2_stream *s)
{
    if (s->refused) {
        mg_h2_stream_reset(s, NGHTTP2_PROTOCOL_ERROR);
        mg_h2_stream_end(s, MG_WHY_TOO_LARGE);
        return;
    }
    mg_h2_head_trailers(h);
    if (!s->arena)
        s->arena = mg_arena_new();
    if (s->arena)
        mg_message_keep(&s->trailed, &h->message, s->arena);
    s->has_trailed = s->arena && !mg_arena_failed(s->arena) && s->trailed.count;
    mg_h2_stream_touch(s);
}

static void on_headers(struct mg_h2 *h, struct mg_h2_stream *s, const nghttp2_frame *frame)
{
    s->in_ended = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (s->head_in)
        accept_trailers(h, s);
    else if (h->client_side)
        accept_request(h, s);
    else
        accept_response(h, s);
}

/* ---- Other frames. ---- */

void mg_h2_name_last(struct mg_h2 *h)
{
    h->told = true;
    (void)nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h->session),
                                NGHTTP2_NO_ERROR, NULL, 0);
    mg_h2_mark(h);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct mg_h2 *h = user;
    struct mg_h2_stream *s = stream_of(session, frame->hd.stream_id);

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (s)
            on_headers(h, s, frame);
        mg_h2_head_end(h);
        break;
    case NGHTTP2_DATA:
        if (s && frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
            s->in_ended = true;
            mg_h2_stream_touch(s);
        }
        break;
    case NGHTTP2_SETTINGS:
        if (!h->client_side && !h->introduced && !(frame->hd.flags & NGHTTP2_FLAG_ACK))
            mg_h2_introduced(h);
        break;
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK && h->draining && !h->told && h->client_side)
            mg_h2_name_last(h);
        break;
    case NGHTTP2_GOAWAY:
        h->draining |= !h->client_side;
        break;
    default:
        break;
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user)
{
    struct mg_h2 *h = user;
    struct mg_h2_stream *s = stream_of(session, id);

    (void)flags;
    if (nghttp2_session_consume_connection(session, len) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!s || !s->open || (s->in_whole && !s->tunnels))
        return 0;
    mg_chain_add(&s->in, h->in, (const char *)data, len);
    if (s->in.failed)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    mg_h2_stream_watch(s);
    mg_h2_stream_touch(s);
    return 0;
}

/* ---- The end of streams. ---- */

static enum mg_why why_closed(const struct mg_h2_stream *s, uint32_t code)
{
    if (s->connection->client_side)
        return s->out_sent ? MG_WHY_COMPLETE : MG_WHY_CUT;
    if (s->in_ended && s->in_whole)
        return MG_WHY_COMPLETE;
    if (code == NGHTTP2_REFUSED_STREAM && !s->head_in)
        return MG_WHY_REFUSED;
    return code == NGHTTP2_PROTOCOL_ERROR ? MG_WHY_MALFORMED : MG_WHY_CUT;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    struct mg_h2 *h = user;
    struct mg_h2_stream *s = stream_of(session, id);

    if (!s)
        return 0;
    s->closed = true;
    mg_chain_clear(&s->out);
    s->stream.queued = 0;
    mg_h2_stream_touch(s);
    /* What has come whole is still handed up, as its owner wants it. */
    if (s->in_ended && !s->in_whole && (h->client_side ? s->stream.relaying && s->out_sent : s->head_in))
        return 0;
    mg_h2_stream_end(s, why_closed(s, code));
    return 0;
}

/* ---- The streams that are due. ---- */

static void give_window_back(struct mg_h2_stream *s)
{
    size_t n = s->unconsumed;

    if (!n || !s->wanting || s->closed)
        return;
    s->unconsumed = 0;
    (void)nghttp2_session_consume_stream(s->connection->session, s->id, n);
}

static void hand_up(struct mg_h2_stream *s)
{
    bool last = s->in_ended && !s->has_trailed;

    if (!s->open || !s->head_in || s->in_whole || !s->wanting)
        return;
    if (s->in.bytes || last) {
        struct mg_chain body = s->in;
        s->in = (struct mg_chain){ 0 };
        s->unconsumed += body.bytes;
        s->in_whole = last;
        s->stream.events->on_body(&s->stream, &body, last);
        mg_chain_clear(&body);
    }
    if (s->open && s->in_ended && s->has_trailed && !s->in_whole && s->wanting) {
        s->in_whole = true;
        s->stream.events->on_trailers(&s->stream, &s->trailed);
    }
    mg_h2_stream_watch(s);
}

/* RFC 9113 8.1: the response is whole, and the rest of the request is not wanted. */
static bool is_rest_unwanted(const struct mg_h2_stream *s)
{
    return s->connection->client_side && s->out_sent && !s->in_ended && !s->closed &&
           (!s->open || !s->stream.relaying || s->broken);
}

static void look(struct mg_h2_stream *s)
{
    if (s->failed)
        mg_h2_stream_end(s, s->stream.problem ? MG_WHY_MALFORMED : MG_WHY_CUT);
    hand_up(s);
    give_window_back(s);
    if (s->open && s->crowded && s->out.bytes <= MG_STREAM_LOW) {
        s->crowded = false;
        s->stream.events->on_room(&s->stream);
    }
    if (is_rest_unwanted(s))
        (void)nghttp2_submit_rst_stream(s->connection->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
    if (s->open && s->closed && s->in_whole)
        mg_h2_stream_end(s, why_closed(s, NGHTTP2_NO_ERROR));
    if (!s->open && s->closed && !s->due)
        mg_h2_stream_free(s);
}

void mg_h2_look(struct mg_h2 *h)
{
    while (h->due) {
        struct mg_h2_stream *s = h->due;
        h->due = s->next_due;
        s->due = false;
        look(s);
    }
}

/* ---- For all connections. ---- */

static nghttp2_session_callbacks *callbacks;

const nghttp2_session_callbacks *mg_h2_callbacks(void)
{
    if (callbacks || nghttp2_session_callbacks_new(&callbacks) != 0)
        return callbacks;
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks, on_invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, mg_h2_on_frame_send);
    nghttp2_session_callbacks_set_send_callback(callbacks, mg_h2_on_send);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, mg_h2_on_send_data);
    return callbacks;
}

void mg_h2_callbacks_free(void)
{
    nghttp2_session_callbacks_del(callbacks);
    callbacks = NULL;
}

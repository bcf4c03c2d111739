/* h2_send.c - how nghttp2 gets our bytes: frames into the connection's out chain.
 *
 * Bodies go out as the blocks they came in: nghttp2 sees their length alone. */
#include "h2_connection.h"

#include <string.h>

enum {
    COPY_MOST = 1024,      /* pieces of a body that are cheaper to copy than to send as a run of their own */
    OUT_MOST = 256 * 1024, /* frames that may wait for the transport; the rest stays with its streams */
};

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
ssize_t mg_h2_on_body(nghttp2_session *session, int32_t id, uint8_t *to, size_t cap, uint32_t *flags,
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

    if (frame->hd.type == NGHTTP2_RST_STREAM)
        mg_h2_note_reset(h, frame->hd.stream_id);
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

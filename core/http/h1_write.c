/* h1_write.c - messages into the bytes of HTTP/1.1 (RFC 9112).
 *
 * Every head is written anew from a message; framing fields are ours alone.
 * Nothing is given to the transport here: a head and the first piece of its
 * body leave in one write, when h1.c flushes. */
#include "h1_connection.h"

enum { FRAMING_ROOM = 128 }; /* Connection, Transfer-Encoding or Content-Length, and the empty line */

struct mg_carriers mg_h1_carriers;
static unsigned streams;

void mg_h1_mark(struct mg_h1 *h)
{
    mg_carrier_mark(&mg_h1_carriers, &h->carrier);
}

void mg_h1_stream_open(struct mg_h1 *h)
{
    h->open = true;
    streams++;
}

void mg_h1_stream_close(struct mg_h1 *h)
{
    h->open = false;
    streams--;
}

unsigned mg_h1_streams(void)
{
    return streams;
}

void mg_h1_doom(struct mg_h1 *h, bool abort)
{
    mg_carrier_doom(&mg_h1_carriers, &h->carrier, abort);
}

static struct mg_h1 *connection_of(struct mg_stream *s)
{
    return MG_HOLDER(s, struct mg_h1, stream);
}

/* The bytes from..to were written into a fresh block b: they go out, and the block belongs to the chain. */
static void add_block(struct mg_h1 *h, struct mg_block *b, char *end)
{
    b->used = (unsigned)(end - b->data);
    mg_chain_add(&h->out, b, b->data, b->used);
    mg_block_give(b);
}

static void queued(struct mg_h1 *h)
{
    h->stream.queued = h->out.bytes;
    if (h->out.bytes > MG_STREAM_HIGH)
        h->crowded = true;
    mg_h1_mark(h);
}

/* Content-Length of a message that the exchange vouches for. */
static bool declared_length(const struct mg_message *m, uint64_t *length)
{
    if (!mg_message_has(m, MG_FIELD_CONTENT_LENGTH))
        return false;
    return mg_text_number(mg_message_known(m, MG_FIELD_CONTENT_LENGTH)->value, length);
}

static bool is_bodiless(const struct mg_h1 *h, unsigned status)
{
    return h->head_method || status == 204 || status == 304;
}

static bool is_tunnel(const struct mg_h1 *h, unsigned status)
{
    return (status == 101 && h->upgrade) || (h->connect_method && status / 100 == 2);
}

/* How the response's body will be framed (RFC 9112 6.3), and what its head says of it. */
static char *frame_response(struct mg_h1 *h, char *to, const struct mg_message *m, bool last)
{
    if (is_tunnel(h, m->status)) {
        h->out_kind = MG_BODY_UNTIL_CLOSE;
        h->stream.tunnel = true;
        return to;
    }
    if (is_bodiless(h, m->status)) {
        h->out_kind = MG_BODY_NONE;
        return to;
    }
    if (declared_length(m, &h->out_left)) {
        h->out_kind = MG_BODY_LENGTH;
        return to;
    }
    if (last) {
        h->out_kind = MG_BODY_NONE;
        return mg_text_put(to, MG_LIT("Content-Length: 0\r\n"));
    }
    if (h->old) {
        h->out_kind = MG_BODY_UNTIL_CLOSE;
        h->keep = false;
        return to;
    }
    h->out_kind = MG_BODY_CHUNKED;
    return mg_text_put(to, MG_LIT("Transfer-Encoding: chunked\r\n"));
}

static void decide_keeping(struct mg_h1 *h)
{
    const struct mg_limits *limits = h->settings->limits;

    if (limits->keepalive_requests && h->served >= limits->keepalive_requests)
        h->keep = false;
    if (h->stream.final || h->draining || (h->eof && h->in_at == h->in_end) ||
        (h->settings->draining && *h->settings->draining))
        h->keep = false;
    /* A client that was never told to go on may send its body, or not: the connection can't be read any further. */
    if (h->expects && !h->incoming.whole)
        h->keep = false;
}

/* What was promised can't be kept: the flush ends the stream with a cut. */
static void give_up(struct mg_h1 *h)
{
    h->out_broken = true;
    mg_h1_mark(h);
}

static void send_response_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    struct mg_h1 *h = connection_of(s);
    struct mg_block *b = mg_block_take(mg_head_response_size(m) + FRAMING_ROOM);

    if (!b) {
        give_up(h);
        return;
    }
    decide_keeping(h);
    char *to = mg_head_write_response(b->data, m);
    to = frame_response(h, to, m, last);
    if (s->tunnel && m->status == 101)
        to = mg_text_put(to, MG_LIT("Connection: upgrade\r\n"));
    else if (!h->keep && !s->tunnel)
        to = mg_text_put(to, MG_LIT("Connection: close\r\n"));
    else if (h->old)
        to = mg_text_put(to, MG_LIT("Connection: keep-alive\r\n"));
    to = mg_text_put(to, MG_LIT("\r\n"));
    add_block(h, b, to);

    h->head_out = true;
    h->out_whole = last || (h->out_kind == MG_BODY_NONE) || (h->out_kind == MG_BODY_LENGTH && h->out_left == 0);
    if (s->tunnel) {
        h->keep = false;
        h->out_whole = false;
        h->incoming = (struct mg_framing){ .kind = MG_BODY_UNTIL_CLOSE };
    }
    queued(h);
}

static void send_interim(struct mg_stream *s, const struct mg_message *m)
{
    struct mg_h1 *h = connection_of(s);

    if (m->status == 100)
        h->expects = false;
    if (h->old) /* HTTP/1.0 knows no 1xx (RFC 9110 15.2) */
        return;
    struct mg_block *b = mg_block_take(mg_head_response_size(m) + FRAMING_ROOM);
    if (!b)
        return;
    add_block(h, b, mg_text_put(mg_head_write_response(b->data, m), MG_LIT("\r\n")));
    queued(h);
}

static void send_request_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    struct mg_h1 *h = connection_of(s);
    struct mg_block *b = mg_block_take(mg_head_request_size(m) + FRAMING_ROOM);

    if (!b) {
        give_up(h);
        return;
    }
    h->head_method = mg_method_is(m->method, "HEAD");
    h->connect_method = mg_method_is(m->method, "CONNECT");
    h->upgrade = mg_message_has(m, MG_FIELD_UPGRADE);
    char *to = mg_head_write_request(b->data, m);
    if (h->upgrade)
        to = mg_text_put(to, MG_LIT("Connection: upgrade\r\n"));
    h->out_kind = MG_BODY_NONE;
    if (declared_length(m, &h->out_left)) {
        h->out_kind = MG_BODY_LENGTH;
    } else if (!last) {
        h->out_kind = MG_BODY_CHUNKED;
        to = mg_text_put(to, MG_LIT("Transfer-Encoding: chunked\r\n"));
    }
    to = mg_text_put(to, MG_LIT("\r\n"));
    add_block(h, b, to);

    h->head_out = true;
    h->out_whole = last || (h->out_kind == MG_BODY_LENGTH && h->out_left == 0);
    queued(h);
}

static void put_chunk_size(struct mg_chain *out, size_t n)
{
    char line[20];
    char *at = line + sizeof(line);

    *--at = '\n';
    *--at = '\r';
    do {
        *--at = "0123456789abcdef"[n & 15];
        n >>= 4;
    } while (n);
    mg_chain_copy(out, at, (size_t)(line + sizeof(line) - at));
}

static void send_chunk(struct mg_h1 *h, struct mg_chain *body, bool last)
{
    if (body->bytes) {
        put_chunk_size(&h->out, body->bytes);
        mg_chain_move(&h->out, body);
        mg_chain_copy(&h->out, "\r\n", 2);
    }
    if (last)
        mg_chain_copy(&h->out, "0\r\n\r\n", 5);
}

static void send_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    struct mg_h1 *h = connection_of(s);

    /* A chain that could not hold all of its bytes must not pass for whole. */
    if (body->failed || h->out.failed) {
        give_up(h);
        mg_chain_clear(body);
        return;
    }
    if (h->out_broken || (h->out_whole && !s->tunnel)) {
        mg_chain_clear(body);
        return;
    }
    switch ((enum mg_body_kind)h->out_kind) {
    case MG_BODY_NONE:
        mg_chain_clear(body);
        break;
    case MG_BODY_LENGTH:
        if (body->bytes > h->out_left || (last && body->bytes < h->out_left)) {
            mg_chain_clear(body);
            give_up(h); /* a body of another length than declared stays visibly wrong */
            return;
        }
        h->out_left -= body->bytes;
        mg_chain_join(&h->out, body);
        break;
    case MG_BODY_CHUNKED:
        send_chunk(h, body, last);
        break;
    case MG_BODY_UNTIL_CLOSE:
        mg_chain_move(&h->out, body);
        break;
    }
    if (last || (h->out_kind == MG_BODY_LENGTH && h->out_left == 0))
        h->out_whole = true;
    queued(h);
}

static void send_trailers(struct mg_stream *s, const struct mg_message *m)
{
    struct mg_h1 *h = connection_of(s);
    struct mg_chain none = { 0 };

    /* Only a chunked body has a place for them (RFC 9110 6.5.1 lets them be dropped elsewhere). */
    if (h->out_kind != MG_BODY_CHUNKED || h->out_whole) {
        send_body(s, &none, true);
        return;
    }
    mg_chain_copy(&h->out, "0\r\n", 3);
    for (unsigned i = 0; i < m->count; i++) {
        mg_chain_copy(&h->out, m->fields[i].name.ptr, m->fields[i].name.len);
        mg_chain_copy(&h->out, ": ", 2);
        mg_chain_copy(&h->out, m->fields[i].value.ptr, m->fields[i].value.len);
        mg_chain_copy(&h->out, "\r\n", 2);
    }
    mg_chain_copy(&h->out, "\r\n", 2);
    h->out_whole = true;
    queued(h);
}

static void want(struct mg_stream *s, bool more)
{
    struct mg_h1 *h = connection_of(s);

    h->wanting = more;
    h->transport->ops->want_read(h->transport, more);
    if (more)
        mg_h1_mark(h); /* bytes that lie here already are handed out by the flush */
}

static void reset(struct mg_stream *s, enum mg_why why)
{
    struct mg_h1 *h = connection_of(s);

    if (h->open)
        mg_h1_stream_close(h);
    if (h->client_side && why == MG_WHY_CUT && h->head_out && h->out.bytes) {
        h->cutting = h->lingering = true;
        mg_h1_mark(h);
        return;
    }
    mg_h1_doom(h, why != MG_WHY_COMPLETE);
}

const struct mg_stream_ops mg_h1_serving_ops = {
    .name = "h1",
    .send_head = send_response_head,
    .send_interim = send_interim,
    .send_body = send_body,
    .send_trailers = send_trailers,
    .want = want,
    .reset = reset,
};

const struct mg_stream_ops mg_h1_dialled_ops = {
    .name = "h1",
    .send_head = send_request_head,
    .send_interim = send_interim,
    .send_body = send_body,
    .send_trailers = send_trailers,
    .want = want,
    .reset = reset,
};

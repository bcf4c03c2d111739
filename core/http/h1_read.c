/* h1_read.c - bytes of HTTP/1.1 taken apart and handed up (RFC 9112).
 *
 * What lies in `in` is a head, a piece of a body, a trailer section, or
 * belongs to a request that has to wait. Doubt ends the connection: after one
 * last answer for a client, at once for an origin. */
#include "h1_connection.h"

enum {
    INTERIMS_MOST = 16,
    DISCARD_MOST = 256 * 1024, /* of a request's body that nobody wants, to save the connection */
};

void mg_h1_end_stream(struct mg_h1 *h, enum mg_why why)
{
    if (!h->open)
        return;
    mg_h1_stream_close(h);
    h->stream.events->on_end(&h->stream, why);
}

void mg_h1_end(struct mg_h1 *h, enum mg_why why, bool abort)
{
    mg_h1_doom(h, abort);
    mg_h1_end_stream(h, why);
}

void mg_h1_drop_input(struct mg_h1 *h)
{
    if (h->in)
        mg_block_give(h->in);
    h->in = NULL;
    h->in_at = h->in_end = h->scanned = 0;
}

void mg_h1_break_request(struct mg_h1 *h, enum mg_why why, const char *text)
{
    h->incoming.whole = true;
    h->keep = false;
    h->lingering = true; /* what still comes of it is not read */
    h->stream.events->on_broken(&h->stream, why, text);
}

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
        mg_h1_drop_input(h);
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
void mg_h1_refuse(struct mg_h1 *h, unsigned status, const char *why)
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
        mg_h1_refuse(h, (unsigned)status, why);
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

typedef int head_reader(const char *data, size_t len, const struct mg_head_limits *limits, struct mg_message *m,
                        const char **why);

/* Reads a head from what lies in `in` and takes its bytes off. Its length, 0 for more to come, or minus a status. A
 * head
 * that trickles in is looked through for its end, and read once. */
static int read_head(struct mg_h1 *h, head_reader *read, struct mg_message *m, const char **why)
{
    const char *data = h->in->data + h->in_at;
    uint32_t len = h->in_end - h->in_at;
    struct mg_head_limits limits = head_limits(h);
    bool full = len >= limits.max_head_size;

    if (h->scanned && !full && !mg_head_is_whole(data, len, h->scanned)) {
        h->scanned = len;
        return 0;
    }
    int n = read(data, len, &limits, m, why);
    h->scanned = n == 0 ? len : 0;
    if (n > 0)
        h->in_at += (uint32_t)n;
    if (n != 0 || !full)
        return n;
    *why = "the head is longer than max_head_size";
    return -431;
}

static const char preface[] = "PRI * HTTP/2.0\r\n";
enum { PREFACE = sizeof(preface) - 1 };

/* RFC 9113 3.4: the connection goes on as HTTP/2, if the owner wants that. True for a part of the preface too. */
static bool may_be_preface(const struct mg_h1 *h)
{
    uint32_t len = h->in_end - h->in_at;

    return h->carrier.events->on_preface && !h->served &&
           memcmp(h->in->data + h->in_at, preface, len < PREFACE ? len : PREFACE) == 0;
}

/* False: wait for more. */
static bool hand_over(struct mg_h1 *h)
{
    if (h->in_end - h->in_at < PREFACE)
        return false;

    struct mg_transport *t = h->transport;
    mg_slice begun = { h->in->data + h->in_at, h->in_end - h->in_at };

    h->transport = NULL;
    h->in_at = h->in_end;
    mg_h1_doom(h, false);
    h->carrier.events->on_preface(&h->carrier, t, begun);
    return true;
}

/* False: wait for more. */
static bool read_request(struct mg_h1 *h)
{
    const char *why = "";
    struct mg_message m;
    int n = read_head(h, mg_head_request, &m, &why);

    if (n < 0 && may_be_preface(h))
        return hand_over(h);
    if (n < 0)
        mg_h1_refuse(h, (unsigned)-n, why);
    else if (n > 0)
        accept_request(h, &m);
    return n != 0;
}

static void failed_response(struct mg_h1 *h, enum mg_why why, const char *text)
{
    h->stream.problem = text;
    mg_h1_end(h, why, true);
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
    const char *why = "";
    struct mg_message m;
    int n = read_head(h, mg_head_response, &m, &why);

    if (n < 0)
        failed_response(h, MG_WHY_MALFORMED, why);
    else if (n > 0 && (m.status >= 200 || m.status == 101))
        accept_response(h, &m, h->head_method ? MG_LIT("HEAD") : h->connect_method ? MG_LIT("CONNECT") : MG_LIT("GET"));
    else if (n > 0 && ++h->interims > INTERIMS_MOST)
        failed_response(h, MG_WHY_MALFORMED, "too many interim responses");
    else if (n > 0)
        h->stream.events->on_interim(&h->stream, &m);
    return n > 0;
}

static void broken_body(struct mg_h1 *h, const char *why)
{
    if (!h->client_side)
        failed_response(h, MG_WHY_MALFORMED, why);
    else if (h->open)
        mg_h1_break_request(h, MG_WHY_MALFORMED, why);
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
        if (mg_framing_take(&h->incoming, &limits, h->in->data + h->in_at, h->in_end - h->in_at, &used, &piece, why) !=
            MG_OK)
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
            mg_h1_mark(h); /* the response was whole before: both are now */
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
        if (h->carrier.doomed)
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
void mg_h1_finish_response(struct mg_h1 *h)
{
    bool keep = h->keep && !h->draining && h->out_whole && !h->out.bytes && !h->out_broken && h->in_at == h->in_end;

    if (!h->out_whole || (h->out.bytes && !h->out_broken))
        return; /* the request still goes on; after_write() comes back here */
    if (!keep)
        mg_h1_doom(h, false);
    mg_h1_end_stream(h, MG_WHY_COMPLETE);
    if (keep && !h->carrier.doomed) {
        mg_h1_drop_input(h);
        h->large = false;
        h->transport->ops->want_read(h->transport, true); /* back-pressure may have ended it: now a close must show */
        h->carrier.events->on_idle(&h->carrier);
    }
}

static void read_dialled(struct mg_h1 *h)
{
    while (!h->carrier.doomed && h->in_at < h->in_end) {
        if (!h->open) {
            mg_h1_doom(h, false); /* an answer that nobody asked for (RFC 9112 9.2) */
        } else if (!h->head_in) {
            if (!read_response(h))
                return;
        } else if (!h->incoming.whole) {
            if (!h->wanting || !read_body(h))
                return;
        } else {
            break;
        }
        if (!h->carrier.doomed && h->open && h->head_in && h->incoming.whole)
            mg_h1_finish_response(h);
    }
    if (!h->carrier.doomed && h->open && h->head_in && h->incoming.whole)
        mg_h1_finish_response(h);
}

static void read_serving(struct mg_h1 *h)
{
    while (!h->carrier.doomed && h->in_at < h->in_end) {
        if (h->lingering) {
            h->in_at = h->in_end;
        } else if (h->open && h->incoming.whole) {
            return; /* the next request waits for this one's end */
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
void mg_h1_read_on(struct mg_h1 *h)
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
    /* Requests that came whole before the end are answered all the same. */
    if (!h->client_side || !h->open || h->in_at == h->in_end)
        h->keep = false;
    h->transport->ops->want_read(h->transport, false);
    if (!h->open) {
        mg_h1_doom(h, false);
    } else if ((h->client_side || h->head_in) && h->incoming.kind == MG_BODY_UNTIL_CLOSE && !h->incoming.whole) {
        h->incoming.whole = true;
        h->stream.events->on_body(&h->stream, &none, true);
        if (!h->client_side && h->open)
            mg_h1_finish_response(h);
        mg_h1_mark(h);
    } else if (!h->client_side || !h->incoming.whole) {
        bool fresh = h->in_at == h->in_end && !h->interims;
        mg_h1_end(h, !h->client_side && h->stream.reused && !h->head_in && fresh ? MG_WHY_STALE : MG_WHY_CUT, true);
    }
}

static void on_lost(struct mg_h1 *h)
{
    bool stale = !h->client_side && h->open && h->stream.reused && !h->head_in && h->in_at == h->in_end;

    mg_h1_end(h, stale ? MG_WHY_STALE : MG_WHY_CUT, true);
}

/* May more bytes be read into `in`? Pipelined requests wait in one block. */
bool mg_h1_may_read(const struct mg_h1 *h)
{
    if (h->carrier.doomed || h->eof)
        return false;
    if (!h->open || h->lingering || (!h->client_side && !h->head_in))
        return true;
    if (h->incoming.whole)
        return !h->in || h->in_end < h->in->size;
    return h->wanting;
}

/* One read. True if it filled its block, so that there may be more. */
bool mg_h1_read_once(struct mg_h1 *h)
{
    size_t n = 0;

    if (!make_room(h)) {
        mg_h1_end(h, MG_WHY_CUT, true);
        return false;
    }
    size_t room = h->in->size - h->in_end;
    switch (h->transport->ops->read(h->transport, h->in->data + h->in_end, room, &n)) {
    case MG_IO_DONE:
        h->in_end += (uint32_t)n;
        h->in->used = h->in_end;
        h->large |= n == room;
        mg_h1_read_on(h);
        return n == room && !h->carrier.doomed;
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

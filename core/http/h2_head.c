/* h2_head.c - decoded fields to messages, and messages to fields (RFC 9113 section 8).
 *
 * A head's bytes are collected in one block, fields in front and text behind,
 * so that the message is kept by one copy as an HTTP/1.1 head is. nghttp2 has
 * checked names, values, and what pseudo fields there are; what HTTP/1.1 would
 * read another way is refused here. */
#include "h2_connection.h"

#include <string.h>

#include "websocket_key.h"

enum {
    METHOD_ROOM = 64, /* in front of the text: the method stands before all else, whenever it came */
    SPARE_FIELDS = 8, /* of our own making */
    FIELD_COST = 4,   /* what HTTP/1.1 would spend around a field: ": " and the line's end */
    BOMB_FACTOR = 16, /* a head that is so much longer than max_head_size ends the connection */
};

static unsigned fields_room(const struct mg_h2 *h)
{
    unsigned most = h->settings->limits->max_fields;

    return (most && most < MG_FIELDS_MAX ? most : MG_FIELDS_MAX) + SPARE_FIELDS;
}

void mg_h2_head_end(struct mg_h2 *h)
{
    if (h->head)
        mg_block_give(h->head);
    h->head = NULL;
    h->heading = false;
}

void mg_h2_head_begin(struct mg_h2 *h)
{
    mg_h2_head_end(h);
    h->heading = true;
    h->head_size = 0;
    h->message = (struct mg_message){ .version = 20 };
}

static mg_slice rebased(mg_slice s, const char *from, const char *to)
{
    return s.ptr ? (mg_slice){ to + (s.ptr - from), s.len } : s;
}

/* Room for n more bytes of text: in a larger block if need be. */
static bool make_room(struct mg_h2 *h, size_t n)
{
    struct mg_message *m = &h->message;
    size_t fields = fields_room(h) * sizeof(struct mg_field), first = fields + METHOD_ROOM;

    if (h->head && h->head_at + n <= h->head->size)
        return true;
    struct mg_block *b = mg_block_take(h->head ? 2 * (h->head_at + n) : first + n);
    if (!b)
        return false;
    if (h->head) {
        const char *from = h->head->data;
        memcpy(b->data, from, h->head_at);
        m->method = rebased(m->method, from, b->data);
        m->target = rebased(m->target, from, b->data);
        for (unsigned i = 0; i < m->count; i++) {
            struct mg_field *f = &((struct mg_field *)(void *)b->data)[i];
            f->name = rebased(f->name, from, b->data);
            f->value = rebased(f->value, from, b->data);
        }
        mg_block_give(h->head);
    } else {
        h->head_at = (uint32_t)first;
    }
    h->head = b;
    m->fields = (struct mg_field *)(void *)b->data;
    m->room = (uint16_t)fields_room(h);
    return true;
}

/* There is room. */
static mg_slice put(struct mg_h2 *h, mg_slice s)
{
    char *to = h->head->data + h->head_at;

    if (s.len)
        memcpy(to, s.ptr, s.len);
    h->head_at += s.len;
    return (mg_slice){ to, s.len };
}

static bool push(struct mg_h2 *h, mg_slice name, mg_slice value, enum mg_field_id id)
{
    if (!make_room(h, (size_t)name.len + value.len))
        return false;
    mg_slice kept = put(h, name);
    return mg_message_push(&h->message, kept, put(h, value), id) == MG_OK;
}

static void refuse(struct mg_h2_stream *s, unsigned status, const char *why)
{
    if (s->refused)
        return;
    s->refused = (uint16_t)status;
    s->refusal = why;
}

static bool put_method(struct mg_h2 *h, struct mg_h2_stream *s, mg_slice method)
{
    if (method.len > METHOD_ROOM || !mg_text_is_token(method)) {
        refuse(s, method.len > METHOD_ROOM ? 501 : 400, "no such method");
        return true;
    }
    if (!make_room(h, 0))
        return false;
    char *to = h->head->data + fields_room(h) * sizeof(struct mg_field) + METHOD_ROOM - method.len;
    memcpy(to, method.ptr, method.len);
    h->message.method = (mg_slice){ to, method.len };
    return true;
}

static bool put_target(struct mg_h2 *h, struct mg_h2_stream *s, mg_slice target)
{
    if (h->settings->limits->max_target_size && target.len > h->settings->limits->max_target_size) {
        refuse(s, 414, "the target is longer than max_target_size");
        return true;
    }
    if (!make_room(h, target.len))
        return false;
    h->message.target = put(h, target);
    return true;
}

static bool put_pseudo(struct mg_h2 *h, struct mg_h2_stream *s, mg_slice name, mg_slice value)
{
    uint64_t status;

    if (mg_text_equal(name, MG_LIT(":method")))
        return put_method(h, s, value);
    if (mg_text_equal(name, MG_LIT(":path")))
        return put_target(h, s, value);
    if (mg_text_equal(name, MG_LIT(":authority")))
        return push(h, MG_LIT("host"), value, MG_FIELD_HOST);
    if (mg_text_equal(name, MG_LIT(":protocol"))) {
        s->websocket = mg_text_equal(value, MG_LIT("websocket"));
        if (!s->websocket)
            refuse(s, 501, "a protocol other than websocket in an extended CONNECT");
    } else if (mg_text_equal(name, MG_LIT(":scheme"))) {
        if (!mg_text_same(value, MG_LIT("http")) && !mg_text_same(value, MG_LIT("https")))
            refuse(s, 400, "a scheme other than http and https");
    } else if (mg_text_equal(name, MG_LIT(":status"))) {
        h->message.status = mg_text_number(value, &status) && status < 1000 ? (uint16_t)status : 0;
    }
    return true;
}

bool mg_h2_head_field(struct mg_h2 *h, struct mg_h2_stream *s, mg_slice name, mg_slice value)
{
    const struct mg_limits *limits = h->settings->limits;
    uint32_t most = s->head_in ? limits->max_trailer_size : limits->max_head_size;
    size_t size = (size_t)h->head_size + name.len + value.len + FIELD_COST;

    h->head_size = size < UINT32_MAX / 2 ? (uint32_t)size : UINT32_MAX / 2;
    if (h->head_size > most) {
        refuse(s, 431,
               s->head_in ? "the trailers are longer than max_trailer_size" : "the head is longer than max_head_size");
        if (h->head_size / BOMB_FACTOR > most)
            h->calm = "a head that is many times longer than max_head_size";
    }
    if (s->refused)
        return true;
    if (name.len && name.ptr[0] == ':')
        return put_pseudo(h, s, name, value);
    if (limits->max_fields && h->message.count >= limits->max_fields) {
        refuse(s, 431, "more fields than max_fields");
        return true;
    }
    return push(h, name, value, mg_field_id(name));
}

static bool is_cookie(const struct mg_field *f)
{
    return f->id == MG_FIELD_OTHER && mg_text_equal(f->name, MG_LIT("cookie"));
}

/* RFC 9113 8.2.3: crumbs become one field again, which is the last. */
static void join_cookies(struct mg_h2 *h, struct mg_h2_stream *s)
{
    struct mg_message *m = &h->message;
    unsigned kept = 0, crumbs = 0;
    size_t len = 0;

    for (unsigned i = 0; i < m->count; i++) {
        if (is_cookie(&m->fields[i])) {
            crumbs++;
            len += m->fields[i].value.len + 2;
        }
    }
    if (crumbs < 2)
        return;
    if (!make_room(h, len + sizeof("cookie"))) {
        refuse(s, 503, "out of memory");
        return;
    }
    mg_slice name = put(h, MG_LIT("cookie")), joined = { h->head->data + h->head_at, (uint32_t)len - 2 };
    for (unsigned i = 0; i < m->count; i++) {
        if (!is_cookie(&m->fields[i])) {
            m->fields[kept++] = m->fields[i];
            continue;
        }
        put(h, m->fields[i].value);
        if (--crumbs)
            put(h, MG_LIT("; "));
    }
    m->fields[kept++] = (struct mg_field){ name, joined, MG_FIELD_OTHER };
    m->count = (uint16_t)kept;
}

/* RFC 9113 8.3.1: Host beside :authority says the same, or the request has two readings. One of them is left. */
static void check_host(struct mg_h2 *h, struct mg_h2_stream *s)
{
    struct mg_message *m = &h->message;
    struct mg_field *first = mg_message_known(m, MG_FIELD_HOST);
    unsigned kept = 0;

    if (!first) {
        refuse(s, 400, "neither :authority nor Host");
        return;
    }
    mg_slice host = first->value;
    bool found = false;
    for (unsigned i = 0; i < m->count; i++) {
        struct mg_field *f = &m->fields[i];
        if (f->id == MG_FIELD_HOST) {
            if (!mg_text_same(f->value, host))
                refuse(s, 400, "Host differs from :authority");
            if (found)
                continue;
            found = true;
        }
        m->fields[kept++] = *f;
    }
    m->count = (uint16_t)kept;
}

static const mg_slice key_name = MG_LIT("sec-websocket-key"), accept_name = MG_LIT("sec-websocket-accept");

/* RFC 8441: what an HTTP/1.1 client would have sent. The key is ours: HTTP/2 has none. */
static void make_upgrade(struct mg_h2 *h, struct mg_h2_stream *s)
{
    char key[MG_WEBSOCKET_KEY + 1];

    if (!mg_websocket_key(key)) {
        refuse(s, 503, "no random bytes for a WebSocket's key");
        return;
    }
    if (!put_method(h, s, MG_LIT("GET")) || !push(h, MG_LIT("connection"), MG_LIT("Upgrade"), MG_FIELD_CONNECTION) ||
        !push(h, MG_LIT("upgrade"), MG_LIT("websocket"), MG_FIELD_UPGRADE) ||
        !push(h, key_name, (mg_slice){ key, MG_WEBSOCKET_KEY }, MG_FIELD_OTHER))
        refuse(s, 503, "out of memory");
}

bool mg_h2_head_agreed(struct mg_h2 *h, const struct mg_h2_stream *s)
{
    h->message.status = 101;
    mg_message_remove(&h->message, accept_name);
    return push(h, MG_LIT("upgrade"), MG_LIT("websocket"), MG_FIELD_UPGRADE) &&
           push(h, accept_name, (mg_slice){ s->accept, MG_WEBSOCKET_ACCEPT }, MG_FIELD_OTHER);
}

/* mg_message_keep() takes the last field's end for the head's: the target may not lie behind it. */
static void put_last(struct mg_h2 *h, struct mg_h2_stream *s)
{
    struct mg_message *m = &h->message;
    struct mg_field *last = &m->fields[m->count - 1];

    if (last->value.ptr > m->target.ptr)
        return;
    if (make_room(h, last->value.len)) {
        last = &m->fields[m->count - 1];
        last->value = put(h, last->value);
    } else {
        refuse(s, 503, "out of memory");
    }
}

void mg_h2_head_request(struct mg_h2 *h, struct mg_h2_stream *s)
{
    struct mg_message *m = &h->message;

    if (!s->refused)
        check_host(h, s);
    if (!s->refused && s->websocket)
        make_upgrade(h, s);
    if (!s->refused) {
        join_cookies(h, s);
        s->connect = mg_method_is(m->method, "CONNECT");
        s->head_method = mg_method_is(m->method, "HEAD");
        if (s->connect)
            m->target = mg_message_known(m, MG_FIELD_HOST)->value;
        s->tunnels = s->connect || s->websocket;
        put_last(h, s);
    }
    if (s->refused)
        *m = (struct mg_message){ .version = 20, .status = s->refused, .reason = mg_slice_of(s->refusal) };
}

void mg_h2_head_trailers(struct mg_h2 *h)
{
    mg_trailer_strip(&h->message);
}

/* ---- Ours. ---- */

static nghttp2_nv fields[MG_FIELDS_MAX + SPARE_FIELDS];

static size_t add(size_t n, mg_slice name, mg_slice value)
{
    fields[n] = (nghttp2_nv){
        .name = (uint8_t *)(uintptr_t)name.ptr,
        .namelen = name.len,
        .value = (uint8_t *)(uintptr_t)value.ptr,
        .valuelen = value.len,
    };
    return n + 1;
}

/* RFC 9113 8.2.2: none of these in HTTP/2. */
static const uint64_t hop_fields = UINT64_C(1) << MG_FIELD_CONNECTION | UINT64_C(1) << MG_FIELD_KEEP_ALIVE |
                                   UINT64_C(1) << MG_FIELD_PROXY_CONNECTION | UINT64_C(1) << MG_FIELD_TE |
                                   UINT64_C(1) << MG_FIELD_TRANSFER_ENCODING | UINT64_C(1) << MG_FIELD_UPGRADE |
                                   UINT64_C(1) << MG_FIELD_HTTP2_SETTINGS;

static size_t add_fields(size_t n, const struct mg_message *m, uint64_t but)
{
    for (unsigned i = 0; i < m->count; i++)
        if (!(but >> m->fields[i].id & 1))
            n = add(n, m->fields[i].name, m->fields[i].value);
    return n;
}

size_t mg_h2_head_of_response(const struct mg_message *m, unsigned status, nghttp2_nv **out)
{
    static char digits[3];

    for (int i = 2; i >= 0; i--, status /= 10)
        digits[i] = (char)('0' + status % 10);
    *out = fields;
    return add_fields(add(0, MG_LIT(":status"), (mg_slice){ digits, 3 }), m, hop_fields);
}

/* RFC 8441 5: :protocol stands for the key. */
static size_t drop_key(size_t n)
{
    size_t kept = 0;

    for (size_t i = 0; i < n; i++)
        if (!mg_text_same((mg_slice){ (const char *)fields[i].name, (uint32_t)fields[i].namelen }, key_name))
            fields[kept++] = fields[i];
    return kept;
}

size_t mg_h2_head_of_request(const struct mg_message *m, bool tls, bool websocket, nghttp2_nv **out)
{
    const struct mg_field *host = mg_message_known(m, MG_FIELD_HOST);
    bool connect = mg_method_is(m->method, "CONNECT");
    size_t n = add(0, MG_LIT(":method"), websocket ? MG_LIT("CONNECT") : m->method);

    if (websocket)
        n = add(n, MG_LIT(":protocol"), MG_LIT("websocket"));
    if (!connect) {
        n = add(n, MG_LIT(":scheme"), tls ? MG_LIT("https") : MG_LIT("http"));
        n = add(n, MG_LIT(":path"), m->target);
    }
    if (connect)
        n = add(n, MG_LIT(":authority"), m->target);
    else if (host)
        n = add(n, MG_LIT(":authority"), host->value);
    n = add_fields(n, m, hop_fields | UINT64_C(1) << MG_FIELD_HOST);
    if (websocket)
        n = drop_key(n);
    *out = fields;
    return add(n, MG_LIT("te"), MG_LIT("trailers")); /* they are passed on, and gRPC's servers ask for the word */
}

size_t mg_h2_head_of_trailers(const struct mg_message *m, nghttp2_nv **out)
{
    *out = fields;
    return add_fields(0, m, hop_fields);
}

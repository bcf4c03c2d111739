/* hello.c - reads a ClientHello: of all that stands in it, who is asked for.
 *
 * It may be cut into several records (RFC 8446 5.1). Every length is checked
 * against the one around it; a byte too many or too few is malformed. */
#include "hello.h"

#include <stdint.h>
#include <string.h>

#include "text.h"

enum {
    RECORD_HEAD = 5,
    RECORD_MOST = 1 << 14,
    HANDSHAKE = 22, /* kinds of records */
    CLIENT_HELLO = 1,
    MESSAGE_HEAD = 4,
    NAME_MOST = 255,
};
enum { SERVER_NAME = 0, ALPN = 16, SUPPORTED_VERSIONS = 43 }; /* extensions */

/* A run of bytes that is taken off from the front; `bad` once more was asked for than there is. */
struct reader {
    const unsigned char *at, *end;
    bool bad;
};

static char joined[MG_HELLO_MOST]; /* a message out of several records */
static char name[NAME_MOST];

static size_t left(const struct reader *r)
{
    return (size_t)(r->end - r->at);
}

static unsigned number(struct reader *r, unsigned bytes)
{
    unsigned n = 0;

    if (left(r) < bytes) {
        r->bad = true;
        r->at = r->end;
        return 0;
    }
    while (bytes--)
        n = n << 8 | *r->at++;
    return n;
}

static struct reader part(struct reader *r, size_t len)
{
    if (left(r) < len) {
        r->bad = true;
        len = 0;
        r->at = r->end;
    }
    struct reader inner = { r->at, r->at + len, r->bad };
    r->at += len;
    return inner;
}

/* What a number of so many bytes in front says the length of. */
static struct reader vector(struct reader *r, unsigned bytes)
{
    return part(r, number(r, bytes));
}

/* ---- Records. ---- */

static enum mg_hello_state malformed(const char **why, const char *text)
{
    *why = text;
    return MG_HELLO_MALFORMED;
}

/* The message is whole when its own length says so; the record that it ends in ends with it. */
static enum mg_hello_state is_whole(const char *message, size_t len, const char **why)
{
    const unsigned char *at = (const unsigned char *)message;

    if (len >= 1 && at[0] != CLIENT_HELLO)
        return malformed(why, "the first message of the TLS handshake is no ClientHello");
    if (len < MESSAGE_HEAD)
        return MG_HELLO_PARTIAL;
    size_t size = MESSAGE_HEAD + ((size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3]);
    if (size > MG_HELLO_MOST)
        return malformed(why, "the ClientHello is longer than 16 KiB");
    if (len > size)
        return malformed(why, "something follows the ClientHello in its record");
    return len == size ? MG_HELLO_WHOLE : MG_HELLO_PARTIAL;
}

/* Joins the records' contents. One record, as nearly all clients send, is left where it is. */
static enum mg_hello_state gather(const char *data, size_t len, mg_slice *message, const char **why)
{
    size_t at = 0, filled = 0;

    if (len && data[0] != HANDSHAKE)
        return MG_HELLO_NONE;
    while (len - at >= RECORD_HEAD) {
        const unsigned char *head = (const unsigned char *)data + at;
        const char *content = data + at + RECORD_HEAD;
        size_t size = (size_t)head[3] << 8 | head[4], there = len - at - RECORD_HEAD;
        bool cut = there < size;
        if (head[0] != HANDSHAKE || head[1] != 3 || size == 0 || size > RECORD_MOST)
            return malformed(why, "a record of the ClientHello is malformed");
        if (filled + size > MG_HELLO_MOST)
            return malformed(why, "the ClientHello is longer than 16 KiB");
        if (cut)
            size = there;
        if (at) {
            memcpy(joined + filled, content, size);
            content = joined;
        }
        filled += size;
        enum mg_hello_state state = is_whole(content, filled, why);
        if (cut && state == MG_HELLO_WHOLE)
            return MG_HELLO_PARTIAL; /* something follows it */
        *message = (mg_slice){ content, (uint32_t)filled };
        if (cut || state != MG_HELLO_PARTIAL)
            return state;
        if (!at)
            memcpy(joined, content, size);
        at += RECORD_HEAD + size;
    }
    return MG_HELLO_PARTIAL;
}

/* ---- Extensions. ---- */

/* RFC 6066 3: one name, of a host. */
static bool read_server_name(struct reader e, mg_slice *sni)
{
    struct reader list = vector(&e, 2);
    unsigned kind = number(&list, 1);
    struct reader host = vector(&list, 2);
    size_t len = left(&host);

    if (list.bad || e.bad || left(&e) || left(&list) || kind != 0 || len == 0 || len > NAME_MOST)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = mg_text_lower((char)host.at[i]);
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '.' && c != '_')
            return false;
        name[i] = c;
    }
    *sni = (mg_slice){ name, (uint32_t)len };
    return true;
}

static bool read_alpn(struct reader e, mg_slice *alpn)
{
    struct reader list = vector(&e, 2);

    *alpn = (mg_slice){ (const char *)list.at, (uint32_t)left(&list) };
    if (e.bad || left(&e) || !alpn->len)
        return false;
    while (left(&list)) {
        struct reader protocol = vector(&list, 1);
        if (list.bad || !left(&protocol))
            return false;
    }
    return true;
}

static bool read_versions(struct reader e, struct mg_hello *h)
{
    struct reader list = vector(&e, 1);

    if (e.bad || left(&e) || !left(&list) || left(&list) % 2)
        return false;
    h->tls12 = h->tls13 = false;
    while (left(&list)) {
        unsigned version = number(&list, 2);
        h->tls12 |= version == 0x0303;
        h->tls13 |= version == 0x0304;
    }
    return true;
}

static const char *read_extensions(struct reader all, struct mg_hello *h)
{
    uint64_t seen = 0;

    while (left(&all)) {
        unsigned kind = number(&all, 2);
        struct reader e = vector(&all, 2);
        if (all.bad)
            return "an extension of the ClientHello is longer than there is room";
        if (kind < 64 && seen >> kind & 1)
            return "an extension of the ClientHello comes twice";
        if (kind < 64)
            seen |= UINT64_C(1) << kind;
        if (kind == SERVER_NAME && !read_server_name(e, &h->sni))
            return "the ClientHello's server name is malformed";
        if (kind == ALPN && !read_alpn(e, &h->alpn))
            return "the ClientHello's list of protocols is malformed";
        if (kind == SUPPORTED_VERSIONS && !read_versions(e, h))
            return "the ClientHello's list of versions is malformed";
    }
    return NULL;
}

/* ---- The message (RFC 8446 4.1.2, RFC 5246 7.4.1.2). ---- */

static const char *read_message(mg_slice message, struct mg_hello *h)
{
    const unsigned char *start = (const unsigned char *)message.ptr;
    struct reader r = { start + MESSAGE_HEAD, start + message.len, false };
    unsigned version = number(&r, 2);

    part(&r, 32); /* random */
    struct reader session = vector(&r, 1), ciphers = vector(&r, 2), compression = vector(&r, 1);
    if (r.bad || version >> 8 != 3 || left(&session) > 32 || !left(&ciphers) || left(&ciphers) % 2 ||
        !left(&compression))
        return "the ClientHello is malformed";
    h->tls12 = version >= 0x0303;
    if (!left(&r))
        return NULL;
    struct reader extensions = vector(&r, 2);
    if (r.bad || left(&r))
        return "the ClientHello's extensions do not end with it";
    return read_extensions(extensions, h);
}

enum mg_hello_state mg_hello_read(const char *data, size_t len, struct mg_hello *h, const char **why)
{
    mg_slice message = { "", 0 };

    *h = (struct mg_hello){ 0 };
    enum mg_hello_state state = gather(data, len, &message, why);
    if (state == MG_HELLO_PARTIAL && len >= MG_HELLO_MOST)
        return malformed(why, "the ClientHello is longer than 16 KiB");
    if (state != MG_HELLO_WHOLE)
        return state;
    *why = read_message(message, h);
    return *why ? MG_HELLO_MALFORMED : MG_HELLO_WHOLE;
}

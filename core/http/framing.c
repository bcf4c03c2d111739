/* framing.c - body lengths and chunks (RFC 9112 sections 6 and 7), without leniency.
 *
 * The chunk reader keeps one byte of state between the pieces it is given, so
 * the bytes may be cut anywhere; what it gives out points into them. */
#include "framing.h"

#include "head.h"

enum chunk_state {
    CHUNK_SIZE_FIRST, /* the first digit of a size */
    CHUNK_SIZE,
    CHUNK_SIZE_BLANK, /* blanks after the size: an extension must follow */
    CHUNK_NAME_FIRST, /* after ";" */
    CHUNK_NAME,
    CHUNK_NAME_BLANK,
    CHUNK_VALUE_FIRST, /* after "=" */
    CHUNK_VALUE,
    CHUNK_VALUE_BLANK,
    CHUNK_QUOTED,
    CHUNK_QUOTED_PAIR,
    CHUNK_QUOTED_END,
    CHUNK_LINE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_LAST, /* after the last chunk's line: CR, or a trailer's first byte */
    CHUNK_LAST_LF,
    CHUNK_END,
    CHUNK_BROKEN,
};

/* Also what fits into the signed 64 bits that many origins count with. */
#define LENGTH_MAX ((uint64_t)INT64_MAX)

/* A slice's length is 32 bits. */
enum { PIECE_MAX = 1 << 30 };

/* ---- What the head says. ---- */

static int say(const char **why, const char *text, int status)
{
    *why = text;
    return status;
}

static void set_kind(struct mg_framing *f, enum mg_body_kind kind, uint64_t length)
{
    *f = (struct mg_framing){ .kind = kind, .left = length };
    f->whole = kind == MG_BODY_NONE || (kind == MG_BODY_LENGTH && length == 0);
}

/* RFC 9112 6.1 and 6.3: exactly "chunked", or why not. */
static int check_codings(const struct mg_message *m, const char **why)
{
    unsigned lines = 0, chunked = 0, others = 0;
    bool last_is_chunked = false, exact = false;

    for (const struct mg_field *f = m->fields, *end = f + m->count; f < end; f++) {
        mg_slice rest = f->value, coding;

        if (f->id != MG_FIELD_TRANSFER_ENCODING)
            continue;
        lines++;
        exact = mg_text_same(rest, MG_LIT("chunked"));
        while (mg_text_next_item(&rest, &coding)) {
            last_is_chunked = mg_text_same(coding, MG_LIT("chunked"));
            chunked += last_is_chunked;
            others += !last_is_chunked;
        }
    }
    if (lines == 1 && exact)
        return 0;
    if (!last_is_chunked)
        return say(why, "a transfer coding that does not end with chunked", 400);
    if (chunked > 1)
        return say(why, "chunked twice", 400);
    if (others)
        return say(why, "a transfer coding that is not understood", 501);
    return say(why, "a malformed Transfer-Encoding", 400);
}

/* One Content-Length of digits; two of them are a doubt even if they agree. */
static bool read_length(const struct mg_message *m, uint64_t *length)
{
    const struct mg_field *first = mg_message_known(m, MG_FIELD_CONTENT_LENGTH);

    for (const struct mg_field *f = first + 1, *end = m->fields + m->count; f < end; f++)
        if (f->id == MG_FIELD_CONTENT_LENGTH)
            return false;
    return mg_text_number(first->value, length) && *length <= LENGTH_MAX;
}

/* The part that requests and responses share; without any framing field the kind is `otherwise`. */
static int framing_of(const struct mg_message *m, enum mg_body_kind otherwise, struct mg_framing *f, const char **why)
{
    uint64_t length = 0;

    if (mg_message_has(m, MG_FIELD_TRANSFER_ENCODING)) {
        if (m->version < 11)
            return say(why, "Transfer-Encoding in HTTP/1.0", 400);
        if (mg_message_has(m, MG_FIELD_CONTENT_LENGTH))
            return say(why, "Transfer-Encoding with Content-Length", 400);
        int status = check_codings(m, why);
        if (status == 0)
            set_kind(f, MG_BODY_CHUNKED, 0);
        return status;
    }
    if (mg_message_has(m, MG_FIELD_CONTENT_LENGTH)) {
        if (!read_length(m, &length))
            return say(why, "a Content-Length that is not one number", 400);
        set_kind(f, MG_BODY_LENGTH, length);
        return 0;
    }
    set_kind(f, otherwise, 0);
    return 0;
}

int mg_framing_of_request(const struct mg_message *m, struct mg_framing *f, const char **why)
{
    return framing_of(m, MG_BODY_NONE, f, why);
}

int mg_framing_of_response(const struct mg_message *m, mg_slice method, struct mg_framing *f, const char **why)
{
    /* RFC 9110 9.3.6: framing fields in it mean nothing. */
    if (m->status / 100 == 2 && mg_method_is(method, "CONNECT")) {
        set_kind(f, MG_BODY_UNTIL_CLOSE, 0);
        return 0;
    }
    if (framing_of(m, MG_BODY_UNTIL_CLOSE, f, why) != 0)
        return 502;

    /* RFC 9112 6.1 and RFC 9110 8.6 forbid both fields here. A length of 0 is a common slip and harmless. */
    bool interim = m->status / 100 == 1;
    if ((interim || m->status == 204) && (f->kind == MG_BODY_CHUNKED || (f->kind == MG_BODY_LENGTH && f->left)))
        return say(why, "a body where none may be", 502);
    if (m->status == 101)
        set_kind(f, MG_BODY_UNTIL_CLOSE, 0);
    else if (interim || m->status == 204 || m->status == 304 || mg_method_is(method, "HEAD"))
        set_kind(f, MG_BODY_NONE, 0);
    return 0;
}

/* ---- Chunks. ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_tchar(char c)
{
    return mg_text_is_token((mg_slice){ &c, 1 });
}

/* Inside a quoted string, both as it stands and after a backslash (RFC 9110 5.6.4). */
static bool is_text(char c)
{
    return (uint8_t)c >= 0x20 ? c != 0x7f : c == '\t';
}

static bool is_extension(uint8_t state)
{
    return state >= CHUNK_SIZE_BLANK && state <= CHUNK_QUOTED_END;
}

/* One byte after the size: chunk-ext = *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ), RFC 9112 7.1.1.
 * Where "next" may come, so may the line's end, but not after a blank. */
static uint8_t next_in_extension(uint8_t state, char c)
{
    bool blank = is_blank(c);

    switch ((enum chunk_state)state) {
    case CHUNK_SIZE_BLANK:
    case CHUNK_VALUE_BLANK:
        return blank ? state : c == ';' ? CHUNK_NAME_FIRST : CHUNK_BROKEN;
    case CHUNK_NAME_FIRST:
        return blank ? CHUNK_NAME_FIRST : is_tchar(c) ? CHUNK_NAME : CHUNK_BROKEN;
    case CHUNK_NAME:
        if (is_tchar(c))
            return CHUNK_NAME;
        if (c == '\r')
            return CHUNK_LINE_LF;
        /* fall through */
    case CHUNK_NAME_BLANK:
        return blank ? CHUNK_NAME_BLANK : c == '=' ? CHUNK_VALUE_FIRST : c == ';' ? CHUNK_NAME_FIRST : CHUNK_BROKEN;
    case CHUNK_VALUE_FIRST:
        return blank ? CHUNK_VALUE_FIRST : c == '"' ? CHUNK_QUOTED : is_tchar(c) ? CHUNK_VALUE : CHUNK_BROKEN;
    case CHUNK_VALUE:
        if (is_tchar(c))
            return CHUNK_VALUE;
        /* fall through */
    case CHUNK_QUOTED_END:
        return blank ? CHUNK_VALUE_BLANK : c == ';' ? CHUNK_NAME_FIRST : c == '\r' ? CHUNK_LINE_LF : CHUNK_BROKEN;
    case CHUNK_QUOTED:
        return c == '"' ? CHUNK_QUOTED_END : c == '\\' ? CHUNK_QUOTED_PAIR : is_text(c) ? CHUNK_QUOTED : CHUNK_BROKEN;
    case CHUNK_QUOTED_PAIR:
        return is_text(c) ? CHUNK_QUOTED : CHUNK_BROKEN;
    case CHUNK_SIZE_FIRST:
    case CHUNK_SIZE:
    case CHUNK_LINE_LF:
    case CHUNK_DATA:
    case CHUNK_DATA_CR:
    case CHUNK_DATA_LF:
    case CHUNK_LAST:
    case CHUNK_LAST_LF:
    case CHUNK_END:
    case CHUNK_BROKEN:
        break;
    }
    return CHUNK_BROKEN;
}

/* One byte of a size. 16 digits at most, and no length that is out of range. */
static uint8_t next_in_size(struct mg_framing *f, char c)
{
    int digit = mg_text_hex(c);

    if (digit >= 0) {
        if (f->line > 16 || f->left > LENGTH_MAX >> 4)
            return CHUNK_BROKEN;
        f->left = f->left << 4 | (unsigned)digit;
        return CHUNK_SIZE;
    }
    if (f->state == CHUNK_SIZE_FIRST)
        return CHUNK_BROKEN;
    return c == '\r' ? CHUNK_LINE_LF : c == ';' ? CHUNK_NAME_FIRST : is_blank(c) ? CHUNK_SIZE_BLANK : CHUNK_BROKEN;
}

/* One byte that is not chunk data; the state after it. */
static uint8_t next_state(struct mg_framing *f, char c)
{
    switch (f->state) {
    case CHUNK_SIZE_FIRST:
    case CHUNK_SIZE:
        return next_in_size(f, c);
    case CHUNK_LINE_LF:
        f->line = 0;
        return c != '\n' ? CHUNK_BROKEN : f->left ? CHUNK_DATA : CHUNK_LAST;
    case CHUNK_DATA_CR:
        return c == '\r' ? CHUNK_DATA_LF : CHUNK_BROKEN;
    case CHUNK_DATA_LF:
        return c == '\n' ? CHUNK_SIZE_FIRST : CHUNK_BROKEN;
    case CHUNK_LAST_LF:
        f->whole = c == '\n';
        return c == '\n' ? CHUNK_END : CHUNK_BROKEN;
    default:
        return next_in_extension(f->state, c);
    }
}

static const char *over_limit(struct mg_framing *f, const struct mg_framing_limits *limits)
{
    if (f->state <= CHUNK_QUOTED_END && ++f->line > limits->max_chunk_line)
        return "a chunk's line that is too long";
    if (is_extension(f->state) && ++f->extensions > limits->max_chunk_extensions)
        return "too many bytes of chunk extensions";
    return NULL;
}

static enum mg_status break_off(struct mg_framing *f, const char **why, const char *text)
{
    f->state = CHUNK_BROKEN;
    *why = text;
    return MG_MALFORMED;
}

/* Goes on over lines until there is a piece, and after it until the next one begins: so the end that came together with
 * the last piece is seen at once. */
static enum mg_status take_chunked(struct mg_framing *f, const struct mg_framing_limits *limits, const char *data,
                                   size_t len, size_t *used, mg_slice *piece, const char **why)
{
    const char *at = data, *end = data + len;

    while (at < end && !f->whole && f->state != MG_FRAMING_TRAILER) {
        if (f->state == CHUNK_DATA) {
            if (piece->len)
                break;
            uint64_t n = (uint64_t)(end - at) < f->left ? (uint64_t)(end - at) : f->left;
            if (n > PIECE_MAX)
                n = PIECE_MAX;
            *piece = (mg_slice){ at, (uint32_t)n };
            at += n;
            f->left -= n;
            if (f->left == 0)
                f->state = CHUNK_DATA_CR;
            continue;
        }
        if (f->state == CHUNK_LAST) {
            f->state = *at == '\r' ? CHUNK_LAST_LF : MG_FRAMING_TRAILER;
            at += *at == '\r';
            continue;
        }
        const char *problem = over_limit(f, limits);
        if (problem)
            return break_off(f, why, problem);
        f->state = next_state(f, *at++);
        if (f->state == CHUNK_BROKEN)
            return break_off(f, why, "malformed chunks");
    }
    *used = (size_t)(at - data);
    return MG_OK;
}

enum mg_status mg_framing_take(struct mg_framing *f, const struct mg_framing_limits *limits, const char *data,
                               size_t len, size_t *used, mg_slice *piece, const char **why)
{
    size_t n = len < PIECE_MAX ? len : PIECE_MAX;

    *used = 0;
    *piece = (mg_slice){ data, 0 };
    switch (f->kind) {
    case MG_BODY_NONE:
        return MG_OK;
    case MG_BODY_LENGTH:
        if (n > f->left)
            n = (size_t)f->left;
        f->left -= n;
        f->whole = f->left == 0;
        break;
    case MG_BODY_UNTIL_CLOSE:
        break;
    case MG_BODY_CHUNKED:
        return take_chunked(f, limits, data, len, used, piece, why);
    }
    piece->len = (uint32_t)n;
    *used = n;
    return MG_OK;
}

/* ---- Trailers. ---- */

/* RFC 9110 6.5.1: what frames, routes, authenticates, modifies the request, controls caches or says how to read the
 * content has no business after it. */
static bool may_trail(const struct mg_field *f)
{
    static const mg_slice refused[] = {
        MG_LIT("Age"),
        MG_LIT("Authentication-Info"),
        MG_LIT("Authorization"),
        MG_LIT("Cache-Control"),
        MG_LIT("Content-Range"),
        MG_LIT("Cookie"),
        MG_LIT("Expires"),
        MG_LIT("If-Match"),
        MG_LIT("If-Modified-Since"),
        MG_LIT("If-None-Match"),
        MG_LIT("If-Range"),
        MG_LIT("If-Unmodified-Since"),
        MG_LIT("Location"),
        MG_LIT("Pragma"),
        MG_LIT("Proxy-Authenticate"),
        MG_LIT("Proxy-Authentication-Info"),
        MG_LIT("Proxy-Authorization"),
        MG_LIT("Range"),
        MG_LIT("Retry-After"),
        MG_LIT("Set-Cookie"),
        MG_LIT("Vary"),
        MG_LIT("WWW-Authenticate"),
    };

    if (f->id != MG_FIELD_OTHER)
        return f->id == MG_FIELD_ETAG;
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++)
        if (mg_text_same(f->name, refused[i]))
            return false;
    return true;
}

void mg_trailer_strip(struct mg_message *m)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < m->count; i++)
        if (may_trail(&m->fields[i]))
            m->fields[kept++] = m->fields[i];
    m->count = (uint16_t)kept;
    m->present &= ~UINT64_C(0xffffffff) | UINT64_C(1) << MG_FIELD_ETAG;
}

int mg_trailer_read(struct mg_framing *f, const struct mg_framing_limits *limits, const char *data, size_t len,
                    struct mg_message *m, const char **why)
{
    const struct mg_head_limits bounds = { .max_head_size = limits->max_trailer_size, .max_fields = MG_FIELDS_MAX };
    int n = mg_head_fields(data, len, &bounds, m, why);

    if (n < 0)
        return break_off(f, why, *why);
    if (n == 0)
        return 0;

    mg_trailer_strip(m);
    f->state = CHUNK_END;
    f->whole = true;
    return n;
}

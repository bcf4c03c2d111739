/* head.c - start lines and fields, read and written to the letter.
 *
 * Our own reader decides what a line is, since http-parser lets through what
 * RFC 9112 does not. Where a mistake would be the worst, http-parser reads the
 * fields too: when they name a transfer coding, or a length that is repeated or
 * is not plainly digits. If the two readers do not agree, the head could be
 * read two ways, and is refused. */
#include "head.h"

#include <http_parser.h>

#include "uri.h"

enum { METHOD_MAX = 64, BLANK_LINES_MAX = 2 };

struct reading {
    struct mg_message *m;
    const char *end; /* of the bytes there are */
    const char *why;
    uint32_t max_fields;
    int answer;    /* below 0 once the head is refused */
    bool doubtful; /* its framing is for two readers */
};

/* The array behind every message that was just parsed. */
static struct mg_field fields[MG_FIELDS_MAX];

/* http-parser just after a start line: what each reading by it begins from. */
static struct http_parser after_start_line;
static const http_parser_settings no_callbacks;
static bool prepared;

enum { TCHAR = 1, TARGET = 2, TEXT = 4 };

/* What a byte may be part of: a token (RFC 9110 5.6.2), a request target as far as the head cares (0x21..0x7e), a field
 * value or reason (RFC 9110 5.5: HTAB, SP, VCHAR, obs-text). */
#define T TCHAR | TARGET | TEXT
#define V TARGET | TEXT
/* clang-format off */
static const uint8_t kinds[256] = {
    ['\t'] = TEXT, [' '] = TEXT,
    ['!'] = T, ['"'] = V, ['#'] = T, ['$'] = T, ['%'] = T, ['&'] = T, ['\''] = T, ['('] = V, [')'] = V, ['*'] = T,
    ['+'] = T, [','] = V, ['-'] = T, ['.'] = T, ['/'] = V, ['0' ... '9'] = T, [':'] = V, [';'] = V, ['<'] = V,
    ['='] = V, ['>'] = V, ['?'] = V, ['@'] = V, ['A' ... 'Z'] = T, ['['] = V, ['\\'] = V, [']'] = V, ['^'] = T,
    ['_'] = T, ['`'] = T, ['a' ... 'z'] = T, ['{'] = V, ['|'] = T, ['}'] = V, ['~'] = T,
    [0x80 ... 0xff] = TEXT,
};
/* clang-format on */
#undef T
#undef V

/* The first byte in at..end that is not of this kind. */
static inline const char *skip(const char *at, const char *end, uint8_t kind)
{
    while (at < end && kinds[(uint8_t)*at] & kind)
        at++;
    return at;
}

static inline mg_slice between(const char *from, const char *to)
{
    return (mg_slice){ from, (uint32_t)(to - from) };
}

static int refuse(struct reading *r, int answer, const char *why)
{
    r->answer = answer;
    r->why = why;
    return 1;
}

/* ---- Fields. ---- */

typedef uint8_t bytes16 __attribute__((vector_size(16), aligned(1)));

/* Where the first byte of 0xff lies in a comparison of sixteen; 16 if all are 0. */
static inline unsigned first_of(bytes16 found)
{
#ifdef __SSE2__
    unsigned bits = (unsigned)__builtin_ia32_pmovmskb128((char __attribute__((vector_size(16))))found);

    return bits ? (unsigned)__builtin_ctz(bits) : 16;
#else
    typedef uint64_t halves __attribute__((vector_size(16)));
    halves half = (halves)found;

    if (half[0])
        return (unsigned)__builtin_ctzll(half[0]) / 8;
    return half[1] ? 8 + (unsigned)__builtin_ctzll(half[1]) / 8 : 16;
#endif
}

/* The first byte in at..end that is no TCHAR. A usual name, of letters, digits and hyphens, is passed in one step. */
static inline const char *skip_name(const char *at, const char *end)
{
    bytes16 v;

    if (end - at <= 16)
        return skip(at, end, TCHAR);
    memcpy(&v, at, sizeof(v));
    at += first_of((bytes16) ~(((v | 0x20) - 'a' < 26) | (v - '0' < 10) | (v == '-')));
    return *at == ':' ? at : skip(at, end, TCHAR);
}

/* The first byte in at..end that is not TEXT. Sixteen at a time, in GCC's portable vectors: a byte is suspect if it is
 * below 0x20 (HTAB too, so it is looked at again) or 0x7f. */
static inline const char *skip_text(const char *at, const char *end)
{
    for (; end - at >= 16; at += 16) {
        bytes16 v;

        memcpy(&v, at, sizeof(v));
        unsigned first = first_of((bytes16)((v < 0x20) | (v == 0x7f)));
        if (first == 16)
            continue;
        if (at[first] != '\t')
            return at + first;
        at += (int)first + 1 - 16;
    }
    return skip(at, end, TEXT);
}

static void prepare(void)
{
    static const char start_line[] = "GET / HTTP/1.1\r\n";

    /* The limit that counts is the caller's. */
    http_parser_set_max_header_size(INT32_MAX);
    http_parser_init(&after_start_line, HTTP_REQUEST);
    http_parser_execute(&after_start_line, &no_callbacks, start_line, sizeof(start_line) - 1);
    prepared = true;
}

/* Does http-parser read the fields from `at` to `end` as we did? */
static bool agrees(const struct mg_message *m, const char *at, const char *end)
{
    const struct mg_field *length = mg_message_known(m, MG_FIELD_CONTENT_LENGTH);
    const struct mg_field *coding = mg_message_known(m, MG_FIELD_TRANSFER_ENCODING);
    uint64_t ours;

    if (!prepared)
        prepare();
    struct http_parser second = after_start_line;
    http_parser_execute(&second, &no_callbacks, at, (size_t)(end - at));
    if (HTTP_PARSER_ERRNO(&second) != HPE_OK)
        return false;
    if (length && (!mg_text_number(length->value, &ours) || ours != second.content_length))
        return false;
    /* Any other coding is refused by framing.c. */
    return !coding || !mg_text_same(coding->value, MG_LIT("chunked")) || (second.flags & F_CHUNKED);
}

/* Is this field one whose meaning two readers must agree on? A single length of plain digits has only one. */
static bool is_doubtful(const struct mg_message *m, enum mg_field_id id, mg_slice value)
{
    uint64_t length;

    if (id != MG_FIELD_CONTENT_LENGTH)
        return id == MG_FIELD_TRANSFER_ENCODING;
    return mg_message_has(m, MG_FIELD_CONTENT_LENGTH) || !mg_text_number(value, &length);
}

/* A field's value that is not followed by CRLF: NULL. */
static const char *unended(struct reading *r, const char *at)
{
    if (at == r->end || (*at == '\r' && r->end - at < 2))
        return NULL;
    refuse(r, -400,
           *at == '\r' || *at == '\n' ? "a line that does not end with CRLF" : "a control byte in a field value");
    return NULL;
}

/* One field line; where the next begins. NULL: refused, or cut if r->answer is 0. */
static const char *read_field(struct reading *r, const char *line)
{
    struct mg_message *m = r->m;
    const char *colon = skip_name(line, r->end);

    if (colon == r->end)
        return NULL;
    if (*colon != ':' || colon == line)
        return refuse(r, -400, *line == ' ' || *line == '\t' ? "a folded field line" : "a malformed field name"), NULL;
    const char *from = colon + 1;
    if (from < r->end && *from == ' ')
        from++;
    while (from < r->end && (*from == ' ' || *from == '\t'))
        from++;
    const char *to = skip_text(from, r->end);
    if (r->end - to < 2 || memcmp(to, "\r\n", 2) != 0)
        return unended(r, to);
    const char *next = to + 2;
    while (to > from && (uint8_t)to[-1] <= ' ') /* of TEXT, HTAB and SP */
        to--;
    if (m->count >= r->max_fields)
        return refuse(r, -431, "too many fields"), NULL;

    mg_slice name = between(line, colon), value = between(from, to);
    unsigned id = mg_field_id(name);
    r->doubtful |= is_doubtful(m, id, value);
    m->fields[m->count++] = (struct mg_field){ name, value, (uint8_t)id };
    m->present |= mg_field_bit(name, id);
    return next;
}

/* Reads field lines and the empty line from `at`. The bytes taken, 0 for more to come, or minus the answer. */
static int read_fields(struct reading *r, const char *at)
{
    const char *start = at;

    while (at && at < r->end && *at != '\r')
        at = read_field(r, at);
    if (r->answer)
        return r->answer;
    if (!at || r->end - at < 2)
        return 0;
    if (at[1] != '\n') {
        r->why = "an empty line that is not CRLF";
        return -400;
    }
    if (r->doubtful && !agrees(r->m, start, at + 2)) {
        r->why = "a length or coding that can be read two ways";
        return -400;
    }
    return (int)(at + 2 - start);
}

static void begin(struct reading *r, const char *end, const struct mg_head_limits *limits, struct mg_message *m)
{
    r->m = m;
    r->end = end;
    r->why = "";
    r->answer = 0;
    r->doubtful = false;
    r->max_fields = limits->max_fields < MG_FIELDS_MAX ? limits->max_fields : MG_FIELDS_MAX;
    *m = (struct mg_message){ .fields = fields, .room = MG_FIELDS_MAX, .version = 11 };
}

int mg_head_fields(const char *data, size_t len, const struct mg_head_limits *limits, struct mg_message *m,
                   const char **why)
{
    size_t most = len < limits->max_head_size ? len : limits->max_head_size;
    struct reading r;

    begin(&r, data + most, limits, m);
    int n = read_fields(&r, data);
    if (n == 0 && most == limits->max_head_size) {
        r.why = "too many bytes of fields";
        n = -431;
    }
    *why = r.why;
    return n;
}

/* ---- Start lines. Each gives where the fields begin; NULL with r->answer 0 says that there is more to come. ---- */

/* "HTTP/1.1" or "HTTP/1.0" at `at`; false if it is something else or cut. */
static bool read_version(struct reading *r, const char *at)
{
    static const char v11[8] = "HTTP/1.1", v10[8] = "HTTP/1.0";
    size_t there = (size_t)(r->end - at);

    if (there >= 8 && memcmp(at, v11, 8) == 0) {
        r->m->version = 11;
        return true;
    }
    if (there >= 8 && memcmp(at, v10, 8) == 0) {
        r->m->version = 10;
        return true;
    }
    if (there < 8 && memcmp(at, v11, there < 5 ? there : 5) == 0)
        return false;
    if (there >= 8 && memcmp(at, v11, 5) == 0 && at[5] >= '0' && at[5] <= '9' && at[6] == '.' && at[7] >= '0' &&
        at[7] <= '9')
        refuse(r, -505, "a version of HTTP that is not spoken here");
    else
        refuse(r, -400, "a malformed HTTP version");
    return false;
}

static const char *read_crlf(struct reading *r, const char *at)
{
    if (at < r->end && at[0] != '\r')
        refuse(r, -400, "a start line that does not end with CRLF");
    else if (at + 1 < r->end && at[1] == '\n')
        return at + 2;
    else if (at + 1 < r->end)
        refuse(r, -400, "a start line that does not end with CRLF");
    return NULL;
}

static const char *read_request_line(struct reading *r, const char *at, uint32_t max_target)
{
    struct mg_message *m = r->m;
    const char *p = skip(at, r->end, TCHAR);

    if (p - at > METHOD_MAX)
        return refuse(r, -501, "a method that is too long"), NULL;
    if (p == r->end)
        return NULL;
    if (*p != ' ' || p == at)
        return refuse(r, -400, "a malformed method"), NULL;
    m->method = between(at, p);

    at = p + 1;
    p = skip(at, r->end, TARGET);
    if ((size_t)(p - at) > max_target)
        return refuse(r, -414, "a target that is too long"), NULL;
    if (p == r->end)
        return NULL;
    if (*p != ' ' || p == at)
        return refuse(r, -400, "a malformed target"), NULL;
    m->target = between(at, p);

    return read_version(r, p + 1) ? read_crlf(r, p + 9) : NULL;
}

static const char *read_status_line(struct reading *r, const char *at)
{
    struct mg_message *m = r->m;

    if (!read_version(r, at))
        return NULL;
    at += 8;
    if (r->end - at < 5)
        return NULL;
    if (at[0] != ' ' || at[1] < '1' || at[1] > '5' || at[2] < '0' || at[2] > '9' || at[3] < '0' || at[3] > '9')
        return refuse(r, -400, "a malformed status"), NULL;
    m->status = (uint16_t)((at[1] - '0') * 100 + (at[2] - '0') * 10 + (at[3] - '0'));
    at += 4;
    /* RFC 9112 4 wants the space even without a reason; many origins leave both out. */
    if (*at == ' ') {
        const char *p = skip(at + 1, r->end, TEXT);

        m->reason = between(at + 1, p);
        at = p;
    }
    return read_crlf(r, at);
}

/* ---- Whole heads. ---- */

/* RFC 9112 3.2: one valid Host, which only HTTP/1.0 may leave out. */
static const char *bad_host(const struct mg_message *m)
{
    const struct mg_field *host = mg_message_known(m, MG_FIELD_HOST);

    if (!host)
        return m->version >= 11 ? "no Host" : NULL;
    for (const struct mg_field *f = host + 1, *end = m->fields + m->count; f < end; f++)
        if (f->id == MG_FIELD_HOST)
            return "more than one Host";
    return mg_host_is_valid(host->value) ? NULL : "a malformed Host";
}

/* A refused head leaves nothing of itself but its start line, for the log. */
static int refused(struct mg_message *m, const char **why, const char *because, int answer)
{
    m->count = 0;
    m->present = 0;
    *why = because;
    return answer;
}

int mg_head_request(const char *data, size_t len, const struct mg_head_limits *limits, struct mg_message *m,
                    const char **why)
{
    bool full = len >= limits->max_head_size;
    const char *at = data;
    struct reading r;

    begin(&r, data + (full ? limits->max_head_size : len), limits, m);
    for (int i = 0; i < BLANK_LINES_MAX && r.end - at >= 2 && at[0] == '\r' && at[1] == '\n'; i++)
        at += 2;
    if (r.end - at < 2 && (at == r.end || *at == '\r'))
        return full ? refused(m, why, "a head that is too long", -431) : 0;

    const char *first = read_request_line(&r, at, limits->max_target_size);
    int n = first ? read_fields(&r, first) : r.answer;
    if (n < 0)
        return refused(m, why, r.why, n);
    if (n == 0)
        return full ? refused(m, why, "a head that is too long", first ? -431 : -414) : 0;

    const char *problem = bad_host(m);
    if (problem)
        return refused(m, why, problem, -400);
    return (int)(first - data) + n;
}

int mg_head_response(const char *data, size_t len, const struct mg_head_limits *limits, struct mg_message *m,
                     const char **why)
{
    bool full = len >= limits->max_head_size;
    struct reading r;

    begin(&r, data + (full ? limits->max_head_size : len), limits, m);
    const char *first = read_status_line(&r, data);
    int n = first ? read_fields(&r, first) : r.answer;
    if (n < 0)
        return refused(m, why, r.why, -502);
    if (n == 0)
        return full ? refused(m, why, "a head that is too long", -502) : 0;
    return (int)(first - data) + n;
}

bool mg_head_is_whole(const char *data, size_t len, size_t from)
{
    const char *at = data + (from > 2 ? from - 2 : 0), *end = data + len;

    while (at < end && (at = memchr(at, '\n', (size_t)(end - at)))) {
        at++;
        if (at < end && (*at == '\n' || (*at == '\r' && at + 1 < end && at[1] == '\n')))
            return true;
    }
    return false;
}

/* ---- Writing. ---- */

static inline char *put_two(char *to, const char *two)
{
    memcpy(to, two, 2);
    return to + 2;
}

static size_t fields_size(const struct mg_message *m)
{
    size_t size = 0;

    for (const struct mg_field *f = m->fields, *end = f + m->count; f < end; f++)
        size += (size_t)f->name.len + f->value.len + sizeof(": \r\n") - 1;
    return size;
}

static char *write_fields(char *to, const struct mg_message *m)
{
    for (const struct mg_field *f = m->fields, *end = f + m->count; f < end; f++) {
        to = mg_text_put(to, f->name);
        to = put_two(to, ": ");
        to = mg_text_put(to, f->value);
        to = put_two(to, "\r\n");
    }
    return to;
}

size_t mg_head_request_size(const struct mg_message *m)
{
    return (size_t)m->method.len + m->target.len + sizeof("  HTTP/1.1\r\n") - 1 + fields_size(m);
}

char *mg_head_write_request(char *to, const struct mg_message *m)
{
    to = mg_text_put(to, m->method);
    *to++ = ' ';
    to = mg_text_put(to, m->target);
    to = mg_text_put(to, MG_LIT(" HTTP/1.1\r\n"));
    return write_fields(to, m);
}

static mg_slice reason_of(const struct mg_message *m)
{
    return m->reason.len ? m->reason : mg_reason(m->status);
}

size_t mg_head_response_size(const struct mg_message *m)
{
    return sizeof("HTTP/1.1 200 \r\n") - 1 + reason_of(m).len + fields_size(m);
}

char *mg_head_write_response(char *to, const struct mg_message *m)
{
    to = mg_text_put(to, MG_LIT("HTTP/1.1 "));
    *to++ = (char)('0' + m->status / 100 % 10);
    *to++ = (char)('0' + m->status / 10 % 10);
    *to++ = (char)('0' + m->status % 10);
    *to++ = ' ';
    to = mg_text_put(to, reason_of(m));
    to = put_two(to, "\r\n");
    return write_fields(to, m);
}

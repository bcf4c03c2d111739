/* uri.c - the grammar of RFC 3986 as far as a proxy meets it. One table says what a byte may be part of. */
#include "uri.h"

#include <arpa/inet.h>

#include "text.h"

enum { PATH = 1, QUERY = 2, HOST = 4, NAME = 8, WILD = 16 };

/* PATH: pchar and "/". QUERY: that and "?". HOST: unreserved and sub-delims. NAME: what needs no look when a path is
 * normalised, which is all of PATH but ".", for a path is usually free of it. "%" is in none: two hex digits follow.
 * WILD: what RFC 3986 forbids and browsers send all the same; it is taken, and goes on percent-encoded. */
#define U PATH | QUERY | HOST | NAME
#define C PATH | QUERY | NAME
/* clang-format off */
static const uint8_t kinds[256] = {
    ['!'] = U, ['$'] = U, ['&'] = U, ['\''] = U, ['('] = U, [')'] = U, ['*'] = U, ['+'] = U, [','] = U, [';'] = U,
    ['='] = U, ['-'] = U, ['.'] = PATH | QUERY | HOST, ['_'] = U, ['~'] = U, ['0' ... '9'] = U, ['A' ... 'Z'] = U,
    ['['] = WILD, [']'] = WILD, ['{'] = WILD, ['}'] = WILD, ['|'] = WILD, ['^'] = WILD, ['`'] = WILD,
    ['a' ... 'z'] = U, [':'] = C, ['@'] = C, ['/'] = C, ['?'] = QUERY,
};
/* clang-format on */
#undef U
#undef C

static inline mg_slice between(const char *from, const char *to)
{
    return (mg_slice){ from, (uint32_t)(to - from) };
}

static inline bool is_escape(const char *at, const char *end)
{
    return end - at >= 3 && mg_text_hex(at[1]) >= 0 && mg_text_hex(at[2]) >= 0;
}

/* The first byte in at..end that is neither of this kind nor part of an escape. */
static inline const char *skip(const char *at, const char *end, uint8_t kind)
{
    for (; at < end; at++) {
        if (kinds[(uint8_t)*at] & kind)
            continue;
        if (*at != '%' || !is_escape(at, end))
            break;
        at += 2;
    }
    return at;
}

bool mg_path_is_valid(mg_slice raw_path)
{
    if (raw_path.len == 0 || raw_path.ptr[0] != '/')
        return false;

    const char *end = raw_path.ptr + raw_path.len;
    return skip(raw_path.ptr, end, PATH) == end;
}

bool mg_query_is_valid(mg_slice query)
{
    const char *end = query.len ? query.ptr + query.len : NULL;

    return !end || skip(query.ptr, end, QUERY) == end;
}

/* ---- Hosts. ---- */

/* The inside of "[...]": an IPv6 address without a zone, or IPvFuture. */
static bool is_ip_literal(mg_slice s)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;

    if (s.len && (s.ptr[0] | 0x20) == 'v') {
        const char *at = s.ptr + 1, *end = s.ptr + s.len;

        while (at < end && mg_text_hex(*at) >= 0)
            at++;
        if (at == s.ptr + 1 || end - at < 2 || *at != '.')
            return false;
        for (at++; at < end; at++)
            if (!(kinds[(uint8_t)*at] & HOST) && *at != ':')
                return false;
        return true;
    }
    if (s.len >= sizeof(text))
        return false;
    for (uint32_t i = 0; i < s.len; i++)
        if (mg_text_hex(s.ptr[i]) < 0 && s.ptr[i] != ':' && s.ptr[i] != '.')
            return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = '\0';
    return inet_pton(AF_INET6, text, &address) == 1;
}

/* Digits after the colon; none are as good as no port (RFC 3986 3.2.3). */
static bool read_port(const char *at, const char *end, uint16_t *port)
{
    uint64_t number = 0;

    if (at < end && (!mg_text_number(between(at, end), &number) || number > UINT16_MAX))
        return false;
    *port = (uint16_t)number;
    return true;
}

/* Checks text and takes it apart; the host still as it came. */
static bool split_host(mg_slice text, mg_slice *host, uint16_t *port)
{
    const char *at = text.ptr, *end = at + text.len;

    *port = 0;
    if (text.len == 0)
        return false;
    if (*at == '[') {
        const char *close = memchr(at, ']', text.len);

        if (!close || !is_ip_literal(between(at + 1, close)))
            return false;
        at = close + 1;
    } else {
        at = mg_text_is_plain(text) ? end : skip(at, end, HOST);
    }
    /* One dot at the end is the root's; more, or it alone, name nothing. */
    if (at == text.ptr || (at[-1] == '.' && (at - 1 == text.ptr || at[-2] == '.')))
        return false;
    *host = between(text.ptr, at);
    return at == end || (*at == ':' && read_port(at + 1, end, port));
}

bool mg_host_is_valid(mg_slice text)
{
    mg_slice host;
    uint16_t port;

    return split_host(text, &host, &port);
}

enum mg_status mg_host_parse(mg_slice text, struct mg_arena *arena, mg_slice *host, uint16_t *port)
{
    mg_slice h;

    if (!split_host(text, &h, port))
        return MG_MALFORMED;
    if (h.ptr[h.len - 1] == '.')
        h.len--;
    *host = h;
    if (!mg_text_has_upper(h))
        return MG_OK;
    char *lower = mg_arena_take(arena, h.len);
    if (!lower)
        return MG_NO_MEMORY;
    for (uint32_t i = 0; i < h.len; i++)
        lower[i] = mg_text_lower(h.ptr[i]);
    host->ptr = lower;
    return MG_OK;
}

/* ---- Targets. ---- */

static bool is_options(mg_slice method)
{
    return mg_text_equal(method, MG_LIT("OPTIONS"));
}

/* As skip, and past what is wild, which out notes. */
static const char *skip_wild(const char *at, const char *end, uint8_t kind, struct mg_target *out)
{
    const char *p = skip(at, end, kind);

    if (p == end || !(kinds[(uint8_t)*p] & WILD))
        return p;
    out->wild = true;
    return skip(p, end, kind | WILD);
}

/* absolute-path [ "?" query ] from `at` to the end. */
static enum mg_status read_path(const char *at, const char *end, struct mg_target *out)
{
    const char *p = skip_wild(at, end, PATH, out);

    out->path = between(at, p);
    if (p == end)
        return MG_OK;
    if (*p != '?')
        return MG_MALFORMED;
    out->query = between(p + 1, end);
    return skip_wild(p + 1, end, QUERY, out) == end ? MG_OK : MG_MALFORMED;
}

/* The length of "http://" or "https://", whatever its case; 0 for another scheme. */
static uint32_t read_scheme(mg_slice target, struct mg_target *out)
{
    static const mg_slice schemes[] = { MG_LIT("http://"), MG_LIT("https://") };

    for (unsigned i = 0; i < 2; i++) {
        uint32_t len = schemes[i].len;

        if (target.len < len || !mg_text_same((mg_slice){ target.ptr, len }, schemes[i]))
            continue;
        out->scheme = (mg_slice){ schemes[i].ptr, len - 3 };
        return len;
    }
    return 0;
}

static enum mg_status read_absolute(mg_slice method, mg_slice target, struct mg_target *out)
{
    const char *end = target.ptr + target.len;
    const char *at = target.ptr + read_scheme(target, out);

    if (!out->scheme.len)
        return MG_MALFORMED;
    const char *p = at;
    while (p < end && *p != '/' && *p != '?')
        p++;
    out->form = MG_TARGET_ABSOLUTE;
    out->authority = between(at, p);
    if (!mg_host_is_valid(out->authority))
        return MG_MALFORMED;
    if (p < end && *p == '/')
        return read_path(p, end, out);

    /* RFC 9112 3.2.4: OPTIONS for a server as a whole reaches it as "*". */
    out->path = p == end && is_options(method) ? MG_LIT("*") : MG_LIT("/");
    if (p == end)
        return MG_OK;
    out->query = between(p + 1, end);
    return mg_query_is_valid(out->query) ? MG_OK : MG_MALFORMED;
}

static enum mg_status read_authority(mg_slice target, struct mg_target *out)
{
    mg_slice host;
    uint16_t port;

    out->form = MG_TARGET_AUTHORITY;
    out->authority = target;
    return split_host(target, &host, &port) && port ? MG_OK : MG_MALFORMED;
}

enum mg_status mg_target_parse(mg_slice method, mg_slice target, struct mg_target *out)
{
    *out = (struct mg_target){ .form = MG_TARGET_ORIGIN };
    if (target.len == 0)
        return MG_MALFORMED;
    if (mg_text_equal(method, MG_LIT("CONNECT")))
        return read_authority(target, out);
    if (target.ptr[0] == '/')
        return read_path(target.ptr, target.ptr + target.len, out);
    if (target.len > 1 || target.ptr[0] != '*')
        return read_absolute(method, target, out);

    out->form = MG_TARGET_ASTERISK;
    out->path = target;
    return is_options(method) ? MG_OK : MG_MALFORMED;
}

/* ---- Paths. ---- */

/* Is there nothing to decode and no segment that begins with a dot? */
static bool is_normal(mg_slice path)
{
    const char *at = path.ptr, *end = at + path.len;

    for (; at < end; at++) {
        if (kinds[(uint8_t)*at] & NAME)
            continue;
        if (*at == '%' || (*at == '.' && at[-1] == '/'))
            return false;
    }
    return true;
}

/* Decodes from..end to `to`, which has as much room; the end of what was written, NULL for a broken escape. */
static char *decode(const char *from, const char *end, char *to)
{
    for (; from < end; from++) {
        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        if (!is_escape(from, end))
            return NULL;
        int byte = mg_text_hex(from[1]) << 4 | mg_text_hex(from[2]);
        if (byte == '/' || byte == 0) {
            memcpy(to, byte ? "%2F" : "%00", 3);
            to += 3;
        } else {
            *to++ = (char)byte;
        }
        from += 2;
    }
    return to;
}

/* RFC 3986 5.2.4, in place; the new end. path..end begins with "/". */
static char *remove_dots(char *path, char *end)
{
    char *to = path; /* up to here it is done; *to is where the next "/" goes */

    for (char *at = path; at < end;) {
        char *segment = at + 1, *next = segment;

        while (next < end && *next != '/')
            next++;
        size_t len = (size_t)(next - segment);
        bool is_dot = len == 1 && segment[0] == '.', is_up = len == 2 && segment[0] == '.' && segment[1] == '.';

        if (is_up)
            while (to > path && *--to != '/')
                continue;
        if (!is_dot && !is_up) {
            memmove(to, at, len + 1);
            to += len + 1;
        } else if (next == end) {
            *to++ = '/'; /* a last dot segment names a directory */
        }
        at = next;
    }
    return to;
}

enum mg_status mg_path_normalise(mg_slice path, struct mg_arena *arena, mg_slice *out)
{
    *out = path;
    if (path.len == 1 && path.ptr[0] == '*')
        return MG_OK;
    if (path.len == 0 || path.ptr[0] != '/')
        return MG_MALFORMED;
    if (is_normal(path))
        return MG_OK;

    char *copy = mg_arena_take(arena, path.len);
    if (!copy)
        return MG_NO_MEMORY;
    char *end = decode(path.ptr, path.ptr + path.len, copy);
    if (!end)
        return MG_MALFORMED;
    *out = between(copy, remove_dots(copy, end));
    return MG_OK;
}

/* Percent-encodes the bytes whose kind, with `mask`, is not `plain`. */
static enum mg_status encode(mg_slice text, uint8_t mask, uint8_t plain, struct mg_arena *arena, mg_slice *out)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t odd = 0;

    *out = text;
    for (uint32_t i = 0; i < text.len; i++)
        odd += (kinds[(uint8_t)text.ptr[i]] & mask) != plain;
    if (odd == 0)
        return MG_OK;

    size_t len = text.len + 2 * odd;
    if (len > UINT32_MAX)
        return MG_FULL;
    char *copy = mg_arena_take(arena, len), *to = copy;
    if (!copy)
        return MG_NO_MEMORY;
    for (uint32_t i = 0; i < text.len; i++) {
        uint8_t byte = (uint8_t)text.ptr[i];

        if ((kinds[byte] & mask) == plain) {
            *to++ = (char)byte;
            continue;
        }
        *to++ = '%';
        *to++ = digits[byte >> 4];
        *to++ = digits[byte & 15];
    }
    *out = between(copy, to);
    return MG_OK;
}

enum mg_status mg_path_encode(mg_slice path, struct mg_arena *arena, mg_slice *out)
{
    return encode(path, PATH, PATH, arena, out);
}

enum mg_status mg_wild_encode(mg_slice text, struct mg_arena *arena, mg_slice *out)
{
    return encode(text, WILD, 0, arena, out);
}

/* address.c - socket addresses: parsed, printed, compared.
 *
 * Only literals: names are resolve.c's business.
 */
#include "address.h"

#include <net/if.h>
#include <stddef.h>
#include <errno.h>
#include <string.h>

#include <arpa/inet.h>

#include "text.h"

enum { PATH_AT = offsetof(struct sockaddr_un, sun_path) };

static bool starts_with(mg_slice s, mg_slice with)
{
    return s.len >= with.len && memcmp(s.ptr, with.ptr, with.len) == 0;
}

static mg_slice without(mg_slice s, uint32_t bytes)
{
    return (mg_slice){ s.ptr + bytes, s.len - bytes };
}

static bool parse_port(mg_slice text, uint16_t *port)
{
    uint64_t n;
    if (!mg_text_number(text, &n) || n > UINT16_MAX)
        return false;
    *port = (uint16_t)n;
    return true;
}

static void set_ip4(struct mg_address *a, const struct in_addr *ip, uint16_t port)
{
    memset(a, 0, sizeof(*a));
    a->len = sizeof(a->ip4);
    a->ip4.sin_family = AF_INET;
    a->ip4.sin_addr = *ip;
    a->ip4.sin_port = htons(port);
}

static void set_ip6(struct mg_address *a, const struct in6_addr *ip, uint32_t scope, uint16_t port)
{
    memset(a, 0, sizeof(*a));
    a->len = sizeof(a->ip6);
    a->ip6.sin6_family = AF_INET6;
    a->ip6.sin6_addr = *ip;
    a->ip6.sin6_scope_id = scope;
    a->ip6.sin6_port = htons(port);
}

/* What follows % in fe80::1%eth0: an interface's name or number (RFC 4007 11). */
static bool parse_scope(const char *text, uint32_t *scope)
{
    uint64_t n;
    *scope = if_nametoindex(text);
    if (*scope != 0)
        return true;
    if (!mg_text_number(mg_slice_of(text), &n) || n == 0 || n > UINT32_MAX)
        return false;
    *scope = (uint32_t)n;
    return true;
}

bool mg_address_literal(mg_slice host, uint16_t port, struct mg_address *out)
{
    bool bracketed = host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']';
    if (bracketed)
        host = (mg_slice){ host.ptr + 1, host.len - 2 };

    char text[INET6_ADDRSTRLEN + IF_NAMESIZE];
    if (host.len == 0 || host.len >= sizeof(text) || memchr(host.ptr, 0, host.len))
        return false;
    memcpy(text, host.ptr, host.len);
    text[host.len] = 0;

    struct in_addr ip4;
    if (!bracketed && inet_pton(AF_INET, text, &ip4) == 1) {
        set_ip4(out, &ip4, port);
        return true;
    }

    uint32_t scope = 0;
    char *percent = strchr(text, '%');
    if (percent) {
        *percent = 0;
        if (!parse_scope(percent + 1, &scope))
            return false;
    }
    struct in6_addr ip6;
    if (inet_pton(AF_INET6, text, &ip6) != 1)
        return false;
    set_ip6(out, &ip6, scope, port);
    return true;
}

/* A path is stored with a zero at its end; an abstract name begins with one. */
static bool parse_path(mg_slice path, struct mg_address *out)
{
    bool abstract = path.len > 0 && path.ptr[0] == '@';
    if (path.len < 1u + abstract || path.len >= sizeof(out->path.sun_path) || memchr(path.ptr, 0, path.len))
        return false;

    memset(out, 0, sizeof(*out));
    out->path.sun_family = AF_UNIX;
    memcpy(out->path.sun_path, path.ptr, path.len);
    if (abstract)
        out->path.sun_path[0] = 0;
    out->len = (socklen_t)(PATH_AT + path.len + !abstract);
    return true;
}

bool mg_address_of_file(const char *path, struct mg_address *out)
{
    size_t len = strlen(path);

    *out = (struct mg_address){ .len = sizeof(out->path), .path = { .sun_family = AF_UNIX } };
    if (len < sizeof(out->path.sun_path)) {
        memcpy(out->path.sun_path, path, len);
        return true;
    }
    errno = ENAMETOOLONG;
    return false;
}

/* At the last colon. An IPv6 address has brackets, else its port can't be told. */
static bool split_port(mg_slice text, mg_slice *host, mg_slice *port)
{
    const char *colon = text.len > 0 ? memrchr(text.ptr, ':', text.len) : NULL;
    if (!colon)
        return false;
    *host = (mg_slice){ text.ptr, (uint32_t)(colon - text.ptr) };
    *port = without(text, host->len + 1);

    bool bracketed = host->len > 2 && host->ptr[0] == '[' && colon[-1] == ']';
    return bracketed || host->len == 0 || !memchr(host->ptr, ':', host->len);
}

bool mg_address_parse(mg_slice text, struct mg_address *out)
{
    if (starts_with(text, MG_LIT("unix:")))
        return parse_path(without(text, 5), out);

    mg_slice host, digits;
    uint16_t port;
    if (!split_port(text, &host, &digits) || !parse_port(digits, &port))
        return false;
    if (host.len == 0 || mg_text_equal(host, MG_LIT("*"))) {
        set_ip6(out, &in6addr_any, 0, port);
        return true;
    }
    return mg_address_literal(host, port, out);
}

bool mg_address_split(mg_slice text, mg_slice *host, uint16_t *port)
{
    mg_slice name, digits;
    if (!split_port(text, &name, &digits) || name.len == 0 || !parse_port(digits, port) || *port == 0)
        return false;
    if (name.ptr[0] == '[')
        name = (mg_slice){ name.ptr + 1, name.len - 2 };
    *host = name;
    return true;
}

/* Each request prints its client's: "0." to "255.", made once. */
static const char *octets(void)
{
    static char texts[256][4];

    for (unsigned n = 0; !texts[0][0] && n < 256; n++) {
        unsigned octet = 255 - n; /* the first one comes last: it says that all are there */
        char *to = texts[octet];
        if (octet >= 100)
            *to++ = (char)('0' + octet / 100);
        if (octet >= 10)
            *to++ = (char)('0' + octet / 10 % 10);
        *to++ = (char)('0' + octet % 10);
        *to = '.';
    }
    return texts[0];
}

static size_t print_ip4(const uint8_t *ip, char *to)
{
    const char *texts = octets();
    char *at = to;

    for (int i = 0; i < 4; i++) {
        memcpy(at, texts + ip[i] * (size_t)4, 4);
        at += ip[i] >= 100 ? 4 : ip[i] >= 10 ? 3 : 2;
    }
    return (size_t)(at - to) - 1; /* without the last dot */
}

static size_t print_ip6(const uint8_t *ip, uint32_t scope, char *to)
{
    char text[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, ip, text, sizeof(text));
    size_t n = strlen(text);
    memcpy(to, text, n);
    if (scope != 0) {
        to[n++] = '%';
        n += mg_text_put_number(to + n, scope);
    }
    return n;
}

/* "/run/x.sock" or "@abstract". */
static size_t print_path(const struct mg_address *a, char *to)
{
    const char *path = a->path.sun_path;
    size_t max = a->len > PATH_AT ? a->len - PATH_AT : 0;
    if (max == 0)
        return 0; /* a client's socket has no name */

    size_t n = path[0] ? strnlen(path, max) : max;
    memcpy(to, path, n);
    if (!path[0])
        to[0] = '@';
    return n;
}

size_t mg_address_print_host(const struct mg_address *a, char *to)
{
    switch (a->any.sa_family) {
    case AF_INET:
        return print_ip4((const uint8_t *)&a->ip4.sin_addr, to);
    case AF_INET6:
        return print_ip6(a->ip6.sin6_addr.s6_addr, a->ip6.sin6_scope_id, to);
    default:
        memcpy(to, "unix", 4);
        return 4;
    }
}

size_t mg_address_print(const struct mg_address *a, char *to)
{
    size_t n = 0;
    if (a->any.sa_family == AF_UNIX) {
        memcpy(to, "unix:", 5);
        return 5 + print_path(a, to + 5);
    }
    bool brackets = a->any.sa_family == AF_INET6;
    if (brackets)
        to[n++] = '[';
    n += mg_address_print_host(a, to + n);
    if (brackets)
        to[n++] = ']';
    to[n++] = ':';
    return n + mg_text_put_number(to + n, mg_address_port(a));
}

uint16_t mg_address_port(const struct mg_address *a)
{
    switch (a->any.sa_family) {
    case AF_INET:
        return ntohs(a->ip4.sin_port);
    case AF_INET6:
        return ntohs(a->ip6.sin6_port);
    default:
        return 0;
    }
}

bool mg_address_equal(const struct mg_address *a, const struct mg_address *b)
{
    if (a->any.sa_family != b->any.sa_family)
        return false;
    switch (a->any.sa_family) {
    case AF_INET:
        return a->ip4.sin_port == b->ip4.sin_port && a->ip4.sin_addr.s_addr == b->ip4.sin_addr.s_addr;
    case AF_INET6:
        return a->ip6.sin6_port == b->ip6.sin6_port && a->ip6.sin6_scope_id == b->ip6.sin6_scope_id &&
               memcmp(&a->ip6.sin6_addr, &b->ip6.sin6_addr, 16) == 0;
    default:
        return a->len == b->len && memcmp(&a->path, &b->path, a->len) == 0;
    }
}

struct mg_endpoint mg_endpoint_of(const struct mg_address *a)
{
    struct mg_endpoint e = { .port = mg_address_port(a) };
    if (a->any.sa_family == AF_INET) {
        e.family = 4;
        memcpy(e.ip, &a->ip4.sin_addr, 4);
    } else if (a->any.sa_family == AF_INET6) {
        bool mapped = IN6_IS_ADDR_V4MAPPED(&a->ip6.sin6_addr);
        e.family = mapped ? 4 : 6;
        if (mapped)
            memcpy(e.ip, a->ip6.sin6_addr.s6_addr + 12, 4);
        else
            memcpy(e.ip, a->ip6.sin6_addr.s6_addr, 16);
    }
    return e;
}

size_t mg_endpoint_print(const struct mg_endpoint *e, char *to)
{
    if (e->family == 4)
        return print_ip4(e->ip, to);
    if (e->family == 6)
        return print_ip6(e->ip, 0, to);
    memcpy(to, "unix", 4);
    return 4;
}

bool mg_network_parse(mg_slice text, struct mg_network *out)
{
    if (mg_text_equal(text, MG_LIT("unix"))) {
        memset(out, 0, sizeof(*out));
        out->address.any.sa_family = AF_UNIX;
        out->address.len = PATH_AT;
        return true;
    }

    const char *slash = text.len > 0 ? memchr(text.ptr, '/', text.len) : NULL;
    mg_slice host = { text.ptr, slash ? (uint32_t)(slash - text.ptr) : text.len };
    if (!mg_address_literal(host, 0, &out->address))
        return false;

    uint64_t most = out->address.any.sa_family == AF_INET ? 32 : 128;
    uint64_t bits = most;
    if (slash && (!mg_text_number(without(text, host.len + 1), &bits) || bits > most))
        return false;

    const struct in6_addr *ip6 = &out->address.ip6.sin6_addr;
    if (most == 128 && IN6_IS_ADDR_V4MAPPED(ip6)) {
        if (bits < 96)
            return false; /* would be of both families */
        struct in_addr ip4;
        memcpy(&ip4, ip6->s6_addr + 12, 4);
        set_ip4(&out->address, &ip4, 0);
        bits -= 96;
    }
    out->bits = (unsigned)bits;
    return true;
}

bool mg_network_has(const struct mg_network *n, const struct mg_address *a)
{
    struct mg_endpoint net = mg_endpoint_of(&n->address);
    struct mg_endpoint e = mg_endpoint_of(a);
    if (net.family != e.family)
        return false;

    unsigned whole = n->bits / 8;
    unsigned rest = n->bits % 8;
    if (memcmp(net.ip, e.ip, whole) != 0)
        return false;
    return rest == 0 || (net.ip[whole] ^ e.ip[whole]) >> (8 - rest) == 0;
}

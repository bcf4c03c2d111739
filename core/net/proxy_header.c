/* proxy_header.c - headers of the PROXY protocol, read strictly and written.
 *
 * The grammar is that of "The PROXY protocol, versions 1 & 2" by W. Tarreau.
 * What stands behind the addresses in version 2 (TLVs) must be well formed,
 * and is not looked at. */
#include "proxy_header.h"

#include <stdio.h>
#include <string.h>

#include "text.h"

enum {
    V1_MOST = 107, /* of its line, with CRLF */
    V2_FIXED = 16, /* before the addresses */
    V2_LOCAL = 0,
    V2_PROXY = 1,
};

static const char v1_word[] = "PROXY ";
static const char v2_signature[] = "\r\n\r\n\0\r\nQUIT\n";

static int refuse(const char **why, const char *text)
{
    *why = text;
    return -1;
}

/* Does what has come so far begin as `word` does? */
static bool begins(const char *data, size_t len, const char *word, size_t word_len)
{
    return memcmp(data, word, len < word_len ? len : word_len) == 0;
}

/* ---- Version 1: a line of text. ---- */

/* What stands before the next blank, or the end. */
static mg_slice next_word(mg_slice *rest)
{
    const char *blank = rest->len ? memchr(rest->ptr, ' ', rest->len) : NULL;
    mg_slice word = { rest->ptr, blank ? (uint32_t)(blank - rest->ptr) : rest->len };
    uint32_t taken = word.len + (blank != NULL);

    *rest = (mg_slice){ rest->ptr + taken, rest->len - taken };
    return word;
}

static bool read_port(mg_slice digits, uint16_t *port)
{
    uint64_t n;

    if (digits.len > 5 || (digits.len > 1 && digits.ptr[0] == '0') || !mg_text_number(digits, &n) || n > UINT16_MAX)
        return false;
    *port = (uint16_t)n;
    return true;
}

/* An address alone: no brackets, no scope, no name. */
static bool read_ip(mg_slice text, uint16_t port, int family, struct mg_address *out)
{
    for (uint32_t i = 0; i < text.len; i++)
        if (mg_text_hex(text.ptr[i]) < 0 && text.ptr[i] != ':' && text.ptr[i] != '.')
            return false;
    return mg_address_literal(text, port, out) && out->any.sa_family == family;
}

static bool read_ends(mg_slice rest, int family, struct mg_proxy_header *h)
{
    mg_slice source = next_word(&rest), destination = next_word(&rest), from = next_word(&rest);
    uint16_t source_port, port;

    return read_port(from, &source_port) && read_port(rest, &port) &&
           read_ip(source, source_port, family, &h->source) && read_ip(destination, port, family, &h->destination);
}

static int read_v1(const char *data, size_t len, struct mg_proxy_header *h, const char **why)
{
    const char *end = memmem(data, len < V1_MOST ? len : V1_MOST, "\r\n", 2);

    if (!end)
        return len < V1_MOST ? 0 : refuse(why, "the PROXY header's line has no end within 107 bytes");
    mg_slice rest = { data + sizeof(v1_word) - 1, (uint32_t)(end - data - (ptrdiff_t)sizeof(v1_word) + 1) };
    mg_slice family = next_word(&rest);
    if (mg_text_equal(family, MG_LIT("UNKNOWN"))) {
        h->known = false;
    } else if (mg_text_equal(family, MG_LIT("TCP4")) || mg_text_equal(family, MG_LIT("TCP6"))) {
        h->known = read_ends(rest, family.ptr[3] == '4' ? AF_INET : AF_INET6, h);
        if (!h->known)
            return refuse(why, "the addresses of the PROXY header are malformed");
    } else {
        return refuse(why, "the PROXY header is of no known family");
    }
    return (int)(end - data) + 2;
}

/* ---- Version 2: binary. ---- */

static unsigned two_bytes(const unsigned char *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

/* How long the addresses of a family are: none, IPv4, IPv6, paths of unix sockets. */
static const unsigned address_sizes[] = { 0, 12, 36, 216 };

static void take_address(struct mg_address *a, unsigned family, const unsigned char *ip, const unsigned char *port)
{
    memset(a, 0, sizeof(*a));
    switch (family) {
    case 1:
        a->len = sizeof(a->ip4);
        a->ip4.sin_family = AF_INET;
        memcpy(&a->ip4.sin_addr, ip, 4);
        memcpy(&a->ip4.sin_port, port, 2);
        return;
    case 2:
        a->len = sizeof(a->ip6);
        a->ip6.sin6_family = AF_INET6;
        memcpy(&a->ip6.sin6_addr, ip, 16);
        memcpy(&a->ip6.sin6_port, port, 2);
        return;
    default: /* the path says nothing to anybody on this machine */
        a->len = sizeof(sa_family_t);
        a->path.sun_family = AF_UNIX;
        return;
    }
}

static void take_ends(struct mg_proxy_header *h, unsigned family, const unsigned char *at)
{
    unsigned size = family == 1 ? 4 : 16;

    take_address(&h->source, family, at, at + 2 * size);
    take_address(&h->destination, family, at + size, at + 2 * size + 2);
}

static bool are_tlvs(const unsigned char *at, const unsigned char *end)
{
    while (at < end) {
        if (end - at < 3 || (size_t)(end - at - 3) < two_bytes(at + 1))
            return false;
        at += 3 + two_bytes(at + 1);
    }
    return true;
}

static int read_v2(const char *data, size_t len, struct mg_proxy_header *h, const char **why)
{
    const unsigned char *at = (const unsigned char *)data;

    if (len < V2_FIXED)
        return 0;
    unsigned command = at[12] & 15, family = at[13] >> 4, kind = at[13] & 15, size = two_bytes(at + 14);
    if (at[12] >> 4 != 2 || command > V2_PROXY)
        return refuse(why, "the PROXY header is of no known version or command");
    if (family > 3 || kind > 2 || (family == 0) != (kind == 0))
        return refuse(why, "the PROXY header is of no known family");
    if (command == V2_PROXY && size < address_sizes[family])
        return refuse(why, "the PROXY header is too short for its addresses");
    if (V2_FIXED + size > MG_PROXY_HEADER_MOST)
        return refuse(why, "the PROXY header is longer than 16 KiB");
    if (len < V2_FIXED + size)
        return 0;
    h->known = command == V2_PROXY && family;
    if (h->known) {
        if (!are_tlvs(at + V2_FIXED + address_sizes[family], at + V2_FIXED + size))
            return refuse(why, "what stands behind the addresses of the PROXY header is malformed");
        take_ends(h, family, at + V2_FIXED);
    }
    return (int)(V2_FIXED + size);
}

int mg_proxy_header_read(const char *data, size_t len, struct mg_proxy_header *h, const char **why)
{
    if (!len)
        return 0;
    if (begins(data, len, v1_word, sizeof(v1_word) - 1))
        return read_v1(data, len, h, why);
    if (begins(data, len, v2_signature, sizeof(v2_signature) - 1))
        return read_v2(data, len, h, why);
    return refuse(why, "the connection does not begin with a PROXY header");
}

/* ---- Writing. ---- */

/* 4 or 6 as both can be written; 0 if that can't be. */
static int common_family(const struct mg_endpoint *a, const struct mg_endpoint *b)
{
    if (!a || !b || !a->family || !b->family)
        return 0;
    return a->family == 4 && b->family == 4 ? 4 : 6;
}

/* RFC 4291 2.5.5.2: an IPv4 address among those of IPv6. */
static void put_ip6(const struct mg_endpoint *e, unsigned char *to)
{
    if (e->family == 6) {
        memcpy(to, e->ip, 16);
        return;
    }
    memset(to, 0, 10);
    memset(to + 10, 0xff, 2);
    memcpy(to + 12, e->ip, 4);
}

static size_t print(const struct mg_endpoint *e, int family, char *to)
{
    struct mg_endpoint six = { .family = 6 };

    if (family == 4)
        return mg_endpoint_print(e, to);
    put_ip6(e, six.ip);
    return mg_endpoint_print(&six, to);
}

static size_t write_v1(int family, const struct mg_endpoint *source, const struct mg_endpoint *destination, char *to)
{
    char from[INET6_ADDRSTRLEN], at[INET6_ADDRSTRLEN];

    if (!family)
        return (size_t)snprintf(to, MG_PROXY_HEADER_ROOM, "PROXY UNKNOWN\r\n");
    int from_len = (int)print(source, family, from), at_len = (int)print(destination, family, at);
    return (size_t)snprintf(to, MG_PROXY_HEADER_ROOM, "PROXY TCP%d %.*s %.*s %u %u\r\n", family, from_len, from, at_len,
                            at, source->port, destination->port);
}

static unsigned char *put_two(unsigned char *to, unsigned n)
{
    *to++ = (unsigned char)(n >> 8);
    *to++ = (unsigned char)n;
    return to;
}

static size_t write_v2(int family, const struct mg_endpoint *source, const struct mg_endpoint *destination, char *to)
{
    unsigned char *at = mempcpy(to, v2_signature, sizeof(v2_signature) - 1);

    *at++ = 2 << 4 | (source ? V2_PROXY : V2_LOCAL);
    *at++ = family == 4 ? 0x11 : family == 6 ? 0x21 : 0;
    at = put_two(at, family == 4 ? 12 : family == 6 ? 36 : 0);
    if (family == 4) {
        at = mempcpy(at, source->ip, 4);
        at = mempcpy(at, destination->ip, 4);
    } else if (family == 6) {
        put_ip6(source, at);
        put_ip6(destination, at + 16);
        at += 32;
    }
    if (family) {
        at = put_two(at, source->port);
        at = put_two(at, destination->port);
    }
    return (size_t)((char *)at - to);
}

size_t mg_proxy_header_write(int version, const struct mg_endpoint *source, const struct mg_endpoint *destination,
                             char *to)
{
    int family = common_family(source, destination);

    return version == 1 ? write_v1(family, source, destination, to) : write_v2(family, source, destination, to);
}

/* A PROXY header that is accepted is accepted with its last byte and not before, whatever follows it; and its addresses
 * are the same when they are written in either version and read again. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proxy_header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Read from memory of its own, so that a byte too many is seen. */
static int read_exactly(const char *data, size_t len, struct mg_proxy_header *h)
{
    char *copy = malloc(len ? len : 1);
    const char *why = NULL;

    assert(copy);
    memcpy(copy, data, len);
    int n = mg_proxy_header_read(copy, len, h, &why);
    assert(n <= (int)len && (n >= 0 || why));
    free(copy);
    return n;
}

static bool is_same(const struct mg_endpoint *a, const struct mg_endpoint *b)
{
    return a->family == b->family && a->port == b->port && memcmp(a->ip, b->ip, a->family == 4 ? 4 : 16) == 0;
}

static void check_again(const struct mg_proxy_header *h, int version)
{
    struct mg_endpoint source = mg_endpoint_of(&h->source), destination = mg_endpoint_of(&h->destination);
    struct mg_proxy_header again = { 0 };
    char text[MG_PROXY_HEADER_ROOM];
    size_t n = mg_proxy_header_write(version, &source, &destination, text);

    assert(n <= sizeof(text) && read_exactly(text, n, &again) == (int)n);
    assert(again.known == (source.family && destination.family));
    if (!again.known)
        return;
    struct mg_endpoint a = mg_endpoint_of(&again.source), b = mg_endpoint_of(&again.destination);
    assert(is_same(&a, &source) && is_same(&b, &destination));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mg_proxy_header h = { 0 }, other = { 0 };
    const char *text = (const char *)data;
    int n = read_exactly(text, len, &h);

    if (n <= 0)
        return 0;
    for (int cut = n - 1; cut >= 0; cut -= cut < 64 ? 1 : 61)
        assert(read_exactly(text, (size_t)cut, &other) == 0);
    assert(read_exactly(text, (size_t)n, &other) == n);
    if (h.known) {
        check_again(&h, 1);
        check_again(&h, 2);
    }
    return 0;
}

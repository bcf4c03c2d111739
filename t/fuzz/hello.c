/* A ClientHello is whole with its last byte and not before, and cut into records of any size it says the same. The
 * first byte says how it is cut. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "hello.h"
#include "text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Read from memory of its own, so that a byte too many is seen. */
static enum mg_hello_state read_exactly(const char *data, size_t len, struct mg_hello *h, char **copy)
{
    const char *why = NULL;

    *copy = malloc(len ? len : 1);
    assert(*copy);
    memcpy(*copy, data, len);
    enum mg_hello_state state = mg_hello_read(*copy, len, h, &why);
    assert(state != MG_HELLO_MALFORMED || why);
    return state;
}

static void check_names(const struct mg_hello *h)
{
    assert(h->sni.len <= 255 && !mg_text_has_upper(h->sni) && (!h->sni.len || !memchr(h->sni.ptr, 0, h->sni.len)));
    for (uint32_t at = 0; at < h->alpn.len; at += 1 + (uint8_t)h->alpn.ptr[at])
        assert(h->alpn.ptr[at] && at + (uint8_t)h->alpn.ptr[at] < h->alpn.len);
}

/* The same message in records of `step` bytes. */
static size_t cut_anew(const char *message, size_t len, size_t step, char *to)
{
    char *start = to;

    for (size_t at = 0; at < len; at += step) {
        size_t n = len - at < step ? len - at : step;
        const char head[] = { 22, 3, 1, (char)(n >> 8), (char)n };
        to = mempcpy(mempcpy(to, head, sizeof(head)), message + at, n);
    }
    return (size_t)(to - start);
}

static void check_cut(const char *record, size_t len, size_t step)
{
    static char cut[6 * MG_HELLO_MOST];
    struct mg_hello a, b;
    char *first, *second, *partial;

    assert(read_exactly(record, len, &a, &first) == MG_HELLO_WHOLE);
    mg_slice sni = { strndup(a.sni.len ? a.sni.ptr : "", a.sni.len), a.sni.len };
    size_t n = cut_anew(record + 5, len - 5, step, cut);
    if (n < MG_HELLO_MOST) {
        assert(read_exactly(cut, n, &b, &second) == MG_HELLO_WHOLE);
        assert(mg_text_equal(sni, b.sni) && mg_text_equal(a.alpn, b.alpn) && a.tls12 == b.tls12 && a.tls13 == b.tls13);
        free(second);
        assert(read_exactly(cut, n - 1, &b, &partial) == MG_HELLO_PARTIAL);
        free(partial);
    }
    free((char *)sni.ptr);
    free(first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mg_hello h, other;
    char *copy, *shorter;

    if (len < 2)
        return 0;
    const char *text = (const char *)data + 1;
    size_t size = len - 1, whole = size >= 5 ? 5 + ((size_t)data[4] << 8 | data[5]) : 0;
    if (read_exactly(text, size, &h, &copy) == MG_HELLO_WHOLE) {
        check_names(&h);
        for (size_t n = size < 700 ? size : 700; n-- > 1;) {
            enum mg_hello_state state = read_exactly(text, n, &other, &shorter);
            assert(state == MG_HELLO_PARTIAL || state == MG_HELLO_WHOLE);
            free(shorter);
        }
        if (whole <= size && read_exactly(text, whole, &other, &shorter) == MG_HELLO_WHOLE) {
            free(shorter);
            check_cut(text, whole, 1u + data[0]);
        } else if (whole <= size) {
            free(shorter);
        }
    }
    free(copy);
    return 0;
}

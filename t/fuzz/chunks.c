/* Chunks give the same body and verdict however they arrive, and the body can be sent again. The first byte says how
 * they are cut. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "framing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct mg_framing_limits limits = { .max_chunk_line = 128,
                                                 .max_chunk_extensions = 256,
                                                 .max_trailer_size = 512 };

struct outcome {
    char *body;
    size_t body_len, used;
    bool refused, whole, trailer;
};

/* Offers `step` bytes more each time; what was not taken is offered again, as from a socket's buffer. */
static struct outcome feed(const char *text, size_t len, size_t step)
{
    struct mg_framing f = { .kind = MG_BODY_CHUNKED };
    struct outcome o = { .body = malloc(len + 1) };
    size_t there = 0;
    const char *why = NULL;

    assert(o.body);
    while (!f.whole && f.state != MG_FRAMING_TRAILER) {
        size_t used;
        mg_slice piece;

        if (o.used == there) {
            if (there == len)
                break;
            there = len - there > step ? there + step : len;
        }
        if (mg_framing_take(&f, &limits, text + o.used, there - o.used, &used, &piece, &why) != MG_OK) {
            assert(why);
            o.refused = true;
            return o;
        }
        assert(used <= there - o.used && piece.len <= used);
        assert(used > 0 || f.state == MG_FRAMING_TRAILER);
        if (piece.len) {
            assert(piece.ptr >= text + o.used && piece.ptr + piece.len <= text + o.used + used);
            memcpy(o.body + o.body_len, piece.ptr, piece.len);
            o.body_len += piece.len;
        }
        o.used += used;
    }
    o.trailer = f.state == MG_FRAMING_TRAILER;
    o.whole = f.whole;
    return o;
}

static void check_again(const struct outcome *o)
{
    char *text = malloc(o->body_len + 64);

    assert(text);
    int n = o->body_len ? snprintf(text, 32, "%zx\r\n", o->body_len) : 0;
    memcpy(text + n, o->body, o->body_len);
    n += (int)o->body_len;
    n += snprintf(text + n, 32, o->body_len ? "\r\n0\r\n\r\n" : "0\r\n\r\n");
    struct outcome again = feed(text, (size_t)n, (size_t)n);
    assert(again.whole && again.used == (size_t)n && again.body_len == o->body_len);
    assert(memcmp(again.body, o->body, o->body_len) == 0);
    free(again.body);
    free(text);
}

static void check_trailer(const char *text, size_t len)
{
    struct mg_framing f = { .kind = MG_BODY_CHUNKED, .state = MG_FRAMING_TRAILER };
    struct mg_message m;
    const char *why;
    int n = mg_trailer_read(&f, &limits, text, len, &m, &why);

    assert(n <= (int)limits.max_trailer_size && f.whole == (n > 0));
    for (unsigned i = 0; n > 0 && i < m.count; i++)
        assert(mg_text_is_token(m.fields[i].name) && mg_text_is_field_value(m.fields[i].value));
    assert(n <= 0 || !mg_message_has(&m, MG_FIELD_CONTENT_LENGTH));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 1)
        return 0;
    const char *text = (const char *)data + 1;
    len--;
    struct outcome a = feed(text, len, len + 1), b = feed(text, len, 1u + data[0] % 16);

    assert(a.refused == b.refused);
    if (!a.refused) {
        assert(a.body_len == b.body_len && memcmp(a.body, b.body, a.body_len) == 0);
        assert(a.used == b.used && a.whole == b.whole && a.trailer == b.trailer);
    }
    if (a.whole)
        check_again(&a);
    if (a.trailer)
        check_trailer(text + a.used, len - a.used);
    free(a.body);
    free(b.body);
    return 0;
}

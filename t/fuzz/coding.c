/* Foreign bytes in a content coding come out the same, or are refused, wherever they are cut. The first byte chooses
 * the coding, the second where. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "coding.h"
#include "seam.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { MOST = 256 * 1024 };

struct sum {
    uint64_t hash, bytes;
    int code;
};

static void add(struct sum *s, mg_slice bytes)
{
    for (uint32_t i = 0; i < bytes.len; i++)
        s->hash = s->hash * 1099511628211u + (uint8_t)bytes.ptr[i];
    s->bytes += bytes.len;
}

static int give(mg_coder *c, const char *ptr, uint32_t len, int how, struct sum *s)
{
    mg_coded out;
    int code;

    do {
        code = mg_coder_run(c, ptr, len, how, &out);
        assert(out.used <= len);
        assert(code != 1 || out.used || out.bytes.len); /* it goes on */
        if (code >= 0)
            add(s, out.bytes);
        ptr += out.used;
        len -= out.used;
    } while (code == 1);
    assert(code < 0 || len == 0);
    return code;
}

static struct sum decode(int coding, const char *ptr, uint32_t len, uint32_t step)
{
    mg_coder *c;
    struct sum s = { 0 };

    assert(mg_decoder_open(NULL, coding, MOST, 0, &c) == MG_OK);
    while (s.code == 0 && len) {
        uint32_t n = step < len ? step : len;
        s.code = give(c, ptr, n, MG_CODE_MORE, &s);
        ptr += n;
        len -= n;
    }
    if (s.code == 0)
        s.code = give(c, "", 0, MG_CODE_END, &s);
    mg_coding_end(NULL);
    assert(mg_coding_live() == 0);
    assert(s.bytes <= MOST + 64 * 1024);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 2)
        return 0;
    const char *bytes = (const char *)data + 2;
    uint32_t rest = (uint32_t)len - 2;
    struct sum whole = decode(data[0] % 4, bytes, rest, rest ? rest : 1);
    struct sum pieces = decode(data[0] % 4, bytes, rest, data[1] % 64 + 1u);

    assert((whole.code < 0) == (pieces.code < 0));
    assert(whole.code != 0 || (whole.bytes == pieces.bytes && whole.hash == pieces.hash));
    return 0;
}

/* A response head that was accepted is strict, does not change when it is written and read again, and asks for more at
 * every cut. */
#include <assert.h>
#include <stdlib.h>

#include "framing.h"
#include "head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct mg_head_limits limits = { .max_head_size = 4096, .max_fields = 64, .max_target_size = 1024 };

static int read_copy(const char *text, size_t len, struct mg_message *m, char **copy)
{
    const char *why;

    *copy = malloc(len + 1);
    assert(*copy);
    memcpy(*copy, text, len);
    return mg_head_response(*copy, len, &limits, m, &why);
}

static void check_parts(const struct mg_message *m, const char *text, int n)
{
    assert(m->status >= 100 && m->status <= 599 && (m->version == 10 || m->version == 11));
    assert(mg_text_is_field_value(m->reason));
    for (unsigned i = 0; i < m->count; i++) {
        const struct mg_field *f = &m->fields[i];

        assert(f->name.ptr >= text && f->value.ptr + f->value.len <= text + n);
        assert(mg_text_is_token(f->name) && mg_text_is_field_value(f->value));
        assert(mg_text_equal(f->value, mg_text_trim(f->value)));
    }
}

static void check_again(const struct mg_message *first, struct mg_arena *arena)
{
    struct mg_message kept, again;
    char *out, *copy;

    mg_message_keep(&kept, first, arena);
    size_t size = mg_head_response_size(&kept);
    out = malloc(size + 2);
    assert(out && mg_head_write_response(out, &kept) == out + size);
    memcpy(out + size, "\r\n", 2);
    int n = read_copy(out, size + 2, &again, &copy);

    if (size + 2 <= limits.max_head_size) {
        assert(n == (int)size + 2 && again.count == kept.count && again.status == kept.status);
        for (unsigned i = 0; i < kept.count; i++)
            assert(mg_text_equal(again.fields[i].name, kept.fields[i].name) &&
                   mg_text_equal(again.fields[i].value, kept.fields[i].value));
    }
    free(copy);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const mg_slice methods[] = { MG_LIT("GET"), MG_LIT("HEAD"), MG_LIT("CONNECT") };
    const char *text = (const char *)data, *why = NULL;
    struct mg_message m;
    char *copy;

    int n = mg_head_response(text, len, &limits, &m, &why);
    if (n < 0)
        assert(n == -502 && why && m.count == 0);
    if (n <= 0)
        return 0;
    assert((size_t)n <= len && mg_head_is_whole(text, (size_t)n, 0));
    check_parts(&m, text, n);
    for (unsigned i = 0; i < 3; i++) {
        struct mg_framing f;
        int status = mg_framing_of_response(&m, methods[i], &f, &why);

        assert(status == 0 || status == 502);
        if (status == 0 && m.status != 101 && (i == 1 || (i == 0 && (m.status == 204 || m.status == 304))))
            assert(f.kind == MG_BODY_NONE && f.whole);
    }

    struct mg_arena *arena = mg_arena_new();
    assert(arena);
    check_again(&m, arena);
    mg_arena_free(arena);

    size_t cut = (size_t)n * (data[len - 1] % 16) / 16;
    assert(read_copy(text, cut, &m, &copy) == 0);
    free(copy);
    assert(read_copy(text, (size_t)n, &m, &copy) == n);
    free(copy);
    return 0;
}

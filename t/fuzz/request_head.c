/* A request head that was accepted is strict, does not change when it is written and read again, and asks for more at
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
    return mg_head_request(*copy, len, &limits, m, &why);
}

static bool has_blank_or_control(mg_slice s, char first_allowed)
{
    for (uint32_t i = 0; i < s.len; i++)
        if ((uint8_t)s.ptr[i] < (uint8_t)first_allowed && s.ptr[i] != '\t')
            return true;
    return false;
}

static void check_parts(const struct mg_message *m, const char *text, int n)
{
    assert(mg_text_is_token(m->method) && m->target.len > 0 && !has_blank_or_control(m->target, '!'));
    assert(m->version == 10 || m->version == 11);
    for (unsigned i = 0; i < m->count; i++) {
        const struct mg_field *f = &m->fields[i];

        assert(f->name.ptr >= text && f->value.ptr + f->value.len <= text + n);
        assert(mg_text_is_token(f->name) && mg_text_is_field_value(f->value));
        assert(mg_text_equal(f->value, mg_text_trim(f->value)));
        assert(f->id == mg_field_id(f->name) && m->present & mg_field_bit(f->name, f->id));
    }
    assert(mg_message_has(m, MG_FIELD_HOST) || m->version == 10);
}

static void check_again(const struct mg_message *first, struct mg_arena *arena)
{
    struct mg_message kept, again;
    char *out, *copy;

    mg_message_keep(&kept, first, arena);
    size_t size = mg_head_request_size(&kept);
    out = malloc(size + 2);
    assert(out && mg_head_write_request(out, &kept) == out + size);
    memcpy(out + size, "\r\n", 2);
    int n = read_copy(out, size + 2, &again, &copy);

    /* "HTTP/1.1" is written always, so a Host is needed then; and the head may have grown over its limit. */
    if (mg_message_has(&kept, MG_FIELD_HOST) && size + 2 <= limits.max_head_size) {
        assert(n == (int)size + 2 && again.count == kept.count);
        assert(mg_text_equal(again.method, kept.method) && mg_text_equal(again.target, kept.target));
        for (unsigned i = 0; i < kept.count; i++)
            assert(mg_text_equal(again.fields[i].name, kept.fields[i].name) &&
                   mg_text_equal(again.fields[i].value, kept.fields[i].value));
    }
    free(copy);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const char *text = (const char *)data, *why = NULL;
    struct mg_message m;
    char *copy;

    int n = mg_head_request(text, len, &limits, &m, &why);
    if (n < 0) {
        assert(n == -400 || n == -414 || n == -431 || n == -501 || n == -505);
        assert(why && m.count == 0);
        return 0;
    }
    if (n == 0)
        return 0;
    assert((size_t)n <= len && mg_head_is_whole(text, (size_t)n, 0));
    check_parts(&m, text, n);

    struct mg_framing f;
    int status = mg_framing_of_request(&m, &f, &why);
    assert(status == 0 || status == 400 || status == 501);
    assert(status == 0 || mg_message_has(&m, MG_FIELD_TRANSFER_ENCODING) ||
           mg_message_has(&m, MG_FIELD_CONTENT_LENGTH));

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

/* A target that was accepted is its parts again, and its path is normal after one pass. The first byte chooses the
 * method. */
#include <assert.h>

#include "text.h"
#include "uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const mg_slice methods[] = { MG_LIT("GET"), MG_LIT("OPTIONS"), MG_LIT("CONNECT") };

static bool has_dot_segment(mg_slice path)
{
    for (uint32_t i = 0; i < path.len; i++) {
        uint32_t end = i + 1;

        if (path.ptr[i] != '/')
            continue;
        while (end < path.len && path.ptr[end] != '/')
            end++;
        mg_slice segment = { path.ptr + i + 1, end - i - 1 };
        if (mg_text_equal(segment, MG_LIT(".")) || mg_text_equal(segment, MG_LIT("..")))
            return true;
    }
    return false;
}

static void check_path(mg_slice path, struct mg_arena *arena)
{
    mg_slice normal, encoded, again;

    assert(mg_path_is_valid(path));
    assert(mg_path_normalise(path, arena, &normal) == MG_OK);
    assert(normal.len > 0 && normal.len <= path.len && normal.ptr[0] == '/' && !memchr(normal.ptr, '\0', normal.len));
    assert(!has_dot_segment(normal));
    assert(mg_path_encode(normal, arena, &encoded) == MG_OK && mg_path_is_valid(encoded));
    assert(mg_path_normalise(encoded, arena, &again) == MG_OK && mg_text_equal(again, normal));
}

static mg_slice together(const struct mg_target *t, char *to)
{
    char *at = to;

    if (t->form == MG_TARGET_ABSOLUTE)
        at = mempcpy(mempcpy(at, t->scheme.ptr, t->scheme.len), "://", 3);
    if (t->authority.len)
        at = mempcpy(at, t->authority.ptr, t->authority.len);
    if (t->path.len && !(t->form == MG_TARGET_ABSOLUTE && t->path.ptr[0] == '*'))
        at = mempcpy(at, t->path.ptr, t->path.len);
    if (t->query.ptr) {
        *at++ = '?';
        at = mempcpy(at, t->query.ptr, t->query.len);
    }
    return (mg_slice){ to, (uint32_t)(at - to) };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static char text[8192];
    struct mg_target t, again;

    if (len < 1 || len > 4096)
        return 0;
    mg_slice method = methods[data[0] % 3], target = { (const char *)data + 1, (uint32_t)len - 1 };
    if (mg_target_parse(method, target, &t) != MG_OK)
        return 0;

    assert((t.form == MG_TARGET_AUTHORITY) == (data[0] % 3 == 2));
    assert(t.form != MG_TARGET_ASTERISK || data[0] % 3 == 1);
    assert(!t.authority.len || mg_host_is_valid(t.authority));
    assert(mg_target_parse(method, together(&t, text), &again) == MG_OK && again.form == t.form);
    assert(mg_text_equal(again.path, t.path) && mg_text_equal(again.query, t.query));
    assert(mg_text_equal(again.authority, t.authority) && mg_text_equal(again.scheme, t.scheme));

    struct mg_arena *arena = mg_arena_new();
    assert(arena);
    /* What goes on is well formed, whatever came. */
    assert(mg_wild_encode(t.path, arena, &t.path) == MG_OK && mg_wild_encode(t.query, arena, &t.query) == MG_OK);
    assert(mg_query_is_valid(t.query));
    if (t.path.len && t.path.ptr[0] == '/')
        check_path(t.path, arena);
    mg_arena_free(arena);
    return 0;
}

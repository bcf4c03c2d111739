/* A host that was accepted is in lower case, without a trailing dot, and the same when it is read again. */
#include <assert.h>
#include <stdio.h>

#include "text.h"
#include "uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    mg_slice text = { (const char *)data, (uint32_t)len }, host, again;
    uint16_t port, again_port;
    static char together[5000];

    if (len > 4096)
        return 0;
    struct mg_arena *arena = mg_arena_new();
    assert(arena);
    enum mg_status status = mg_host_parse(text, arena, &host, &port);
    assert((status == MG_OK) == mg_host_is_valid(text));
    if (status == MG_OK) {
        assert(host.len > 0 && host.ptr[host.len - 1] != '.');
        for (uint32_t i = 0; i < host.len; i++)
            assert(mg_text_lower(host.ptr[i]) == host.ptr[i] && !memchr("/?#@\\ \t\r\n", host.ptr[i], 9));
        int n = snprintf(together, sizeof(together), port ? "%.*s:%u" : "%.*s", (int)host.len, host.ptr,
                         (unsigned)port);
        assert(mg_host_parse((mg_slice){ together, (uint32_t)n }, NULL, &again, &again_port) == MG_OK);
        assert(mg_text_equal(again, host) && again_port == port);
    }
    mg_arena_free(arena);
    return 0;
}

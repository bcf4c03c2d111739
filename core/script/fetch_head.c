/* fetch_head.c - the head of a request of the scripts' own. */
#include "fetch_head.h"

#include <string.h>

#include "arena.h"
#include "text.h"
#include "uri.h"

enum { HOST_MOST = 253 + 7 }; /* bytes of a name and its port */

static bool is_local(mg_slice host)
{
    return host.len > 5 && memcmp(host.ptr, "unix:", 5) == 0;
}

static enum mg_status set_host(struct mg_message *m, const struct mg_fetch_place *at)
{
    mg_slice host = at->host;
    char text[HOST_MOST + 2];
    size_t len = 0;
    bool is_ip6 = memchr(host.ptr, ':', host.len) && host.ptr[0] != '[';

    if (is_local(host))
        return mg_message_set(m, MG_LIT("Host"), MG_LIT("localhost"));
    if (host.len > HOST_MOST - 7)
        return MG_MALFORMED;
    if (is_ip6)
        text[len++] = '[';
    memcpy(text + len, host.ptr, host.len);
    len += host.len;
    if (is_ip6)
        text[len++] = ']';
    if (at->port != at->usual) {
        text[len++] = ':';
        char digits[20];
        size_t n = mg_text_put_number(digits, (uint64_t)at->port);
        memcpy(text + len, digits, n);
        len += n;
    }
    mg_slice value = { text, (uint32_t)len };
    return mg_host_is_valid(value) ? mg_message_set(m, MG_LIT("Host"), value) : MG_MALFORMED;
}

static bool is_target(mg_slice method, mg_slice target)
{
    struct mg_target parsed;

    return mg_text_is_token(method) && mg_target_parse(method, target, &parsed) == MG_OK &&
           (parsed.form == MG_TARGET_ORIGIN || parsed.form == MG_TARGET_ASTERISK);
}

enum mg_status mg_fetch_head_begin(struct mg_message *m, struct mg_arena *arena, const struct mg_fetch_place *at,
                                   mg_slice method, mg_slice target)
{
    if (!at->host.len || at->port < (is_local(at->host) ? 0 : 1) || at->port > 65535 || !is_target(method, target))
        return MG_MALFORMED;
    mg_message_init(m, arena);
    m->version = 11;
    m->method = mg_arena_copy(arena, method);
    m->target = mg_arena_copy(arena, target);
    if (mg_arena_failed(arena))
        return MG_NO_MEMORY;
    return set_host(m, at);
}

static enum mg_status set_default(struct mg_message *m, mg_slice name, mg_slice value)
{
    return mg_message_find(m, name) ? MG_OK : mg_message_set(m, name, value);
}

enum mg_status mg_fetch_head_finish(struct mg_message *m, uint32_t body_len)
{
    bool has_body = body_len || mg_method_is(m->method, "POST") || mg_method_is(m->method, "PUT") ||
                    mg_method_is(m->method, "PATCH");
    char digits[20];

    mg_message_strip_hop(m);
    mg_message_remove_known(m, MG_FIELD_CONTENT_LENGTH);
    mg_message_remove_known(m, MG_FIELD_EXPECT);
    mg_message_remove_known(m, MG_FIELD_TRAILER);
    enum mg_status status = set_default(m, MG_LIT("User-Agent"), MG_LIT("moongate"));
    if (status == MG_OK)
        status = set_default(m, MG_LIT("Accept"), MG_LIT("*/*"));
    if (status == MG_OK && has_body) {
        mg_slice length = { digits, (uint32_t)mg_text_put_number(digits, body_len) };
        status = mg_message_set(m, MG_LIT("Content-Length"), length);
    }
    return status;
}

/* A message keeps its fields in order, and known names are found by number. */
#include <assert.h>
#include <stdio.h>

#include "head.h"

static struct mg_arena *arena;
static struct mg_message m;

static bool is(mg_slice s, const char *text)
{
    return mg_text_equal(s, mg_slice_of(text));
}

static void add(const char *name, const char *value)
{
    assert(mg_message_add(&m, mg_slice_of(name), mg_slice_of(value)) == MG_OK);
}

/* The names in order, with blanks. */
static bool names_are(const struct mg_message *of, const char *expected)
{
    char text[1024], *to = text;

    for (unsigned i = 0; i < of->count; i++)
        to += snprintf(to, 64, "%s%.*s", i ? " " : "", (int)of->fields[i].name.len, of->fields[i].name.ptr);
    *to = '\0';
    return strcmp(text, expected) == 0;
}

static void parse(char *bytes)
{
    static const struct mg_head_limits limits = { .max_head_size = 65536, .max_fields = 1024, .max_target_size = 256 };
    const char *why;

    assert(mg_head_request(bytes, strlen(bytes), &limits, &m, &why) > 0);
}

static void every_known_name(void)
{
    for (unsigned id = 1; id < MG_FIELD_COUNT; id++) {
        mg_slice name = mg_field_name(id);
        char text[32];

        assert(name.len > 0 && mg_field_id(name) == id);
        for (uint32_t i = 0; i < name.len; i++)
            text[i] = i % 2 ? mg_text_lower(name.ptr[i]) : name.ptr[i];
        assert(mg_field_id((mg_slice){ text, name.len }) == id);
        for (uint32_t i = 0; i < name.len; i++) {
            memcpy(text, name.ptr, name.len);
            text[i] = '~';
            assert(mg_field_id((mg_slice){ text, name.len }) == MG_FIELD_OTHER);
        }
    }
    assert(mg_field_id(MG_LIT("")) == MG_FIELD_OTHER && mg_field_id(MG_LIT("User-Agent")) == MG_FIELD_OTHER);
}

static void keeping_survives_the_bytes(void)
{
    char bytes[] = "GET /a HTTP/1.1\r\nHost: a\r\nEmpty:\r\nX-One: two\r\n\r\n";
    struct mg_message kept;

    parse(bytes);
    mg_message_keep(&kept, &m, arena);
    memset(bytes, '#', sizeof(bytes));

    assert(is(kept.method, "GET") && is(kept.target, "/a") && kept.version == 11 && kept.arena == arena);
    assert(names_are(&kept, "Host Empty X-One"));
    assert(is(kept.fields[0].value, "a") && is(kept.fields[1].value, "") && is(kept.fields[2].value, "two"));
    assert(kept.present == m.present && kept.room > kept.count);

    mg_message_keep(&kept, &kept, arena);
    assert(names_are(&kept, "Host Empty X-One") && is(kept.fields[2].value, "two"));
}

static void a_refused_request_keeps_why(void)
{
    char bytes[] = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

    parse(bytes);
    m.status = 400;
    m.reason = MG_LIT("more than one length");
    mg_message_keep(&m, &m, arena);
    assert(m.status == 400 && is(m.reason, "more than one length") && is(m.target, "/a"));
}

static void forks_go_their_own_way(void)
{
    char bytes[] = "GET /a HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n";
    struct mg_message fork;

    parse(bytes);
    mg_message_keep(&m, &m, arena);
    mg_message_fork(&fork, &m, arena);
    assert(mg_message_set(&fork, MG_LIT("a"), MG_LIT("c")) == MG_OK);
    assert(mg_message_add(&fork, MG_LIT("B"), MG_LIT("d")) == MG_OK);
    assert(names_are(&m, "Host A") && is(m.fields[1].value, "b"));
    assert(names_are(&fork, "Host A B") && is(fork.fields[1].value, "c"));
    assert(fork.fields[0].name.ptr == m.fields[0].name.ptr);
}

static void setting(void)
{
    mg_message_init(&m, arena);
    add("A", "1");
    add("b", "2");
    add("a", "3");
    add("C", "4");
    assert(mg_message_set(&m, MG_LIT("a"), MG_LIT(" 5\t")) == MG_OK);
    assert(names_are(&m, "A b C") && is(m.fields[0].value, "5"));
    assert(mg_message_set(&m, MG_LIT("Content-Length"), MG_LIT("0")) == MG_OK);
    assert(names_are(&m, "A b C Content-Length") && mg_message_has(&m, MG_FIELD_CONTENT_LENGTH));
    assert(mg_message_set(&m, MG_LIT("b"), MG_LIT("")) == MG_OK && is(m.fields[1].value, ""));
}

static void only_valid_fields(void)
{
    mg_message_init(&m, arena);
    assert(mg_message_add(&m, MG_LIT(""), MG_LIT("a")) == MG_MALFORMED);
    assert(mg_message_add(&m, MG_LIT("a b"), MG_LIT("a")) == MG_MALFORMED);
    assert(mg_message_add(&m, MG_LIT("a:"), MG_LIT("a")) == MG_MALFORMED);
    assert(mg_message_add(&m, MG_LIT("a"), MG_LIT("b\r\nc: d")) == MG_MALFORMED);
    assert(mg_message_set(&m, MG_LIT("a"), MG_LIT("b\0c")) == MG_MALFORMED);
    assert(mg_message_set(&m, MG_LIT("a"), MG_LIT("\x7f")) == MG_MALFORMED);
    assert(m.count == 0);
    assert(mg_message_set(&m, MG_LIT("a"), MG_LIT("b")) == MG_OK);
    assert(mg_message_set(&m, MG_LIT("a"), MG_LIT("\n")) == MG_MALFORMED && is(m.fields[0].value, "b"));

    for (int i = 1; i < MG_FIELDS_MAX; i++)
        add("x", "y");
    assert(mg_message_add(&m, MG_LIT("x"), MG_LIT("y")) == MG_FULL && m.count == MG_FIELDS_MAX);
    assert(mg_message_push(&m, MG_LIT("x"), MG_LIT("y"), 0) == MG_FULL);
}

static void looking(void)
{
    mg_slice value;

    mg_message_init(&m, arena);
    add("Cookie", "a=1");
    add("Accept", "x");
    add("cookie", "b=2");
    add("accept", "");
    add("ACCEPT", "z");
    add("Via", "1.1 a");
    assert(mg_message_get(&m, MG_LIT("via"), &value) == MG_OK && is(value, "1.1 a"));
    assert(mg_message_get(&m, MG_LIT("COOKIE"), &value) == MG_OK && is(value, "a=1; b=2"));
    assert(mg_message_get(&m, MG_LIT("accept"), &value) == MG_OK && is(value, "x, , z"));
    assert(mg_message_get(&m, MG_LIT("none"), &value) == MG_ABSENT);
    assert(mg_message_get(&m, MG_LIT("Host"), &value) == MG_ABSENT);
    assert(mg_message_find(&m, MG_LIT("ACCEPT")) == &m.fields[1] && !mg_message_find(&m, MG_LIT("accep")));
    assert(mg_message_known(&m, MG_FIELD_VIA) == &m.fields[5] && !mg_message_known(&m, MG_FIELD_HOST));
}

static void removing(void)
{
    mg_message_init(&m, arena);
    add("Host", "a");
    add("A", "1");
    add("Via", "b");
    add("a", "2");
    add("TE", "trailers");
    assert(mg_message_remove(&m, MG_LIT("a")) == 2 && names_are(&m, "Host Via TE"));
    assert(mg_message_remove(&m, MG_LIT("a")) == 0);
    assert(mg_message_remove_known(&m, MG_FIELD_VIA) == 1 && !mg_message_has(&m, MG_FIELD_VIA));
    assert(mg_message_remove_known(&m, MG_FIELD_VIA) == 0);
    mg_message_remove_mask(&m, 1 << MG_FIELD_HOST | 1 << MG_FIELD_TE);
    assert(m.count == 0);
}

static void hop_by_hop(void)
{
    mg_message_init(&m, arena);
    add("X-A", "1");
    add("Connection", "close, X-A, host, \"x, y\", date");
    add("Host", "a");
    add("Keep-Alive", "timeout=5");
    add("X-B", "2");
    add("connection", ", x-c,, Content-Length, forwarded");
    add("Content-Length", "0");
    add("X-C", "3");
    add("TE", "trailers");
    add("Upgrade", "websocket");
    add("Transfer-Encoding", "chunked");
    add("Proxy-Connection", "close");
    add("HTTP2-Settings", "a");
    add("Forwarded", "for=x");
    add("Trailer", "x");
    mg_message_strip_hop(&m);
    assert(names_are(&m, "Host X-B Content-Length Trailer"));
    assert(!mg_message_has(&m, MG_FIELD_CONNECTION) && mg_message_has(&m, MG_FIELD_HOST));
}

static void many_connection_options_cost_little(void)
{
    static char options[60000];

    mg_message_init(&m, arena);
    for (size_t i = 0; i + 2 < sizeof(options); i += 2)
        memcpy(options + i, "a,", 2);
    for (int i = 0; i < 100; i++)
        add("b", "c");
    add("Connection", options);
    mg_message_strip_hop(&m);
    assert(m.count == 100);
}

static void methods_and_reasons(void)
{
    assert(is(mg_reason(100), "Continue") && is(mg_reason(404), "Not Found") &&
           is(mg_reason(511), "Network Authentication Required"));
    assert(mg_reason(299).len == 0 && mg_reason(0).len == 0 && mg_reason(999).len == 0);
    assert(mg_method_is(MG_LIT("GET"), "GET") && !mg_method_is(MG_LIT("GET"), "GETS"));
    assert(!mg_method_is(MG_LIT("GETS"), "GET") && !mg_method_is(MG_LIT("get"), "GET") &&
           !mg_method_is(MG_LIT(""), "GET"));
    const char *const yes[] = { "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE" };
    for (unsigned i = 0; i < 6; i++)
        assert(mg_method_is_idempotent(mg_slice_of(yes[i])));
    assert(!mg_method_is_idempotent(MG_LIT("POST")) && !mg_method_is_idempotent(MG_LIT("PATCH")));
    assert(!mg_method_is_idempotent(MG_LIT("get")) && !mg_method_is_idempotent(MG_LIT("CONNECT")));
}

/* clang-format off */
#define PROMISE(function, sentence) (function(), puts("ok " sentence))
/* clang-format on */

int main(void)
{
    arena = mg_arena_new();
    assert(arena);
    PROMISE(every_known_name, "every known name has its number, in any case, and no other name has");
    PROMISE(keeping_survives_the_bytes, "a kept message does not need the bytes it was read from");
    PROMISE(a_refused_request_keeps_why, "a refused request keeps why");
    PROMISE(forks_go_their_own_way, "a fork shares bytes but not changes");
    PROMISE(setting, "set replaces the first field and removes the others");
    PROMISE(only_valid_fields, "no field is added that could not be sent, nor more than there may be");
    PROMISE(looking, "fields are found in any case, and joined when repeated");
    PROMISE(removing, "fields are removed by name, number and mask");
    PROMISE(hop_by_hop, "what belongs to the connection goes, what frames or routes stays");
    PROMISE(many_connection_options_cost_little, "a field of thousands of connection options is read in one go");
    PROMISE(methods_and_reasons, "methods and statuses are known by the letter");
    mg_arena_free(arena);
    return 0;
}

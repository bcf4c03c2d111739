/* Targets and hosts are read as RFC 3986 and RFC 9112 3.2 have them, or refused. */
#include <assert.h>
#include <stdio.h>

#include "text.h"
#include "uri.h"

static struct mg_arena *arena;
static struct mg_target t;

static bool is(mg_slice s, const char *text)
{
    return mg_text_equal(s, mg_slice_of(text));
}

static bool parses(const char *method, const char *target)
{
    return mg_target_parse(mg_slice_of(method), mg_slice_of(target), &t) == MG_OK;
}

static void origin_form(void)
{
    assert(parses("GET", "/") && t.form == MG_TARGET_ORIGIN && is(t.path, "/") && !t.query.ptr);
    assert(parses("GET", "/a/%2e?b=c?/d") && is(t.path, "/a/%2e") && is(t.query, "b=c?/d"));
    assert(parses("GET", "/?") && is(t.path, "/") && t.query.ptr && t.query.len == 0);
    assert(parses("GET", "//a//") && is(t.path, "//a//"));
    assert(parses("GET", "/-._~!$&'()*+,;=:@%aF"));

    /* clang-format off */
    static const char *const bad[] = {
        "",     "a",     "?",   "/#",   "/a#b",  "/a?b#c", "/%",    "/%a", "/%ag", "/%%41",
        "/a?%", "/a?%4", "/\"", "/<",   "/>",    "/\\",    "/\x80", "/a b", "/\x7f", "*",
        "*a",   "/a?\x01",
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert(!parses("GET", bad[i]));
}

static void what_browsers_send_raw_goes_on_encoded(void)
{
    mg_slice out;

    assert(parses("GET", "/a[1]?b[]={c}|%5e^`") && t.wild && is(t.path, "/a[1]"));
    assert(mg_wild_encode(t.path, arena, &out) == MG_OK && is(out, "/a%5B1%5D"));
    assert(mg_wild_encode(t.query, arena, &out) == MG_OK && is(out, "b%5B%5D=%7Bc%7D%7C%5e%5E%60"));
    assert(parses("GET", "/a?b") && !t.wild);
    assert(!mg_path_is_valid(MG_LIT("/a[1]")) && !mg_query_is_valid(MG_LIT("b[]")));
}

static void absolute_form(void)
{
    assert(parses("GET", "http://a.b:80/c?d") && t.form == MG_TARGET_ABSOLUTE && is(t.scheme, "http"));
    assert(is(t.authority, "a.b:80") && is(t.path, "/c") && is(t.query, "d"));
    assert(parses("GET", "HTTPS://[::1]") && is(t.scheme, "https") && is(t.authority, "[::1]") && is(t.path, "/"));
    assert(parses("GET", "http://a?b") && is(t.authority, "a") && is(t.path, "/") && is(t.query, "b"));
    assert(parses("OPTIONS", "http://a") && is(t.path, "*") && t.form == MG_TARGET_ABSOLUTE);
    assert(parses("OPTIONS", "http://a/") && is(t.path, "/"));

    /* clang-format off */
    static const char *const bad[] = {
        "http:",       "http:/a",       "http://",      "http:///a",       "http://?a",   "ftp://a/",
        "http://a@b/", "http://a:b@c/", "http://a:x/",  "http://a:65536/", "http://a b/", "http://a/#b",
        "http://a#b",  "https//a",      "http://[::1/", "http://:80/",
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert(!parses("GET", bad[i]));
}

static void other_forms(void)
{
    assert(parses("CONNECT", "a.b:443") && t.form == MG_TARGET_AUTHORITY && is(t.authority, "a.b:443"));
    assert(parses("CONNECT", "[::1]:1"));
    assert(!parses("CONNECT", "a.b") && !parses("CONNECT", "a:") && !parses("CONNECT", "a:0") &&
           !parses("CONNECT", ":1"));
    assert(!parses("CONNECT", "/") && !parses("CONNECT", "http://a:80/") && !parses("CONNECT", "a:1/") &&
           !parses("CONNECT", "u@a:1"));
    assert(!parses("GET", "a.b:443"));
    assert(parses("OPTIONS", "*") && t.form == MG_TARGET_ASTERISK && is(t.path, "*"));
    assert(!parses("options", "*") && !parses("OPTIONS", "*/") && !parses("OPTIONS", "*?a"));
}

static bool host_gives(const char *text, const char *expected, unsigned expected_port)
{
    mg_slice host;
    uint16_t port;

    return mg_host_parse(mg_slice_of(text), arena, &host, &port) == MG_OK && is(host, expected) &&
           port == expected_port && mg_host_is_valid(mg_slice_of(text));
}

static void hosts(void)
{
    assert(host_gives("example.com", "example.com", 0));
    assert(host_gives("EXAMPLE.com.:8080", "example.com", 8080));
    assert(host_gives("a:", "a", 0) && host_gives("a:00080", "a", 80) && host_gives("a:65535", "a", 65535));
    assert(host_gives("127.0.0.1:1", "127.0.0.1", 1));
    assert(host_gives("[::1]", "[::1]", 0) && host_gives("[2001:DB8::1]:80", "[2001:db8::1]", 80));
    assert(host_gives("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", 0) && host_gives("[v1.a:b]", "[v1.a:b]", 0));
    assert(host_gives("a_b-c", "a_b-c", 0) && host_gives("%41b", "%41b", 0));

    static const char *const bad[] = {
        "",
        ":",
        ":80",
        ".",
        ".:80",
        "a..",
        "..:1",
        "a:b",
        "a:80:80",
        "a:65536",
        "a:-1",
        "a: 80",
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a@b",
        "a,b c",
        "[::1",
        "::1",
        "[::1]a",
        "[]",
        "[1]",
        "[::1%25eth0]",
        "[::g]",
        "[1:2:3:4:5:6:7:8:9]",
        "[::1.2.3]",
        "[v.a]",
        "[v1.]",
        "[v1]",
        "[vg.a]",
        "a\\b",
        "a\"",
        "<a>",
        "a%",
        "a%4",
        "a%zz",
        "\xc3\xa4",
        "a\x01",
        "a[b]",
        "a]",
        "a\t",
        "[::1]80",
        "[[::1]]",
        "a:99999999999999999999",
        "[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]",
    };
    mg_slice host;
    uint16_t port;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert(!mg_host_is_valid(mg_slice_of(bad[i])));
        assert(mg_host_parse(mg_slice_of(bad[i]), arena, &host, &port) == MG_MALFORMED);
    }
    mg_slice same = MG_LIT("abc:80");
    assert(mg_host_parse(same, NULL, &host, &port) == MG_OK && host.ptr == same.ptr);
}

static bool normalises(const char *path, const char *expected)
{
    mg_slice out;

    return mg_path_normalise(mg_slice_of(path), arena, &out) == MG_OK && is(out, expected);
}

static void paths_are_normalised(void)
{
    assert(normalises("/", "/") && normalises("/a/b.c", "/a/b.c") && normalises("*", "*"));
    assert(normalises("/%61%2Fb%2fc%00", "/a%2Fb%2Fc%00"));
    assert(normalises("/a/./b", "/a/b") && normalises("/a/../b", "/b") && normalises("/a/b/..", "/a/"));
    assert(normalises("/.", "/") && normalises("/..", "/") && normalises("/../../a", "/a") &&
           normalises("/a/.", "/a/"));
    assert(normalises("/a/b/c/../../d", "/a/d") && normalises("/a/..", "/") && normalises("/a/../", "/"));
    assert(normalises("/%2e%2E/a", "/a") && normalises("/a/%2e%2e%2fb", "/a/..%2Fb") && normalises("/a/.%2e", "/"));
    assert(normalises("/a//../b", "/a/b") && normalises("//..//a", "//a") &&
           normalises("/.../..a/a..", "/.../..a/a.."));
    assert(normalises("/.well-known/x", "/.well-known/x") && normalises("/%25%20%3F", "/% ?") &&
           normalises("/a%2e", "/a."));

    mg_slice out, same = MG_LIT("/a/b.c/d");
    assert(mg_path_normalise(same, NULL, &out) == MG_OK && out.ptr == same.ptr);
    assert(mg_path_normalise(MG_LIT("a"), arena, &out) == MG_MALFORMED);
    assert(mg_path_normalise(MG_LIT(""), arena, &out) == MG_MALFORMED);
    assert(mg_path_normalise(MG_LIT("/%4"), arena, &out) == MG_MALFORMED);
}

static void paths_are_encoded(void)
{
    mg_slice out, same = MG_LIT("/a/b;c=d@e:f");

    assert(mg_path_encode(same, NULL, &out) == MG_OK && out.ptr == same.ptr);
    assert(mg_path_encode(MG_LIT("/a b?%#\xc3\xa4\n"), arena, &out) == MG_OK && is(out, "/a%20b%3F%25%23%C3%A4%0A"));
    assert(mg_path_is_valid(out));
    assert(mg_path_is_valid(MG_LIT("/a%20")) && !mg_path_is_valid(MG_LIT("")) && !mg_path_is_valid(MG_LIT("a")));
    assert(!mg_path_is_valid(MG_LIT("/a?")) && !mg_path_is_valid(MG_LIT("/ ")) && !mg_path_is_valid(MG_LIT("/%2")));
    assert(mg_query_is_valid(MG_LIT("")) && mg_query_is_valid(MG_LIT("a?/b")) && !mg_query_is_valid(MG_LIT("a#")));
}

/* clang-format off */
#define PROMISE(function, sentence) (function(), puts("ok " sentence))
/* clang-format on */

int main(void)
{
    arena = mg_arena_new();
    assert(arena);
    PROMISE(origin_form, "an origin form is a path and a query to the letter");
    PROMISE(what_browsers_send_raw_goes_on_encoded, "what browsers send raw is taken and goes on encoded");
    PROMISE(absolute_form, "an absolute form has a known scheme and a host without userinfo");
    PROMISE(other_forms, "the authority form is for CONNECT and the asterisk for OPTIONS");
    PROMISE(hosts, "a host is a name, an address or a literal, with a port in range");
    PROMISE(paths_are_normalised, "a path is decoded once, without dots, and never climbs above the root");
    PROMISE(paths_are_encoded, "what may not stand in a path is encoded");
    mg_arena_free(arena);
    return 0;
}

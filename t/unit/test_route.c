/* The router finds what the rules of its header say, among thousands of routes. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "route.h"
#include "text.h"

static struct mg_router *router;
static struct mg_route_match match;
static const char *problem;

static void begin(void)
{
    mg_router_free(router);
    router = mg_router_new();
    assert(router);
}

static enum mg_status add_for(const char *pattern, const char *methods, int number)
{
    problem = NULL;
    return mg_router_add(router, mg_slice_of(pattern), mg_slice_of(methods), number, &problem);
}

static void add(const char *pattern, int number)
{
    assert(add_for(pattern, "", number) == MG_OK);
}

static void ready(void)
{
    assert(mg_router_compile(router) == MG_OK);
}

static int find_for(const char *method, const char *host, const char *path)
{
    enum mg_status status = mg_router_find(router, mg_slice_of(host), mg_slice_of(path), mg_slice_of(method), &match,
                                           NULL, 0, NULL);

    return status == MG_OK ? match.route : (int)status;
}

static int find(const char *host, const char *path)
{
    return find_for("GET", host, path);
}

/* The params of the last match, with "|" between them. */
static bool params_are(const char *expected)
{
    char text[512], *to = text;

    for (unsigned i = 0; i < match.param_count; i++)
        to += snprintf(to, 64, "%s%.*s", i ? "|" : "", (int)match.params[i].len, match.params[i].ptr);
    *to = '\0';
    return strcmp(text, expected) == 0;
}

static void the_most_literal_path_wins(void)
{
    begin();
    add("/*", 0);
    add("/:a", 1);
    add("/a", 2);
    add("/a/*", 3);
    add("/a/:b/c", 4);
    add("/a/b/:c", 5);
    add("/:a/b/d", 6);
    add("/", 7);
    ready();
    assert(find("x", "/") == 7 && find("x", "/a") == 2 && find("x", "/b") == 1 && params_are("b"));
    assert(find("x", "/a/") == 3 && params_are(""));
    assert(find("x", "/a/b/c") == 5 && params_are("c"));
    assert(find("x", "/a/x/c") == 4 && params_are("x"));
    assert(find("x", "/a/b") == 3 && params_are("b"));
    assert(find("x", "/x/b/d") == 6 && params_are("x"));
    assert(find("x", "/x/b/e") == 0 && params_are("x/b/e"));
    assert(find("x", "/a/b/c/d") == 3 && params_are("b/c/d"));
    assert(find("x", "/b/") == 0 && params_are("b/"));
}

static void a_star_takes_the_rest(void)
{
    begin();
    add("/users/*", 0);
    ready();
    assert(find("x", "/users/a/b") == 0 && params_are("a/b"));
    assert(find("x", "/users/") == 0 && match.param_count == 1 && params_are(""));
    assert(find("x", "/users") == 0 && match.param_count == 1 && params_are(""));
    assert(find("x", "/usersx") == MG_ABSENT && find("x", "/") == MG_ABSENT && find("x", "") == MG_ABSENT);
    add("/users", 1);
    ready();
    assert(find("x", "/users") == 1 && match.param_count == 0 && find("x", "/users/") == 0);
}

static void a_param_is_never_empty(void)
{
    begin();
    add("/:a/x", 0);
    add("/a//:b", 1);
    ready();
    assert(find("x", "//x") == MG_ABSENT && find("x", "/y/x") == 0);
    assert(find("x", "/a//c") == 1 && params_are("c") && find("x", "/a//") == MG_ABSENT &&
           find("x", "/a/c") == MG_ABSENT);
}

static void hosts_before_paths(void)
{
    begin();
    add("/*", 0);
    add("*.Example.com/*", 1);
    add("*.b.example.com/*", 2);
    add("API.example.com./only", 3);
    add("/other", 4);
    add("[::1]/*", 5);
    ready();
    assert(find("api.example.com", "/only") == 3);
    assert(find("api.example.com", "/other") == 1);
    assert(find("example.com", "/x") == 0 && find("example.com", "/other") == 4);
    assert(find("a.b.example.com", "/") == 2 && find("b.example.com", "/") == 1 && find("x.a.b.example.com", "/") == 2);
    assert(find(".example.com", "/") == 0 && find("xexample.com", "/") == 0 && find("", "/") == 0);
    assert(find("[::1]", "/") == 5);
}

static void methods(void)
{
    char allow[64];
    size_t len;

    begin();
    assert(add_for("/a", "GET, HEAD", 0) == MG_OK);
    assert(add_for("/a", "POST,PURGE", 1) == MG_OK);
    assert(add_for("/:x", "DELETE", 2) == MG_OK);
    assert(add_for("/b", "", 3) == MG_OK);
    assert(add_for("/b", "CONNECT", 4) == MG_OK);
    ready();
    assert(find_for("GET", "", "/a") == 0 && find_for("POST", "", "/a") == 1 && find_for("PURGE", "", "/a") == 1);
    assert(find_for("DELETE", "", "/a") == 2 && params_are("a"));
    assert(find_for("PUT", "", "/a") == MG_REFUSED && find_for("get", "", "/a") == MG_REFUSED);
    assert(find_for("PUT", "", "/x/y") == MG_ABSENT);
    assert(mg_router_find(router, MG_LIT(""), MG_LIT("/a"), MG_LIT("PUT"), &match, allow, sizeof(allow), &len) ==
           MG_REFUSED);
    assert(mg_text_equal((mg_slice){ allow, (uint32_t)len }, MG_LIT("GET, HEAD, POST, DELETE, PURGE")));
    assert(mg_router_find(router, MG_LIT(""), MG_LIT("/a"), MG_LIT("PUT"), &match, allow, 10, &len) == MG_REFUSED);
    assert(mg_text_equal((mg_slice){ allow, (uint32_t)len }, MG_LIT("GET, HEAD")));
    assert(find_for("ANY", "", "/b") == 3 && find_for("CONNECT", "", "/b") == 4 &&
           find_for("TRACE", "", "/b") == MG_REFUSED);
}

static void the_asterisk(void)
{
    begin();
    add("/a", 0);
    ready();
    assert(find_for("OPTIONS", "x", "*") == MG_ABSENT);
    add("/*", 1);
    ready();
    assert(find_for("OPTIONS", "x", "*") == 1 && params_are(""));
    add("*", 2);
    ready();
    assert(find_for("OPTIONS", "x", "*") == 2 && find("x", "/*") == 1 && find("x", "/b") == 1);
}

static void bad_patterns(void)
{
    /* clang-format off */
    static const char *const bad[] = {
        "",     "example.com", "users", "a:80/", "*/x",   "*.com.*/x", "a*b.com/",  "*.*.com/",
        "*./x", "a b/",        "/a*",   "/*/a",  "/a/**", "/:",        "/:a-b",     "/:a/:a",
        "/./a", "/a/..",       "/a?b",  "/a#b",  "**",    "[::1/x",    "http://a/", "u@a/",
    };
    /* clang-format on */

    begin();
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert(add_for(bad[i], "", 0) == MG_MALFORMED);
        assert(problem && (bad[i][0] == '\0' || strstr(problem, bad[i])));
    }
    assert(add_for("example.com", "", 0) == MG_MALFORMED && strstr(problem, "\"example.com/*\""));
    assert(add_for("/a", "G T", 0) == MG_MALFORMED && strstr(problem, "G T"));
    assert(add_for("/a", "get", 0) == MG_MALFORMED && strstr(problem, "\"GET\""));

    char many[512] = "", *to = many;
    for (int i = 0; i < 17; i++)
        to += snprintf(to, 16, "/:p%d", i);
    assert(add_for(many, "", 0) == MG_MALFORMED);
    to[-5] = '\0';
    assert(add_for(many, "", 0) == MG_OK);
    char deep[1024];
    for (int i = 0; i < 129; i++)
        memcpy(deep + 2 * i, "/a", 3);
    assert(add_for(deep, "", 0) == MG_MALFORMED);
    deep[256] = '\0';
    assert(add_for(deep, "", 0) == MG_OK);
}

static void the_same_pattern_twice(void)
{
    begin();
    add("/a/:x", 0);
    assert(add_for("/a/:y", "", 1) == MG_MALFORMED && strstr(problem, "/a/:y"));
    assert(add_for("/a/:y", "GET", 1) == MG_MALFORMED && add_for("/a/:y", "PURGE", 1) == MG_MALFORMED);
    assert(add_for("/a/:y", "TRACE", 1) == MG_OK);
    assert(add_for("/b/*", "PURGE,GET", 2) == MG_OK && add_for("/b/*", "PURGE", 3) == MG_MALFORMED);
    assert(add_for("/b/*", "BAN", 3) == MG_OK && add_for("/b/*", "", 4) == MG_MALFORMED);
    assert(add_for("a.b/x", "", 5) == MG_OK && add_for("A.B/x", "", 6) == MG_MALFORMED);
    ready();
    assert(find("", "/a/1") == 0 && find_for("BAN", "", "/b/") == 3);
}

static void names_and_order(void)
{
    static const char *const patterns[] = { "/*", "/:a/*", "/x", "*.a/y", "*.b.a/y", "b/z", "a/:one/:two/*", "*" };
    static const int order[] = { 5, 6, 4, 3, 7, 2, 1, 0 };
    mg_slice names[MG_ROUTE_PARAMS_MAX];

    begin();
    for (int i = 0; i < 8; i++)
        add(patterns[i], i);
    ready();
    for (int i = 0; i < 8; i++)
        assert(mg_router_in_order(router, i) == order[i]);
    assert(mg_router_in_order(router, 8) == MG_ABSENT && mg_router_in_order(router, -1) == MG_ABSENT);
    assert(mg_router_param_names(router, 6, names) == 3);
    assert(mg_text_equal(names[0], MG_LIT("one")) && mg_text_equal(names[1], MG_LIT("two")) &&
           mg_text_equal(names[2], MG_LIT("*")));
    assert(mg_router_param_names(router, 2, names) == 0 && mg_router_param_names(router, 99, names) == 0);
}

/* ---- Against a naive reading of the rules. ---- */

enum { PATTERNS = 12000, SEARCHES = 3000 };

static uint32_t seed = 12345;
static char patterns[PATTERNS][64];
static int pattern_count;

static uint32_t draw(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static int draw_path(char *to, size_t cap, bool pattern)
{
    static const char *const words[] = { "a", "b", "users", "items", "v1", "x-y", "", "list", "c" };
    size_t n = 0;

    for (uint32_t segments = 1 + draw(5); segments; segments--) {
        uint32_t kind = pattern ? draw(10) : 0;

        if (kind == 9 && segments == 1)
            n += (size_t)snprintf(to + n, cap - n, "/*");
        else if (kind >= 7)
            n += (size_t)snprintf(to + n, cap - n, "/:p%u", segments);
        else
            n += (size_t)snprintf(to + n, cap - n, "/%s", words[draw(9)]);
    }
    return (int)n;
}

static const char *draw_host(bool pattern)
{
    /* clang-format off */
    static const char *const hosts[] = { "",      "a.com",   "b.com",     "x.a.com", "y.x.a.com", "z.b.com",
                                         "c.org", "*.a.com", "*.x.a.com", "*.com",   "*.b.com" };
    /* clang-format on */

    return hosts[draw(pattern ? 11 : 7)];
}

/* How well the pattern's path fits, segment by segment: "L" literal, "P" param, "S" star, "E" both end; "" is no fit. A
 * greater string is the better fit, once the letters are turned into ranks. */
static void rank_path(const char *p, const char *path, char *rank)
{
    char *to = rank;

    for (;;) {
        if (*p == '\0' && *path == '\0') {
            *to++ = '4';
            *to = '\0';
            return;
        }
        if (strcmp(p, "/*") == 0) {
            *to++ = '1';
            *to = '\0';
            return;
        }
        if (*p != '/' || *path != '/')
            break;
        size_t pl = strcspn(p + 1, "/"), sl = strcspn(path + 1, "/");
        if (p[1] == ':') {
            if (sl == 0)
                break;
            *to++ = '2';
        } else {
            if (pl != sl || memcmp(p + 1, path + 1, pl) != 0)
                break;
            *to++ = '3';
        }
        p += 1 + pl;
        path += 1 + sl;
    }
    *rank = '\0';
}

static void rank(const char *pattern, const char *host, const char *path, char *out)
{
    size_t len = strcspn(pattern, "/"), host_len = strlen(host);

    *out = '\0';
    if (len == 0)
        memcpy(out, "a00", 4);
    else if (pattern[0] == '*' && host_len > len - 1 && memcmp(host + host_len - (len - 1), pattern + 1, len - 1) == 0)
        snprintf(out, 8, "b%02u", (unsigned)len % 100);
    else if (len == host_len && memcmp(pattern, host, len) == 0)
        memcpy(out, "c00", 4);
    else
        return;
    rank_path(pattern + len, path, out + 3);
    if (out[3] == '\0')
        *out = '\0';
}

static int find_naively(const char *host, const char *path)
{
    char best[64] = "", this[64];
    int found = MG_ABSENT;

    for (int i = 0; i < pattern_count; i++) {
        rank(patterns[i], host, path, this);
        if (strcmp(this, best) > 0) {
            memcpy(best, this, sizeof(best));
            found = i;
        }
    }
    return found;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void thousands_of_routes(void)
{
    char path[64];
    int hits = 0;

    begin();
    pattern_count = 0;
    for (int tries = 0; pattern_count < PATTERNS && tries < 10 * PATTERNS; tries++) {
        char *p = patterns[pattern_count];
        int n = snprintf(p, 16, "%s", draw_host(true));

        draw_path(p + n, sizeof(patterns[0]) - (size_t)n, true);
        if (add_for(p, "", pattern_count) == MG_OK)
            pattern_count++;
    }
    assert(pattern_count >= 10000);
    ready();
    for (int i = 0; i < SEARCHES; i++) {
        const char *host = draw_host(false);

        draw_path(path, sizeof(path), false);
        int expected = find_naively(host, path);
        int found = find(host, path);
        assert(found == expected);
        hits += found >= 0;
    }
    assert(hits > SEARCHES / 10);

    double began = now();
    for (int i = 0; i < 100000; i++)
        hits += find("y.x.a.com", "/users/items/v1/list") >= 0;
    printf("%d routes, a search takes %.0f ns\n", pattern_count, (now() - began) * 1e4);
}

static void a_long_path_costs_no_stack(void)
{
    static char path[60001], host[60001];

    begin();
    add("/*", 0);
    add("/:a/:b/c", 1);
    add("*.example.com/", 2);
    ready();
    for (size_t i = 0; i < sizeof(path) - 1; i += 2) {
        memcpy(path + i, "/a", 2);
        memcpy(host + i, "a.", 2);
    }
    assert(find(host, path) == 0 && match.params[0].len == sizeof(path) - 2);
}

/* clang-format off */
#define PROMISE(function, sentence) (function(), puts("ok " sentence))
/* clang-format on */

int main(void)
{
    PROMISE(the_most_literal_path_wins, "the more literal path wins, segment by segment, with all ways tried");
    PROMISE(a_star_takes_the_rest, "a star takes the rest, which may be empty");
    PROMISE(a_param_is_never_empty, "a parameter is never empty");
    PROMISE(hosts_before_paths, "an exact host beats a wildcard beats none, and a host without a match gives way");
    PROMISE(methods, "a route for other methods is passed over, and told in the end");
    PROMISE(the_asterisk, "OPTIONS * meets only the patterns that cover it");
    PROMISE(bad_patterns, "a bad pattern is named, with what to write instead");
    PROMISE(the_same_pattern_twice, "a pattern may stand twice only for different methods");
    PROMISE(names_and_order, "parameters have their names and routes their order");
    PROMISE(thousands_of_routes, "among 10,000 routes the same is found as by reading them all");
    PROMISE(a_long_path_costs_no_stack, "paths and hosts of any length are walked no deeper than the patterns");
    mg_router_free(router);
    return 0;
}

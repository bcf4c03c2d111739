/* Heads are read strictly, whole or in parts, and written to the letter. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "head.h"

static const struct mg_head_limits limits = { .max_head_size = 4096, .max_fields = 16, .max_target_size = 256 };
static struct mg_message m;
static const char *why;

/* The bytes go into a block of their very size, so that a sanitizer sees a read behind them. */
static int read_exactly(int (*read)(const char *, size_t, const struct mg_head_limits *, struct mg_message *,
                                    const char **),
                        const char *text, size_t len)
{
    static char *copy; /* until the next one: m points into it */

    free(copy);
    copy = malloc(len ? len : 1);
    assert(copy);
    memcpy(copy, text, len);
    return read(copy, len, &limits, &m, &why);
}

static int request(const char *text)
{
    why = NULL;
    return read_exactly(mg_head_request, text, strlen(text));
}

static int response(const char *text)
{
    why = NULL;
    return read_exactly(mg_head_response, text, strlen(text));
}

/* A request that is right but for its fields. */
static int fields(const char *lines)
{
    char text[1024];

    snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", lines);
    return request(text);
}

static bool is(mg_slice s, const char *text)
{
    return mg_text_equal(s, mg_slice_of(text));
}

static void parts_of_a_request(void)
{
    static const char text[] = "POST /a/b?c=d HTTP/1.1\r\nHost: example.com:81\r\nX-Empty:\r\nx-two:  a  b\t \r\n"
                               "Content-Length: 5\r\nX-Two: \x80\xff\r\n\r\nhello";
    int n = mg_head_request(text, sizeof(text) - 1, &limits, &m, &why);

    assert(n == (int)sizeof(text) - 1 - 5);
    assert(is(m.method, "POST") && is(m.target, "/a/b?c=d") && m.version == 11 && m.status == 0);
    assert(m.count == 5 && !m.arena);
    assert(is(m.fields[0].name, "Host") && is(m.fields[0].value, "example.com:81") && m.fields[0].id == MG_FIELD_HOST);
    assert(is(m.fields[1].name, "X-Empty") && is(m.fields[1].value, "") && m.fields[1].id == MG_FIELD_OTHER);
    assert(is(m.fields[2].name, "x-two") && is(m.fields[2].value, "a  b"));
    assert(m.fields[3].id == MG_FIELD_CONTENT_LENGTH && mg_message_has(&m, MG_FIELD_CONTENT_LENGTH));
    assert(is(m.fields[4].name, "X-Two") && is(m.fields[4].value, "\x80\xff"));
    assert(!mg_message_has(&m, MG_FIELD_CONNECTION));
}

static void every_beginning_asks_for_more(void)
{
    static const char text[] =
        "\r\nGET /x HTTP/1.1\r\nHost: a\r\nEmpty:\r\nTransfer-Encoding: chunked\r\nA: b \r\n\r\n";

    for (size_t len = 0; len < sizeof(text) - 1; len++)
        assert(read_exactly(mg_head_request, text, len) == 0);
    assert(request(text) == sizeof(text) - 1);

    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nEmpty:\r\n\r\n";
    for (size_t len = 0; len < sizeof(answer) - 1; len++)
        assert(read_exactly(mg_head_response, answer, len) == 0);
    assert(response(answer) == sizeof(answer) - 1);
}

static void start_lines_to_the_letter(void)
{
    static const char *const bad[] = {
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/01.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "GET HTTP/1.1\r\nHost: a\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\nHost: a\r\n\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTQ/1.1\r\nHost: a\r\n\r\n",
        "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert(request(bad[i]) == -400);
        assert(why && m.count == 0);
    }
    assert(request("GET / HTTP/2.0\r\nHost: a\r\n\r\n") == -505);
    assert(request("GET / HTTP/1.2\r\nHost: a\r\n\r\n") == -505);
    assert(request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == -505);
    assert(request("\r\n\r\nm-search * HTTP/1.1\r\nHost: a\r\n\r\n") > 0 && is(m.method, "m-search"));
}

static void early_refusals(void)
{
    assert(request("GET / HTTP/1.1\n") == -400);
    assert(request("GET / HTTP/1.1\r\nHost : ") == -400);
    assert(request("G(T") == -400);
    assert(response("HTTP/1.1 2x") == 0 && response("HTTP/1.1 2x0 ") == -502);
}

static void names_are_tokens(void)
{
    assert(fields("A b: c\r\n") == -400);
    assert(fields("A : c\r\n") == -400);
    assert(fields("A\t: c\r\n") == -400);
    assert(fields(": c\r\n") == -400);
    assert(fields(" A: c\r\n") == -400);
    assert(fields("A\r\n") == -400);
    assert(fields("A(b): c\r\n") == -400);
    assert(fields("\xc3\xa4: c\r\n") == -400);
    assert(fields("!#$%&'*+-.^_`|~09azAZ: c\r\n") > 0);
}

static void lines_end_with_crlf(void)
{
    assert(fields("A: b\nC: d\r\n") == -400);
    assert(fields("A: b\rC: d\r\n") == -400);
    assert(fields("A: b\r\r\n") == -400);
    assert(fields("A:\nC: d\r\n") == -400);
    assert(fields("A:\rC: d\r\n") == -400);
    assert(fields("A: b\r\n\n") == -400);
    assert(fields("A: b\r\n\rX") == -400);
    assert(request("GET / HTTP/1.1\r\nHost: a\r\n\n") == -400);
    assert(request("GET / HTTP/1.1\r\nHost: a\n\r\n") == -400);
}

static void no_line_is_folded(void)
{
    assert(fields("A: b\r\n c\r\n") == -400);
    assert(fields("A: b\r\n\tc\r\n") == -400);
    assert(fields("A:\r\n c\r\n") == -400);
    assert(fields("A: \r\n c\r\n") == -400);
    assert(fields("A: b\r\n \r\n") == -400);
    assert(fields("A:\r\n \r\nB: c\r\n") == -400);
    assert(fields("Content-Length: 1\r\n 2\r\n") == -400);
    assert(fields("Transfer-Encoding:\r\n chunked\r\n") == -400);
}

static void values_have_no_control_bytes(void)
{
    char line[64];

    for (int c = 1; c < 256; c++) {
        bool fine = c == '\t' || (c >= 0x20 && c != 0x7f);

        for (int at = 0; at < 20; at++) {
            snprintf(line, sizeof(line), "A: x%.*s%c%.*sx\r\n", at, "aaaaaaaaaaaaaaaaaaaa", c, 20 - at,
                     "bbbbbbbbbbbbbbbbbbbb");
            assert((fields(line) > 0) == fine);
        }
    }
    static const char nul[] = "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n";
    assert(read_exactly(mg_head_request, nul, sizeof(nul) - 1) == -400);
}

static void one_valid_host(void)
{
    assert(request("GET / HTTP/1.1\r\n\r\n") == -400);
    assert(request("GET / HTTP/1.1\r\nHost:\r\n\r\n") == -400);
    assert(request("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n") == -400);
    assert(request("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n") == -400);
    assert(request("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n") == -400);
    assert(request("GET / HTTP/1.0\r\nHost: @\r\n\r\n") == -400);
    assert(request("GET / HTTP/1.0\r\n\r\n") > 0 && m.version == 10);
    assert(request("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n") > 0);
}

static void limits_have_their_status(void)
{
    char text[8192];

    int n = snprintf(text, sizeof(text), "GET /%0255d HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    assert(request(text) == n);
    snprintf(text, sizeof(text), "GET /%0256d HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    assert(request(text) == -414);
    snprintf(text, sizeof(text), "%0*d", 257 + 4, 0);
    memcpy(text, "GET /", 5);
    assert(request(text) == -414);
    snprintf(text, sizeof(text), "%064d / HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    assert(request(text) > 0);
    snprintf(text, sizeof(text), "%065d / HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    assert(request(text) == -501);

    char *to = text + snprintf(text, 64, "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 15; i++)
        to += snprintf(to, 16, "A: %d\r\n", i);
    memcpy(to, "\r\n", 3);
    assert(request(text) > 0 && m.count == 16);
    memcpy(to, "B: c\r\n\r\n", 9);
    assert(request(text) == -431);

    n = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a\r\nA: %0*d\r\n\r\n", 4096 - 16 - 9 - 3 - 4, 0);
    assert(n == 4096 && request(text) == 4096);
    snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a\r\nA: %0*d\r\n\r\n", 4096 - 16 - 9 - 3 - 3, 0);
    assert(request(text) == -431);
    assert(read_exactly(mg_head_request, text, 4095) == 0);
}

static void status_lines(void)
{
    assert(response("HTTP/1.1 200 OK\r\n\r\n") == 19 && m.status == 200 && is(m.reason, "OK") && m.version == 11);
    assert(response("HTTP/1.0 404 Not  Found \xe4\r\n\r\n") > 0 && m.status == 404 && m.version == 10);
    assert(response("HTTP/1.1 204 \r\n\r\n") > 0 && m.status == 204 && m.reason.len == 0);
    assert(response("HTTP/1.1 204\r\n\r\n") > 0 && m.status == 204);
    assert(response("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n") == 25);

    static const char *const bad[] = {
        "HTTP/1.1 99 X\r\n\r\n",
        "HTTP/1.1 600 X\r\n\r\n",
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 2000 X\r\n\r\n",
        "HTTP/1.1  200 X\r\n\r\n",
        "HTTP/2.0 200 X\r\n\r\n",
        "HTTP/1.2 200 X\r\n\r\n",
        "http/1.1 200 X\r\n\r\n",
        "HTTP/1.1 200 X\n\n",
        "HTTP/1.1 200 X\x01\r\n\r\n",
        "HTTP/1.1 20x X\r\n\r\n",
        "\r\nHTTP/1.1 200 X\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html></html>",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\n\r\n",
        "HTTP/1.1 200OK\r\n\r\n",
        "HTTP/1.1 +20 X\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert(response(bad[i]) == -502 && why);
}

static void trailers(void)
{
    static const char text[] = "A: b\r\nC:\r\n\r\nrest";

    assert(mg_head_fields(text, sizeof(text) - 1, &limits, &m, &why) == 12 && m.count == 2);
    assert(mg_head_fields("\r\n", 2, &limits, &m, &why) == 2 && m.count == 0);
    assert(mg_head_fields("A: b\r\n", 6, &limits, &m, &why) == 0);
    assert(mg_head_fields("A : b\r\n", 7, &limits, &m, &why) == -400);
}

static void the_end_is_found(void)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    size_t len = sizeof(text) - 1;

    for (size_t from = 0; from < len; from++) {
        assert(mg_head_is_whole(text, len, from));
        assert(!mg_head_is_whole(text, len - 1, from < len - 1 ? from : len - 1));
    }
    assert(mg_head_is_whole("a\n\n", 3, 2) && mg_head_is_whole("a\n\r\n", 4, 3) && !mg_head_is_whole("a\n\rb\n", 5, 0));
    assert(!mg_head_is_whole("", 0, 0));
}

static void written_as_read(void)
{
    static const char text[] = "PATCH /a HTTP/1.1\r\nHost: a\r\nX-A-Long-Name-Of-A-Field: and a value that is long\r\n"
                               "E: \r\nB: 12345678\r\n";
    char whole[256], out[256];

    snprintf(whole, sizeof(whole), "%s\r\n", text);
    assert(mg_head_request(whole, strlen(whole), &limits, &m, &why) > 0);
    assert(mg_head_request_size(&m) == sizeof(text) - 1);
    assert(mg_head_write_request(out, &m) == out + sizeof(text) - 1 && memcmp(out, text, sizeof(text) - 1) == 0);

    static const char answer[] = "HTTP/1.1 404 Not Found\r\nA: b\r\n";
    static const char bare[] = "HTTP/1.0 404\r\nA:b\r\n\r\n";
    assert(mg_head_response(bare, sizeof(bare) - 1, &limits, &m, &why) > 0);
    assert(mg_head_response_size(&m) == sizeof(answer) - 1);
    assert(mg_head_write_response(out, &m) == out + sizeof(answer) - 1 && memcmp(out, answer, sizeof(answer) - 1) == 0);
}

/* clang-format off */
#define PROMISE(function, sentence) (function(), puts("ok " sentence))
/* clang-format on */

int main(void)
{
    PROMISE(parts_of_a_request, "a request's parts and fields point into its bytes, in order");
    PROMISE(every_beginning_asks_for_more, "every beginning of a valid head asks for more");
    PROMISE(start_lines_to_the_letter, "a start line that is not to the letter is refused");
    PROMISE(early_refusals, "what can't become valid is refused before the head is whole");
    PROMISE(names_are_tokens, "a field name is a token directly before its colon");
    PROMISE(lines_end_with_crlf, "a line ends with CRLF and nothing else");
    PROMISE(no_line_is_folded, "a folded line is refused");
    PROMISE(values_have_no_control_bytes, "a value has no control byte but HTAB, wherever it stands");
    PROMISE(one_valid_host, "HTTP/1.1 needs one valid Host, HTTP/1.0 may have none");
    PROMISE(limits_have_their_status, "each limit has its own status, and what just fits passes");
    PROMISE(status_lines, "a status line is read strictly, its reason may be missing");
    PROMISE(trailers, "fields alone are read by the same rules");
    PROMISE(the_end_is_found, "the end of a head is found from wherever the new bytes begin");
    PROMISE(written_as_read, "a head is written in one form, with the size that was announced");
    return 0;
}

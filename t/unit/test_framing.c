/* Bodies are framed one way, or refused. */
#include <assert.h>
#include <stdio.h>

#include "framing.h"
#include "head.h"

static const struct mg_framing_limits limits = { .max_chunk_line = 64,
                                                 .max_chunk_extensions = 100,
                                                 .max_trailer_size = 128 };
static struct mg_framing f;
static const char *why;

static int request_of(const char *version, const char *fields)
{
    static const struct mg_head_limits head = { .max_head_size = 65536, .max_fields = 100, .max_target_size = 256 };
    static char text[1024];
    struct mg_message m;

    snprintf(text, sizeof(text), "POST / HTTP/%s\r\nHost: a\r\n%s\r\n", version, fields);
    int n = mg_head_request(text, strlen(text), &head, &m, &why);
    return n < 0 ? -n : mg_framing_of_request(&m, &f, &why);
}

static int request(const char *fields)
{
    return request_of("1.1", fields);
}

static int response(const char *method, const char *start, const char *fields)
{
    static const struct mg_head_limits head = { .max_head_size = 65536, .max_fields = 100, .max_target_size = 256 };
    static char text[1024];
    struct mg_message m;

    snprintf(text, sizeof(text), "HTTP/%s X\r\n%s\r\n", start, fields);
    int n = mg_head_response(text, strlen(text), &head, &m, &why);
    return n < 0 ? -n : mg_framing_of_response(&m, mg_slice_of(method), &f, &why);
}

static void lengths(void)
{
    assert(request("") == 0 && f.kind == MG_BODY_NONE && f.whole);
    assert(request("Content-Length: 5\r\n") == 0 && f.kind == MG_BODY_LENGTH && f.left == 5 && !f.whole);
    assert(request("Content-Length: 0\r\n") == 0 && f.kind == MG_BODY_LENGTH && f.whole);
    assert(request("Content-Length: 007\r\n") == 0 && f.left == 7);
    assert(request("Content-Length: 9223372036854775807\r\n") == 0 && f.left == INT64_MAX);

    static const char *const bad[] = {
        "",
        "+5",
        "-5",
        "5 5",
        "5,5",
        "5, 5",
        "0x5",
        "5a",
        "a",
        "5.0",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999",
        "\"5\"",
        ",5",
        "5,",
        "1e3",
        "\xd9\xa5",
    };
    char line[128];
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        snprintf(line, sizeof(line), "Content-Length: %s\r\n", bad[i]);
        assert(request(line) == 400);
        assert(response("GET", "1.1 200", line) == 502);
    }
    assert(request("Content-Length: 5\r\nContent-Length: 5\r\n") == 400);
    assert(request("Content-Length: 5\r\nA: b\r\nContent-Length: 6\r\n") == 400);
    assert(response("GET", "1.1 200", "Content-Length: 5\r\ncontent-length: 5\r\n") == 502);
}

static void codings(void)
{
    assert(request("Transfer-Encoding: chunked\r\n") == 0 && f.kind == MG_BODY_CHUNKED && !f.whole);
    assert(request("transfer-encoding:\t CHUNKed \r\n") == 0 && f.kind == MG_BODY_CHUNKED);
    assert(request("Transfer-Encoding: gzip, chunked\r\n") == 501);
    assert(request("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n") == 501);

    static const char *const bad[] = {
        "",
        "gzip",
        "identity",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "xchunked",
        "chunkedx",
        "chunked;a=b",
        "\"chunked\"",
        "chun ked",
        "chunked, identity",
        "gzip, chunked, chunked",
        "\x0b"
        "chunked",
        "'chunked'",
    };
    char line[128];
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        snprintf(line, sizeof(line), "Transfer-Encoding: %s\r\n", bad[i]);
        assert(request(line) == 400);
        assert(response("GET", "1.1 200", line) == 502);
    }
    assert(request("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") == 400);
    assert(request("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") == 400);
    assert(request("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") == 400);
    assert(request_of("1.0", "Transfer-Encoding: chunked\r\n") == 400);
    assert(response("GET", "1.0 200", "Transfer-Encoding: chunked\r\n") == 502);
    assert(response("GET", "1.1 200", "Transfer-Encoding: gzip, chunked\r\n") == 502);
    assert(response("HEAD", "1.1 200", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") == 502);
}

static void responses(void)
{
    assert(response("GET", "1.1 200", "") == 0 && f.kind == MG_BODY_UNTIL_CLOSE && !f.whole);
    assert(response("GET", "1.1 200", "Content-Length: 5\r\n") == 0 && f.kind == MG_BODY_LENGTH && f.left == 5);
    assert(response("GET", "1.1 200", "Transfer-Encoding: chunked\r\n") == 0 && f.kind == MG_BODY_CHUNKED);
    assert(response("HEAD", "1.1 200", "Content-Length: 5\r\n") == 0 && f.kind == MG_BODY_NONE && f.whole);
    assert(response("HEAD", "1.1 200", "Transfer-Encoding: chunked\r\n") == 0 && f.kind == MG_BODY_NONE);
    assert(response("GET", "1.1 304", "Content-Length: 5\r\n") == 0 && f.kind == MG_BODY_NONE && f.whole);
    assert(response("GET", "1.1 204", "") == 0 && f.kind == MG_BODY_NONE);
    assert(response("GET", "1.1 204", "Content-Length: 0\r\n") == 0 && f.kind == MG_BODY_NONE);
    assert(response("GET", "1.1 204", "Content-Length: 5\r\n") == 502);
    assert(response("GET", "1.1 204", "Transfer-Encoding: chunked\r\n") == 502);
    assert(response("GET", "1.1 103", "") == 0 && f.kind == MG_BODY_NONE && f.whole);
    assert(response("GET", "1.1 100", "Content-Length: 1\r\n") == 502);
    assert(response("GET", "1.1 101", "") == 0 && f.kind == MG_BODY_UNTIL_CLOSE && !f.whole);
    assert(response("CONNECT", "1.1 200", "Content-Length: 5\r\n") == 0 && f.kind == MG_BODY_UNTIL_CLOSE);
    assert(response("CONNECT", "1.1 403", "Content-Length: 5\r\n") == 0 && f.kind == MG_BODY_LENGTH);
}

/* Feeds text in two pieces, cut at `cut`; the body, or NULL if it is refused. */
static const char *chunks_cut(const char *text, size_t len, size_t cut, size_t *used)
{
    static char body[4096];
    size_t at = 0, got = 0;

    f = (struct mg_framing){ .kind = MG_BODY_CHUNKED };
    *used = 0;
    while (!f.whole && f.state != MG_FRAMING_TRAILER) {
        size_t end = at < cut ? cut : len, n;
        mg_slice piece;

        if (at == len)
            break;
        if (mg_framing_take(&f, &limits, text + at, end - at, &n, &piece, &why) != MG_OK)
            return NULL;
        memcpy(body + got, piece.ptr, piece.len);
        got += piece.len;
        at += n;
    }
    body[got] = '\0';
    *used = at;
    return body;
}

static const char *chunks(const char *text)
{
    size_t len = strlen(text), used, whole;
    char first[4096];
    const char *body = chunks_cut(text, len, 0, &whole);
    bool refused = !body;

    snprintf(first, sizeof(first), "%s", body ? body : "");
    struct mg_framing f_whole = f;
    for (size_t cut = 1; cut < len; cut++) {
        body = chunks_cut(text, len, cut, &used);
        assert(refused == !body);
        assert(refused || (strcmp(first, body) == 0 && used == whole && f.state == f_whole.state));
    }
    return body;
}

static bool gives(const char *text, const char *body)
{
    const char *got = chunks(text);

    return got && strcmp(got, body) == 0 && f.whole;
}

static void valid_chunks(void)
{
    assert(gives("5\r\nhello\r\n0\r\n\r\n", "hello"));
    assert(gives("0\r\n\r\n", ""));
    assert(gives("000\r\n\r\n", ""));
    assert(gives("1\r\na\r\nA\r\n0123456789\r\n00b\r\n0123456789a\r\n0\r\n\r\nGET", "a01234567890123456789a"));
    assert(gives("2;a\r\n\r\n\r\n0\r\n\r\n", "\r\n"));
    assert(gives("1;a=b;c=\"d \\\" e\";f\r\nx\r\n0;x\r\n\r\n", "x"));
    assert(gives("1 ; a = b ; c = \"\" ; d\r\nx\r\n0\r\n\r\n", "x"));
    assert(gives("1\t;\ta\t=\tb\r\nx\r\n0\r\n\r\n", "x"));
    assert(chunks("5\r\nhel") && !f.whole && f.left == 2);
    assert(chunks("7fffffffffffffff\r\na") && f.left == INT64_MAX - 1);
    assert(chunks("0000000000000001\r\na\r\n0\r\n\r\n") && f.whole);
}

static void invalid_chunks(void)
{
    static const char *const bad[] = {
        "\r\n",
        " 5\r\nhello",
        "5\nhello\r\n",
        "5\rhello",
        "5 \r\nhello",
        "5\t\r\nhello",
        "0x5\r\nhello",
        "-1\r\n",
        "+5\r\n",
        "g\r\n",
        ";a\r\n",
        "5;\r\nhello",
        "5;a \r\nhello",
        "5;a=\r\nhello",
        "5;a=b \r\n",
        "5;a=\"b\r\n",
        "5;a=\"\\\r\n",
        "5;a=\"b\"c\r\n",
        "5;a b\r\n",
        "5;a=b c\r\n",
        "5,a\r\n",
        "5 5\r\n",
        "5;=b\r\n",
        "5;a\nhello",
        "5;a=\"b\n\"\r\n",
        "5;a\x01\r\n",
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000005\r\n",
        "00000000000000001\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\rX",
        "5\r\nhelloX\n",
        "5\r\nhello\r\n\r\n",
        "0\n\n",
        "0\r\n\rX",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5;a\r\r\n",
        "\xef\xbc\x95\r\n",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        if (chunks(bad[i])) {
            printf("not refused: %s\n", bad[i]);
            assert(false);
        }
}

static void bounded_lines(void)
{
    char text[512];

    snprintf(text, sizeof(text), "1;%061d\r\nx\r\n0\r\n\r\n", 0);
    assert(gives(text, "x"));
    snprintf(text, sizeof(text), "1;%062d\r\nx\r\n0\r\n\r\n", 0);
    assert(!chunks(text));
    assert(gives("1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\ny\r\n0\r\n\r\n", "xy"));
    assert(!chunks("1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\ny\r\n"
                   "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nz\r\n0\r\n\r\n"));
}

static void trailers(void)
{
    static const char text[] = "1\r\nx\r\n0\r\nX-A: b\r\nContent-Length: 5\r\nx-c: d\r\nHost: e\r\nAuthorization: f\r\n"
                               "ETag: \"g\"\r\n\r\nGET";
    struct mg_message m;
    size_t used;

    assert(chunks_cut(text, sizeof(text) - 1, 0, &used) && f.state == MG_FRAMING_TRAILER && !f.whole);
    const char *at = text + used;
    size_t len = sizeof(text) - 1 - used;
    assert(at[0] == 'X' && mg_trailer_read(&f, &limits, at, 10, &m, &why) == 0);
    assert(mg_trailer_read(&f, &limits, at, len, &m, &why) == (int)len - 3 && f.whole);
    assert(m.count == 3 && mg_text_equal(m.fields[1].name, MG_LIT("x-c")) && m.fields[2].id == MG_FIELD_ETAG);
    assert(!mg_message_has(&m, MG_FIELD_HOST));

    f = (struct mg_framing){ .kind = MG_BODY_CHUNKED, .state = MG_FRAMING_TRAILER };
    assert(mg_trailer_read(&f, &limits, "A : b\r\n\r\n", 9, &m, &why) == MG_MALFORMED);
    f.state = MG_FRAMING_TRAILER;
    char longer[200];
    snprintf(longer, sizeof(longer), "A: %0150d\r\n\r\n", 0);
    assert(mg_trailer_read(&f, &limits, longer, strlen(longer), &m, &why) == MG_MALFORMED && !f.whole);
}

static void plain_bodies(void)
{
    size_t used;
    mg_slice piece;

    f = (struct mg_framing){ .kind = MG_BODY_LENGTH, .left = 7 };
    assert(mg_framing_take(&f, &limits, "hello", 5, &used, &piece, &why) == MG_OK && used == 5 && piece.len == 5);
    assert(mg_framing_take(&f, &limits, "hello", 5, &used, &piece, &why) == MG_OK && used == 2 && piece.len == 2 &&
           f.whole);
    f = (struct mg_framing){ .kind = MG_BODY_UNTIL_CLOSE };
    assert(mg_framing_take(&f, &limits, "hello", 5, &used, &piece, &why) == MG_OK && used == 5 && !f.whole);
}

/* clang-format off */
#define PROMISE(function, sentence) (function(), puts("ok " sentence))
/* clang-format on */

int main(void)
{
    PROMISE(lengths, "a Content-Length is one number in range, or the message is refused");
    PROMISE(codings, "chunked is the one transfer coding, once, last and alone");
    PROMISE(responses, "a response's body ends as its status and the method say");
    PROMISE(valid_chunks, "valid chunks give the same body wherever they are cut");
    PROMISE(invalid_chunks, "a broken chunk is refused wherever it is cut");
    PROMISE(bounded_lines, "chunk lines and extensions have their bounds");
    PROMISE(trailers, "trailers are read as fields, without those that must not be there");
    PROMISE(plain_bodies, "a body with a length takes no byte too many");
    return 0;
}

/* access.c - the access log: an exchange's fields into a line.
 *
 * Texts are cut at TEXT_MOST, so that a line has room for every field with all of its bytes escaped. */
#include "access.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "exchange.h"
#include "clock.h"
#include "sink.h"
#include "text.h"
#include "tls.h"

enum { FIELDS_MOST = 32, KEY_MOST = 24, TEXT_MOST = 1024 };
enum format { JSON, COMMON, COMBINED };

struct line {
    char *at, *end;
};

typedef void put_fn(struct line *l, const struct mg_exchange *x);
struct field {
    const char *name;
    put_fn *put;
};

static enum format format;
static struct chosen {
    char text[KEY_MOST]; /* {"status": */
    mg_slice key;
    put_fn *put;
} chosen[FIELDS_MOST];
static unsigned chosen_count;

/* ---- Pieces of a line. ---- */

static size_t room(const struct line *l)
{
    return (size_t)(l->end - l->at);
}

static void put(struct line *l, mg_slice s)
{
    size_t n = s.len < room(l) ? s.len : room(l);

    if (n)
        memcpy(l->at, s.ptr, n);
    l->at += n;
}

static void put_number(struct line *l, uint64_t n)
{
    if (room(l) >= 20)
        l->at += mg_text_put_number(l->at, n);
}

/* Seconds with six digits behind the point. */
static void put_seconds(struct line *l, double seconds)
{
    uint64_t us = seconds > 0 ? (uint64_t)(seconds * 1e6 + 0.5) : 0;
    char digits[7] = ".000000";

    put_number(l, us / 1000000);
    us %= 1000000;
    for (int i = 6; i > 0; i--, us /= 10)
        digits[i] = (char)('0' + us % 10);
    put(l, (mg_slice){ digits, 7 });
}

static mg_slice shorten(mg_slice s)
{
    return s.len > TEXT_MOST ? (mg_slice){ s.ptr, TEXT_MOST } : s;
}

/* Are these eight bytes 0x20..0x7e without quote and backslash? Each term has a byte's top bit set where one is not. */
static bool is_plain(uint64_t v)
{
    const uint64_t each = 0x0101010101010101;
    uint64_t odd = v | (v - each * ' ') | ((v ^ each * '"') - each) | ((v ^ each * '\\') - each) |
                   ((v ^ each * 0x7f) - each);

    return !(odd & each * 0x80);
}

static bool copy_if_plain(char *to, const char *from)
{
    uint64_t v;

    memcpy(&v, from, sizeof(v));
    memcpy(to, &v, sizeof(v));
    return is_plain(v);
}

/* Copies what needs no escape, eight bytes at a time; how many. Nearly all text is of that kind. */
static uint32_t copy_plain(char *to, mg_slice s)
{
    uint32_t n = 0;

    if (s.len < 8)
        return 0;
    while (s.len - n >= 8) {
        if (!copy_if_plain(to + n, s.ptr + n))
            return n;
        n += 8;
    }
    return copy_if_plain(to + s.len - 8, s.ptr + s.len - 8) ? s.len : n;
}

static mg_slice skip(mg_slice s, uint32_t n)
{
    return (mg_slice){ s.ptr + n, s.len - n };
}

static void put_text(struct line *l, mg_slice s)
{
    s = shorten(s);
    if (room(l) < (size_t)s.len * 6 + 2)
        return;
    *l->at++ = '"';
    uint32_t plain = copy_plain(l->at, s);
    l->at += plain;
    if (plain < s.len)
        l->at += mg_text_put_json(l->at, skip(s, plain));
    *l->at++ = '"';
}

/* What is known to need no escape. */
static void put_known(struct line *l, mg_slice s)
{
    put(l, MG_LIT("\""));
    put(l, s);
    put(l, MG_LIT("\""));
}

static void put_text_or_null(struct line *l, mg_slice s)
{
    if (s.len)
        put_text(l, s);
    else
        put(l, MG_LIT("null"));
}

/* The second of `now` broken down, if it is another than `of`; stamps are made once a second. */
static bool is_new_second(double now, time_t *of, struct tm *tm)
{
    time_t second = (time_t)now;

    if (*of == second)
        return false;
    *of = second;
    return gmtime_r(&second, tm) != NULL;
}

static void put_time(struct line *l, const struct mg_exchange *x)
{
    static char kept[32];
    static time_t of;
    struct tm tm;
    unsigned ms = (unsigned)((x->view.started - (double)(time_t)x->view.started) * 1000);
    char tail[5] = { '.', (char)('0' + ms / 100 % 10), (char)('0' + ms / 10 % 10), (char)('0' + ms % 10), 'Z' };

    if (is_new_second(x->view.started, &of, &tm))
        strftime(kept, sizeof(kept), "%Y-%m-%dT%H:%M:%S", &tm);
    put(l, MG_LIT("\""));
    put(l, mg_slice_of(kept));
    put(l, (mg_slice){ tail, 5 });
    put(l, MG_LIT("\""));
}

/* ---- The fields of a JSON line. ---- */

static void put_id(struct line *l, const struct mg_exchange *x)
{
    char id[18] = "\"0123456789abcdef";

    for (int i = 0; i < 16; i++)
        id[i + 1] = "0123456789abcdef"[x->id >> (60 - 4 * i) & 15];
    id[17] = '"';
    put(l, (mg_slice){ id, 18 });
}

static mg_slice request_field(const struct mg_exchange *x, mg_slice name)
{
    const struct mg_field *f = mg_message_find(&x->request, name);

    return f ? f->value : (mg_slice){ "", 0 };
}

static void put_client(struct line *l, const struct mg_exchange *x)
{
    put_known(l, x->view.client_ip);
}
static void put_port(struct line *l, const struct mg_exchange *x)
{
    put_number(l, x->view.client_port);
}
static void put_method(struct line *l, const struct mg_exchange *x)
{
    put_text(l, x->view.method);
}
static void put_host(struct line *l, const struct mg_exchange *x)
{
    put_text(l, x->view.host);
}
static void put_path(struct line *l, const struct mg_exchange *x)
{
    put_text(l, x->view.raw_path);
}
static void put_query(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, x->view.query);
}
static void put_status(struct line *l, const struct mg_exchange *x)
{
    put_number(l, x->view.status);
}
static void put_in(struct line *l, const struct mg_exchange *x)
{
    put_number(l, (uint64_t)x->view.bytes_in);
}
static void put_out(struct line *l, const struct mg_exchange *x)
{
    put_number(l, (uint64_t)x->view.bytes_out);
}
static void put_tries(struct line *l, const struct mg_exchange *x)
{
    put_number(l, x->view.tries);
}
static void put_route(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, x->route->name);
}
static void put_trace(struct line *l, const struct mg_exchange *x)
{
    char id[34] = "\"";

    if (!x->trace[0] && !x->trace[1]) {
        put(l, MG_LIT("null"));
        return;
    }
    for (int i = 0; i < 32; i++)
        id[i + 1] = "0123456789abcdef"[x->trace[i / 16] >> (60 - 4 * (i % 16)) & 15];
    id[33] = '"';
    put(l, (mg_slice){ id, 34 });
}
static void put_error(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, x->view.failure_text);
}

static void put_version(struct line *l, const struct mg_exchange *x)
{
    put_known(l, x->bytes                ? MG_LIT("TCP")
                 : x->view.version == 10 ? MG_LIT("HTTP/1.0")
                 : x->view.version == 20 ? MG_LIT("HTTP/2")
                                         : MG_LIT("HTTP/1.1"));
}

static void put_tls(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, x->tls ? mg_tls_session_version(x->tls) : (mg_slice){ "", 0 });
}

static void put_duration(struct line *l, const struct mg_exchange *x)
{
    put_seconds(l, mg_clock_now() - x->began);
}

static void put_upstream(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, x->view.upstream && x->view.tries ? mg_upstream_spec_of(x->view.upstream)->name
                                                          : (mg_slice){ "", 0 });
}

static void put_peer(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, x->view.peer ? x->view.peer->name : (mg_slice){ "", 0 });
}

static void put_latency(struct line *l, const struct mg_exchange *x)
{
    if (x->view.from_peer)
        put_seconds(l, x->attempt.latency);
    else
        put(l, MG_LIT("null"));
}

static void put_user_agent(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, request_field(x, MG_LIT("User-Agent")));
}

static void put_referer(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, request_field(x, MG_LIT("Referer")));
}

static const struct field fields[] = {
    { "time", put_time },       { "id", put_id },
    { "client", put_client },   { "client_port", put_port },
    { "method", put_method },   { "host", put_host },
    { "path", put_path },       { "query", put_query },
    { "version", put_version }, { "tls", put_tls },
    { "status", put_status },   { "bytes_in", put_in },
    { "bytes_out", put_out },   { "duration", put_duration },
    { "route", put_route },     { "upstream", put_upstream },
    { "peer", put_peer },       { "tries", put_tries },
    { "latency", put_latency }, { "user_agent", put_user_agent },
    { "referer", put_referer }, { "error", put_error },
    { "trace", put_trace },
};
enum { FIELD_COUNT = sizeof(fields) / sizeof(*fields), ONLY_IF_NAMED = 1 /* of them, at the end */ };
_Static_assert((int)FIELD_COUNT <= (int)FIELDS_MOST, "each may be chosen once");

static void put_json(struct line *l, const struct mg_exchange *x)
{
    for (unsigned i = 0; i < chosen_count; i++) {
        put(l, chosen[i].key);
        chosen[i].put(l, x);
    }
    put(l, MG_LIT("}\n"));
}

/* ---- The formats that other servers write. ---- */

static void put_escaped(struct line *l, mg_slice s)
{
    s = shorten(s.len ? s : MG_LIT("-"));
    if (room(l) < (size_t)s.len * 4)
        return;
    uint32_t plain = copy_plain(l->at, s);
    l->at += plain;
    l->at += mg_text_put_escaped(l->at, skip(s, plain));
}

static void put_common(struct line *l, const struct mg_exchange *x)
{
    static char kept[40];
    static time_t of;
    struct tm tm;

    if (is_new_second(x->view.started, &of, &tm))
        strftime(kept, sizeof(kept), "%d/%b/%Y:%H:%M:%S +0000", &tm);
    put_escaped(l, x->view.client_ip);
    put(l, MG_LIT(" - - ["));
    put(l, mg_slice_of(kept));
    put(l, MG_LIT("] \""));
    put_escaped(l, x->view.method);
    put(l, MG_LIT(" "));
    put_escaped(l, x->request.target);
    put(l, x->bytes ? MG_LIT(" TCP\" ") : x->view.version == 10 ? MG_LIT(" HTTP/1.0\" ") : MG_LIT(" HTTP/1.1\" "));
    put_number(l, x->view.status);
    put(l, MG_LIT(" "));
    put_number(l, (uint64_t)x->view.bytes_out);
    if (format == COMBINED) {
        put(l, MG_LIT(" \""));
        put_escaped(l, request_field(x, MG_LIT("Referer")));
        put(l, MG_LIT("\" \""));
        put_escaped(l, request_field(x, MG_LIT("User-Agent")));
        put(l, MG_LIT("\""));
    }
    put(l, MG_LIT("\n"));
}

void mg_access_log(const struct mg_exchange *x)
{
    static char text[MG_SINK_LINE_MOST];
    struct line l = { text, text + sizeof(text) };

    if (!mg_sink_is_open())
        return;
    if (format == JSON)
        put_json(&l, x);
    else
        put_common(&l, x);
    mg_sink_put((mg_slice){ text, (uint32_t)(l.at - text) });
}

/* ---- Opening. ---- */

static const char *complaint(const char *what, mg_slice value, const char *remedy)
{
    static char text[512];

    snprintf(text, sizeof(text), "%s: \"%.*s\": %s", what, (int)value.len, value.ptr, remedy);
    return text;
}

/* Once only: twice would be no good JSON, and a line has room for each once. */
static bool choose(const struct field *f)
{
    struct chosen *c = &chosen[chosen_count];

    for (unsigned i = 0; i < chosen_count; i++)
        if (chosen[i].put == f->put)
            return false;
    snprintf(c->text, sizeof(c->text), "%c\"%s\":", chosen_count ? ',' : '{', f->name);
    c->key = mg_slice_of(c->text);
    c->put = f->put;
    chosen_count++;
    return true;
}

static const char *choose_fields(mg_slice list)
{
    mg_slice item;

    chosen_count = 0;
    for (unsigned i = 0; !list.len && i < FIELD_COUNT - ONLY_IF_NAMED; i++)
        choose(&fields[i]);
    while (mg_text_next_item(&list, &item)) {
        const struct field *found = NULL;
        for (unsigned i = 0; i < FIELD_COUNT && !found; i++)
            if (mg_text_equal(item, mg_slice_of(fields[i].name)))
                found = &fields[i];
        if (!found)
            return complaint("log_fields", item, "there is no such field; lua/README.md lists them");
        if (!choose(found))
            return complaint("log_fields", item, "it is named twice");
    }
    return NULL;
}

const char *mg_access_check(const mg_settings *s)
{
    if (mg_text_equal(s->log_format, MG_LIT("json")))
        format = JSON;
    else if (mg_text_equal(s->log_format, MG_LIT("common")))
        format = COMMON;
    else if (mg_text_equal(s->log_format, MG_LIT("combined")))
        format = COMBINED;
    else
        return complaint("log_format", s->log_format, "write \"json\", \"common\" or \"combined\"");
    return choose_fields(s->log_fields);
}

const char *mg_access_open(const mg_settings *s)
{
    const char *problem = mg_access_check(s);

    if (problem)
        return problem;
    if (!mg_sink_open(s->access_log, s->log_flush))
        return complaint("access_log", s->access_log, strerror(errno));
    return NULL;
}

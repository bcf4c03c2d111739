/* access.c - the access log: fields into a line, lines into a buffer, the buffer out.
 *
 * A write holds whole lines, so that workers that share a file never mix
 * theirs. Nothing here blocks or fails an exchange: what can't be written is
 * counted, and told once until it works again. */
#include "access.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <ev.h>

#include "exchange.h"
#include "log.h"

enum { BUFFER = 64 * 1024, LINE_MOST = BUFFER - 1, FIELDS_MOST = 32, KEY_MOST = 24, TEXT_MOST = 1024 };
enum format { JSON, COMMON, COMBINED };
enum target { OFF, FILE_OR_PIPE, SYSLOG };

struct line {
    char *at, *end;
};

typedef void put_fn(struct line *l, const struct mg_exchange *x);
struct field {
    const char *name;
    put_fn *put;
};

static enum target target;
static enum format format;
static int fd = -1;
static char path[512];
static char buffer[BUFFER];
static size_t filled;
static size_t write_most = BUFFER;      /* what the target takes without mixing in another worker's lines */
static unsigned long dropped;           /* lines */
static bool told, torn;                 /* torn: the last write ended within a line */
static struct chosen {
    char text[KEY_MOST];                /* {"status": */
    mg_slice key;
    put_fn *put;
} chosen[FIELDS_MOST];
static unsigned chosen_count;
static struct mg_timeout flusher;
static struct mg_clock_queue *flush_queue;

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
    uint64_t odd = v | (v - each * ' ') | ((v ^ each * '"') - each) | ((v ^ each * '\\') - each) | ((v ^ each * 0x7f) - each);

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

static void put_client(struct line *l, const struct mg_exchange *x) { put_known(l, x->view.client_ip); }
static void put_port(struct line *l, const struct mg_exchange *x) { put_number(l, x->view.client_port); }
static void put_method(struct line *l, const struct mg_exchange *x) { put_text(l, x->view.method); }
static void put_host(struct line *l, const struct mg_exchange *x) { put_text(l, x->view.host); }
static void put_path(struct line *l, const struct mg_exchange *x) { put_text(l, x->view.raw_path); }
static void put_query(struct line *l, const struct mg_exchange *x) { put_text_or_null(l, x->view.query); }
static void put_status(struct line *l, const struct mg_exchange *x) { put_number(l, x->view.status); }
static void put_in(struct line *l, const struct mg_exchange *x) { put_number(l, (uint64_t)x->view.bytes_in); }
static void put_out(struct line *l, const struct mg_exchange *x) { put_number(l, (uint64_t)x->view.bytes_out); }
static void put_tries(struct line *l, const struct mg_exchange *x) { put_number(l, x->view.tries); }
static void put_route(struct line *l, const struct mg_exchange *x) { put_text_or_null(l, x->route->name); }
static void put_error(struct line *l, const struct mg_exchange *x) { put_text_or_null(l, x->view.failure_text); }

static void put_version(struct line *l, const struct mg_exchange *x)
{
    put_known(l, x->view.version == 10 ? MG_LIT("HTTP/1.0") : x->view.version == 20 ? MG_LIT("HTTP/2") : MG_LIT("HTTP/1.1"));
}

static void put_duration(struct line *l, const struct mg_exchange *x)
{
    put_seconds(l, mg_clock_now() - x->began);
}

static void put_upstream(struct line *l, const struct mg_exchange *x)
{
    put_text_or_null(l, x->view.upstream && x->view.tries ? mg_upstream_spec_of(x->view.upstream)->name : (mg_slice){ "", 0 });
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
    { "time", put_time },         { "id", put_id },           { "client", put_client },     { "client_port", put_port },
    { "method", put_method },     { "host", put_host },       { "path", put_path },         { "query", put_query },
    { "version", put_version },   { "status", put_status },   { "bytes_in", put_in },       { "bytes_out", put_out },
    { "duration", put_duration }, { "route", put_route },     { "upstream", put_upstream }, { "peer", put_peer },
    { "tries", put_tries },       { "latency", put_latency }, { "user_agent", put_user_agent },
    { "referer", put_referer },   { "error", put_error },
};
enum { FIELD_COUNT = sizeof(fields) / sizeof(*fields) };

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
    put(l, x->view.version == 10 ? MG_LIT(" HTTP/1.0\" ") : MG_LIT(" HTTP/1.1\" "));
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

/* ---- Out. ---- */

static void drop_lines(const char *at, size_t len, int error)
{
    const char *end = at + len;

    while (at < end && (at = memchr(at, '\n', (size_t)(end - at)))) {
        dropped++;
        at++;
    }
    if (!told)
        mg_log(MG_LOG_ERROR, "access log %s: %s; lines are dropped until it works again", path, strerror(error));
    told = true;
}

/* As many whole lines as fit into one write, at least one. */
static size_t next_write(const char *at, size_t left)
{
    const char *end;

    if (left <= write_most)
        return left;
    end = memrchr(at, '\n', write_most);
    if (!end)
        end = memchr(at, '\n', left);
    return end ? (size_t)(end + 1 - at) : left;
}

void mg_access_flush(void)
{
    size_t done = 0;

    while (done < filled) {
        ssize_t n = write(fd, buffer + done, next_write(buffer + done, filled - done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            drop_lines(buffer + done, filled - done, n < 0 ? errno : ENOSPC);
            break;
        }
        done += (size_t)n;
    }
    if (done)
        torn = buffer[done - 1] != '\n';
    if (filled && done == filled)
        told = false;
    filled = 0;
}

static void on_flush(struct mg_timeout *t)
{
    (void)t;
    mg_access_flush();
}

static bool open_syslog(void);

/* RFC 3164 as local daemons take it: local0.info, the time, no host. Made once a second. */
static mg_slice syslog_head(void)
{
    static char head[64];
    static time_t of;
    static uint32_t len;
    time_t now = (time_t)mg_clock_wall();
    struct tm tm;

    if (now != of && localtime_r(&now, &tm)) {
        char stamp[32];
        strftime(stamp, sizeof(stamp), "%b %e %H:%M:%S", &tm);
        len = (uint32_t)snprintf(head, sizeof(head), "<134>%s moongate[%d]: ", stamp, (int)getpid());
        of = now;
    }
    return (mg_slice){ head, len };
}

static void send_to_syslog(mg_slice line)
{
    mg_slice head = syslog_head();
    struct iovec v[2] = { { (void *)head.ptr, head.len }, { (void *)line.ptr, line.len - 1 } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };

    ssize_t n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    /* A daemon that was started anew has another socket behind the same path. */
    if (n < 0 && (errno == ECONNREFUSED || errno == ENOTCONN || errno == EBADF) && open_syslog())
        n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        drop_lines(line.ptr, line.len, errno);
    else
        told = false;
}

static void emit(mg_slice line)
{
    if (target == SYSLOG) {
        send_to_syslog(line);
        return;
    }
    if (filled + line.len > BUFFER)
        mg_access_flush();
    if (torn && !filled)
        buffer[filled++] = '\n';
    memcpy(buffer + filled, line.ptr, line.len);
    filled += line.len;
    if (!flush_queue)
        mg_access_flush();
    else if (!flusher.queue)
        mg_timeout_set(&flusher, flush_queue);
}

void mg_access_log(const struct mg_exchange *x)
{
    static char text[LINE_MOST];
    struct line l = { text, text + sizeof(text) };

    if (target == OFF)
        return;
    if (format == JSON)
        put_json(&l, x);
    else
        put_common(&l, x);
    emit((mg_slice){ text, (uint32_t)(l.at - text) });
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
    for (unsigned i = 0; !list.len && i < FIELD_COUNT; i++)
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

/* A pipe that several write to keeps apart only what is no longer than PIPE_BUF. */
static void look_at_target(void)
{
    struct stat s;

    write_most = fstat(fd, &s) == 0 && S_ISFIFO(s.st_mode) ? PIPE_BUF : BUFFER;
}

/* Without waiting: a named pipe's reader may be away or slow. */
static bool open_file(void)
{
    int opened = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0640);

    if (opened < 0)
        return false;
    if (fd >= 0)
        close(fd);
    fd = opened;
    look_at_target();
    return true;
}

static bool open_syslog(void)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(a.sun_path)) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(a.sun_path, path, strlen(path));
    if (fd >= 0)
        close(fd);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static bool open_target(mg_slice where)
{
    static const char prefix[] = "syslog:";
    const size_t n = sizeof(prefix) - 1;

    if (mg_text_equal(where, MG_LIT("off"))) {
        target = OFF;
        return true;
    }
    if (mg_text_equal(where, MG_LIT("stderr"))) {
        target = FILE_OR_PIPE;
        snprintf(path, sizeof(path), "stderr");
        fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        look_at_target();
        return fd >= 0;
    }
    target = where.len > n && memcmp(where.ptr, prefix, n) == 0 ? SYSLOG : FILE_OR_PIPE;
    if (target == SYSLOG)
        where = (mg_slice){ where.ptr + n, where.len - (uint32_t)n };
    snprintf(path, sizeof(path), "%.*s", (int)where.len, where.ptr);
    return target == SYSLOG ? open_syslog() : open_file();
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
    if (!open_target(s->access_log))
        return complaint("access_log", s->access_log, strerror(errno));
    flusher.fire = on_flush;
    flush_queue = mg_clock_queue(s->log_flush);
    return NULL;
}

void mg_access_reopen(void)
{
    if (target != FILE_OR_PIPE || strcmp(path, "stderr") == 0)
        return;
    mg_access_flush();
    if (!open_file())
        mg_log(MG_LOG_ERROR, "access log %s: %s; the old file stays in use", path, strerror(errno));
}

void mg_access_close(void)
{
    if (target != OFF && fd >= 0) {
        mg_access_flush();
        close(fd);
        fd = -1;
    }
    mg_timeout_clear(&flusher);
    target = OFF;
}

unsigned long mg_access_dropped(void)
{
    return dropped;
}

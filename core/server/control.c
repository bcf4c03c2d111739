/* control.c - the control socket of the master, and its client. */
#include "control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <ev.h>

#include "bind.h"

enum { LINE_MOST = 4096, CLIENTS_MOST = 16, ANSWER_MOST = 256 * 1024 };

struct asker {
    ev_io io;
    unsigned ticket; /* of the question under way; 0: none */
    bool ended;      /* asks nothing more, but still listens */
    size_t filled;
    char line[LINE_MOST];
};

static struct ev_loop *loop;
static const struct mg_control_events *events;
static struct asker *askers[CLIENTS_MOST];
static ev_io listening = { .fd = -1 };
static unsigned tickets;
static char path[108];
static bool handed; /* the file is another process's, too */

static void drop(struct asker *a)
{
    for (unsigned i = 0; i < CLIENTS_MOST; i++)
        if (askers[i] == a)
            askers[i] = NULL;
    ev_io_stop(loop, &a->io);
    close(a->io.fd);
    free(a);
    events->on_left();
}

unsigned mg_control_askers(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < CLIENTS_MOST; i++)
        n += askers[i] != NULL;
    return n;
}

/* Answers are short; an asker that does not read is dropped: false. */
static bool say(struct asker *a, const char *json)
{
    struct iovec v[2] = { { (void *)json, strlen(json) }, { (void *)"\n", 1 } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };
    ssize_t want = (ssize_t)v[0].iov_len + 1;

    a->ticket = 0;
    if (sendmsg(a->io.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == want)
        return true;
    drop(a);
    return false;
}

/* The value of "command" in one line of JSON, which needs nothing else yet. */
static bool is_command(const char *line, const char *word)
{
    const char *at = strstr(line, "\"command\"");

    if (!at)
        return false;
    at += strlen("\"command\"");
    at += strspn(at, " \t:");
    size_t n = strlen(word);
    return *at == '"' && strncmp(at + 1, word, n) == 0 && at[n + 1] == '"';
}

static bool refuse(struct asker *a, const char *why)
{
    char answer[256];

    snprintf(answer, sizeof(answer), "{\"error\":\"%s\"}", why);
    return say(a, answer);
}

/* False if the asker is gone. */
static bool obey(struct asker *a, const char *line)
{
    const char *(*lasting)(unsigned) = is_command(line, "reload")     ? events->on_reload
                                       : is_command(line, "upgrade")  ? events->on_upgrade
                                       : is_command(line, "rollback") ? events->on_rollback
                                                                      : NULL;
    if (lasting) {
        a->ticket = ++tickets;
        ev_io_stop(loop, &a->io); /* until it is answered */
        const char *why = lasting(a->ticket);
        if (!why)
            return true;
        ev_io_start(loop, &a->io);
        return refuse(a, why);
    }
    if (is_command(line, "status")) {
        if (!events->on_status(tickets + 1))
            return refuse(a, "another status is under way; ask again");
        a->ticket = ++tickets;
        ev_io_stop(loop, &a->io); /* until it is answered */
        return true;
    }
    if (is_command(line, "promote")) {
        const char *why = events->on_promote();
        return why ? refuse(a, why) : say(a, "{\"ok\":true}");
    }
    bool drain = is_command(line, "drain");
    if (!drain && !is_command(line, "stop"))
        return refuse(a, "unknown command; there are status, reload, rollback, promote, upgrade, drain and stop");
    bool there = say(a, "{\"ok\":true}");
    events->on_stop(drain);
    return there;
}

/* Takes one line at a time: the next one waits for the answer. */
static void take_lines(struct asker *a)
{
    char *end;

    while (!a->ticket && (end = memchr(a->line, '\n', a->filled))) {
        char line[LINE_MOST];
        size_t n = (size_t)(end - a->line);
        memcpy(line, a->line, n);
        line[n] = '\0';
        a->filled -= n + 1;
        memmove(a->line, end + 1, a->filled);
        if (!obey(a, line))
            return;
    }
    if (!a->ticket && (a->ended || a->filled == sizeof(a->line)))
        drop(a);
}

void mg_control_answer(unsigned ticket, const char *json)
{
    for (unsigned i = 0; i < CLIENTS_MOST; i++) {
        struct asker *a = askers[i];
        if (!a || !a->ticket || a->ticket != ticket)
            continue;
        if (!say(a, json))
            return;
        if (!a->ended)
            ev_io_start(loop, &a->io);
        take_lines(a);
        return;
    }
}

static void on_line(struct ev_loop *l, ev_io *io, int revents)
{
    struct asker *a = io->data;
    ssize_t n = recv(io->fd, a->line + a->filled, sizeof(a->line) - a->filled, MSG_DONTWAIT);

    (void)l;
    (void)revents;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        drop(a);
        return;
    }
    a->filled += (size_t)n;
    a->ended = n == 0;
    take_lines(a);
}

static void on_asker(struct ev_loop *l, ev_io *io, int revents)
{
    int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct asker *a = fd >= 0 ? calloc(1, sizeof(*a)) : NULL;

    (void)revents;
    for (unsigned i = 0; a && i < CLIENTS_MOST; i++) {
        if (!askers[i]) {
            askers[i] = a;
            ev_io_init(&a->io, on_line, fd, EV_READ);
            a->io.data = a;
            ev_io_start(l, &a->io);
            return;
        }
    }
    free(a);
    if (fd >= 0)
        close(fd);
}

/* False with errno. */
static bool address_of(const char *where, struct mg_address *a)
{
    *a = (struct mg_address){ .len = sizeof(a->path), .path = { .sun_family = AF_UNIX } };
    errno = strlen(where) >= sizeof(a->path.sun_path) ? ENAMETOOLONG : 0;
    if (!errno)
        memcpy(a->path.sun_path, where, strlen(where));
    return !errno;
}

static const char *complain(const char *where, const char *why)
{
    static char problem[512];

    snprintf(problem, sizeof(problem), "--control %s: %s", where, why);
    return problem;
}

static bool is_socket(const char *where)
{
    struct stat s;

    return lstat(where, &s) == 0 && S_ISSOCK(s.st_mode);
}

static void take(struct ev_loop *l, const struct mg_address *a, int fd, const struct mg_control_events *e)
{
    loop = l;
    events = e;
    memcpy(path, a->path.sun_path, sizeof(path));
    ev_io_init(&listening, on_asker, fd, EV_READ);
}

void mg_control_begin(void)
{
    handed = false;
    if (listening.fd >= 0)
        ev_io_start(loop, &listening);
}

const char *mg_control_open(struct ev_loop *l, const char *where, int inherited, const struct mg_control_events *e)
{
    struct mg_address a;

    if (!address_of(where, &a))
        return complain(where, strerror(errno));
    if (inherited >= 0 && is_socket(where)) {
        take(l, &a, inherited, e);
        handed = true;
        return NULL;
    }
    if (inherited >= 0)
        close(inherited);
    mg_bind_remove_stale(&a);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t mask = umask(0177);
    bool bound = fd >= 0 && bind(fd, &a.any, a.len) == 0 && listen(fd, CLIENTS_MOST) == 0;
    const char *problem = bound ? NULL : complain(where, strerror(errno));
    umask(mask);
    if (problem) {
        if (fd >= 0)
            close(fd);
        return problem;
    }
    take(l, &a, fd, e);
    mg_control_begin();
    return NULL;
}

int mg_control_descriptor(void)
{
    return listening.fd;
}

void mg_control_hand_over(void)
{
    if (listening.fd < 0)
        return;
    ev_io_stop(loop, &listening);
    close(listening.fd);
    listening.fd = -1;
}

void mg_control_forget(void)
{
    for (unsigned i = 0; i < CLIENTS_MOST; i++) {
        if (askers[i])
            close(askers[i]->io.fd);
        free(askers[i]);
        askers[i] = NULL;
    }
    if (listening.fd >= 0)
        close(listening.fd);
    listening.fd = -1;
}

void mg_control_close(void)
{
    for (unsigned i = 0; i < CLIENTS_MOST; i++)
        if (askers[i])
            drop(askers[i]);
    if (listening.fd >= 0 && !handed)
        unlink(path);
    mg_control_hand_over();
}

/* ---- The client. ---- */

/* Prints "key value" for every member of the objects in a status line, a block a worker. */
static void print_readable(const char *json)
{
    int depth = 0;

    for (const char *p = json; *p; p++) {
        if (*p == '{' || *p == '[') {
            depth++;
        } else if (*p == '}' || *p == ']') {
            depth--;
            if (*p == '}')
                putchar('\n');
        } else if (*p == ',') {
            if (p[1] != '{')
                fputs(depth > 1 ? "  " : "\n", stdout);
        } else if (*p == ':') {
            putchar(' ');
        } else if (*p != '"') {
            putchar(*p);
        }
        if (*p == ':' && p[1] == '[')
            putchar('\n');
    }
}

/* Prints the text that a JSON string holds; text begins behind its quote. */
static void print_string(const char *p, FILE *to)
{
    for (; *p && *p != '"'; p++) {
        unsigned code;
        if (*p != '\\') {
            fputc(*p, to);
        } else if (*++p == 'u' && sscanf(p + 1, "%4x", &code) == 1) {
            fputc(code < 0x80 ? (int)code : '?', to);
            p += 4;
        } else {
            fputc(*p == 'n' ? '\n' : *p == 't' ? '\t' : *p, to);
        }
    }
    fputc('\n', to);
}

/* The string that is the value of this key, if there is one. */
static void print_member(const char *json, const char *key, FILE *to)
{
    const char *at = strstr(json, key);

    if (at)
        print_string(at + strlen(key), to);
}

static void print_summary(const char *json)
{
    print_member(json, "\"summary\":\"", stdout);
    print_member(json, "\"text\":\"", stdout);
}

static int print_answer(int fd, const char *command, bool json)
{
    char *text = malloc(ANSWER_MOST + 1);
    size_t filled = 0;
    ssize_t n;

    if (!text)
        return 1;
    while (filled < ANSWER_MOST && (n = read(fd, text + filled, ANSWER_MOST - filled)) > 0) {
        filled += (size_t)n;
        if (memchr(text, '\n', filled))
            break;
    }
    text[filled] = '\0';
    text[strcspn(text, "\n")] = '\0';
    bool failed = !filled || strncmp(text, "{\"error\"", 8) == 0;
    if (!filled)
        fprintf(stderr, "moongate: no answer on the control socket\n");
    else if (json)
        puts(text);
    else if (failed)
        print_member(text, "{\"error\":\"", stderr);
    else if (strstr(text, "\"summary\":\"") && strcmp(command, "status") != 0)
        print_summary(text);
    else if (strcmp(text, "{\"ok\":true}") != 0)
        print_readable(text);
    free(text);
    return failed;
}

int mg_control_ask(const char *where, const char *command, bool json)
{
    struct mg_address a;
    /* A reload or an upgrade waits for the init hooks of all workers; the master knows for how long. */
    bool long_lasting = strcmp(command, "reload") == 0 || strcmp(command, "upgrade") == 0 ||
                        strcmp(command, "rollback") == 0;
    struct timeval patience = { long_lasting ? 3600 : 5, 0 };
    char line[64];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || !address_of(where, &a) || connect(fd, &a.any, a.len) != 0) {
        fprintf(stderr, "moongate: control socket %s: %s; is a moongate running with --control %s?\n", where,
                strerror(errno), where);
        if (fd >= 0)
            close(fd);
        return 1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    int n = snprintf(line, sizeof(line), "{\"command\":\"%s\"}\n", command);
    int status = send(fd, line, (size_t)n, MSG_NOSIGNAL) == n ? print_answer(fd, command, json) : 1;
    close(fd);
    return status;
}

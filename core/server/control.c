/* control.c - the control socket of the master, and its client. */
#include "control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <ev.h>

enum { LINE_MOST = 4096, CLIENTS_MOST = 16, ANSWER_MOST = 256 * 1024 };

struct asker {
    ev_io io;
    unsigned ticket;                /* of the question under way; 0: none */
    size_t filled;
    char line[LINE_MOST];
};

static struct ev_loop *loop;
static const struct mg_control_events *events;
static struct asker *askers[CLIENTS_MOST];
static ev_io listening = { .fd = -1 };
static unsigned tickets;
static char path[108];

static void drop(struct asker *a)
{
    for (unsigned i = 0; i < CLIENTS_MOST; i++)
        if (askers[i] == a)
            askers[i] = NULL;
    ev_io_stop(loop, &a->io);
    close(a->io.fd);
    free(a);
}

/* Answers are short; an asker that does not read is dropped. */
static void say(struct asker *a, const char *json)
{
    struct iovec v[2] = { { (void *)json, strlen(json) }, { (void *)"\n", 1 } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };
    ssize_t want = (ssize_t)v[0].iov_len + 1;

    a->ticket = 0;
    if (sendmsg(a->io.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) != want)
        drop(a);
}

void mg_control_answer(unsigned ticket, const char *json)
{
    for (unsigned i = 0; i < CLIENTS_MOST; i++) {
        if (askers[i] && askers[i]->ticket == ticket) {
            say(askers[i], json);
            return;
        }
    }
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

static void obey(struct asker *a, const char *line)
{
    if (is_command(line, "status")) {
        a->ticket = ++tickets;
        events->on_status(a->ticket);
    } else if (is_command(line, "stop") || is_command(line, "drain")) {
        bool drain = is_command(line, "drain");
        say(a, "{\"ok\":true}");
        events->on_stop(drain);
    } else {
        say(a, "{\"error\":\"unknown command; there are status, drain and stop\"}");
    }
}

static void on_line(struct ev_loop *l, ev_io *io, int revents)
{
    struct asker *a = io->data;
    ssize_t n = recv(io->fd, a->line + a->filled, sizeof(a->line) - 1 - a->filled, MSG_DONTWAIT);

    (void)l;
    (void)revents;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop(a);
        return;
    }
    a->filled += (size_t)n;
    a->line[a->filled] = '\0';
    char *end = strchr(a->line, '\n');
    if (!end) {
        if (a->filled == sizeof(a->line) - 1)
            drop(a);
        return;
    }
    *end = '\0';
    char line[LINE_MOST];
    memcpy(line, a->line, (size_t)(end - a->line) + 1);
    a->filled -= (size_t)(end + 1 - a->line);
    memmove(a->line, end + 1, a->filled);
    obey(a, line);
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

static bool address_of(const char *where, struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (strlen(where) >= sizeof(a->sun_path))
        return false;
    memcpy(a->sun_path, where, strlen(where));
    return true;
}

/* A file that nobody answers on was left by a process that died. */
static bool is_stale(const struct sockaddr_un *a)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) != 0 && errno == ECONNREFUSED;

    if (fd >= 0)
        close(fd);
    return stale;
}

const char *mg_control_open(struct ev_loop *l, const char *where, const struct mg_control_events *e)
{
    static char problem[256];
    struct sockaddr_un a;

    if (!address_of(where, &a)) {
        snprintf(problem, sizeof(problem), "--control %s: the path is longer than %zu bytes", where, sizeof(a.sun_path) - 1);
        return problem;
    }
    if (is_stale(&a))
        unlink(where);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t mask = umask(0177);
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, CLIENTS_MOST) == 0;
    umask(mask);
    if (!bound) {
        snprintf(problem, sizeof(problem), "--control %s: %s", where, strerror(errno));
        if (fd >= 0)
            close(fd);
        return problem;
    }
    loop = l;
    events = e;
    memcpy(path, a.sun_path, sizeof(path));
    ev_io_init(&listening, on_asker, fd, EV_READ);
    ev_io_start(loop, &listening);
    return NULL;
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
    if (listening.fd < 0)
        return;
    for (unsigned i = 0; i < CLIENTS_MOST; i++)
        if (askers[i])
            drop(askers[i]);
    ev_io_stop(loop, &listening);
    close(listening.fd);
    listening.fd = -1;
    unlink(path);
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

static int print_answer(int fd, bool json)
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
    else if (json || failed)
        puts(text);
    else if (strcmp(text, "{\"ok\":true}") != 0)
        print_readable(text);
    free(text);
    return failed;
}

int mg_control_ask(const char *where, const char *command, bool json)
{
    struct sockaddr_un a;
    struct timeval patience = { 5, 0 };
    char line[64];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || !address_of(where, &a) || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
        fprintf(stderr, "moongate: control socket %s: %s; is a moongate running with --control %s?\n", where, strerror(errno),
                where);
        if (fd >= 0)
            close(fd);
        return 1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    int n = snprintf(line, sizeof(line), "{\"command\":\"%s\"}\n", command);
    int status = send(fd, line, (size_t)n, MSG_NOSIGNAL) == n ? print_answer(fd, json) : 1;
    close(fd);
    return status;
}

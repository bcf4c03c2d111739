/* control.c - the control socket of the master. */
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
#include <jansson.h>

#include "bind.h"
#include "text.h"

enum { LINE_MOST = 4096, CLIENTS_MOST = 16, WHY_MOST = 8192 };
const char mg_control_done[] = "{\"ok\":true}";

struct asker {
    ev_io io;
    unsigned ticket; /* of the question under way; 0: none */
    bool ended;      /* asks nothing more, but still listens */
    size_t filled;
    char line[LINE_MOST];
};

static struct ev_loop *loop;
static const struct mg_control_command *commands;
static void (*on_left)(void);
static struct asker *askers[CLIENTS_MOST];
static ev_io listening = { .fd = -1 };
static unsigned tickets;
static char done_with[4096];
static json_t *question; /* that is being asked */
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
    on_left();
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

static bool refuse(struct asker *a, const char *why)
{
    static char answer[6 * WHY_MOST + 16];
    char text[WHY_MOST];

    snprintf(text, sizeof(text), "%s", why);
    size_t n = (size_t)snprintf(answer, sizeof(answer), "{\"error\":\"");
    n += mg_text_put_json(answer + n, mg_slice_of(text));
    snprintf(answer + n, sizeof(answer) - n, "\"}");
    return say(a, answer);
}

const char *mg_control_done_with(const char *json)
{
    snprintf(done_with, sizeof(done_with), "%s", json);
    return done_with;
}

const char *mg_control_given(const char *key)
{
    return json_string_value(json_object_get(question, key));
}

static const struct mg_control_command *find_command(const char *name)
{
    for (const struct mg_control_command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static const char *list_commands(void)
{
    static char text[256];
    size_t n = (size_t)snprintf(text, sizeof(text), "unknown command; there are");

    for (const struct mg_control_command *c = commands; c->name && n < sizeof(text); c++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s %s", c == commands ? "" : ",", c->name);
    return text;
}

static bool takes(const struct mg_control_command *c, const char *key)
{
    for (const char *const *k = c->takes; k && *k; k++)
        if (strcmp(*k, key) == 0)
            return true;
    return false;
}

/* What stands beside its name is a string, and one that it takes. */
static bool is_whole(const struct mg_control_command *c, json_t *asked)
{
    const char *key;
    json_t *value;

    json_object_foreach(asked, key, value) if (strcmp(key, "command") != 0 &&
                                               (!json_is_string(value) || !takes(c, key))) return false;
    return true;
}

static const char *list_keys(const struct mg_control_command *c)
{
    static char text[160];
    size_t n = (size_t)snprintf(text, sizeof(text), "%s takes %s beside its name", c->name,
                                c->takes ? "strings alone" : "nothing");

    for (const char *const *k = c->takes; k && *k && n < sizeof(text); k++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s \"%s\"", k == c->takes ? ":" : ",", *k);
    return text;
}

/* The command that an object asks for, or NULL with what is wrong. */
static const struct mg_control_command *choose(json_t *asked, const char **why)
{
    const char *name = json_string_value(json_object_get(asked, "command"));
    const struct mg_control_command *c = name ? find_command(name) : NULL;

    if (c && is_whole(c, asked))
        return c;
    *why = c ? list_keys(c) : name ? list_commands() : "a line like {\"command\":\"status\"} is needed";
    return NULL;
}

/* False if the asker is gone. */
static bool run(struct asker *a, const struct mg_control_command *c)
{
    a->ticket = ++tickets;
    ev_io_stop(loop, &a->io); /* until it is answered */
    const char *why = c->run(a->ticket);
    if (!why)
        return true;
    if (!a->ended)
        ev_io_start(loop, &a->io);
    return why == mg_control_done || why == done_with ? say(a, why) : refuse(a, why);
}

/* False if the asker is gone. */
static bool obey(struct asker *a, const char *line, size_t len)
{
    char problem[JSON_ERROR_TEXT_LENGTH + 64];
    const char *why = problem;
    json_error_t error;
    json_t *asked = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);

    if (!asked) {
        snprintf(problem, sizeof(problem), "this is no JSON: %s", error.text);
        return refuse(a, problem);
    }
    const struct mg_control_command *c = choose(asked, &why);
    question = asked;
    bool there = c ? run(a, c) : refuse(a, why);
    question = NULL;
    json_decref(asked);
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
        a->filled -= n + 1;
        memmove(a->line, end + 1, a->filled);
        if (!obey(a, line, n))
            return;
    }
    if (!a->ticket && (a->ended || a->filled == sizeof(a->line)))
        drop(a);
}

static struct asker *find_asker(unsigned ticket)
{
    for (unsigned i = 0; ticket && i < CLIENTS_MOST; i++)
        if (askers[i] && askers[i]->ticket == ticket)
            return askers[i];
    return NULL;
}

static void go_on(struct asker *a)
{
    if (!a->ended)
        ev_io_start(loop, &a->io);
    take_lines(a);
}

void mg_control_answer(unsigned ticket, const char *json)
{
    struct asker *a = find_asker(ticket);

    if (a && say(a, json))
        go_on(a);
}

void mg_control_refuse(unsigned ticket, const char *why)
{
    struct asker *a = find_asker(ticket);

    if (a && refuse(a, why))
        go_on(a);
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

static void take(const struct mg_address *a, int fd)
{
    memcpy(path, a->path.sun_path, sizeof(path));
    ev_io_init(&listening, on_asker, fd, EV_READ);
}

void mg_control_begin(void)
{
    handed = false;
    if (listening.fd >= 0)
        ev_io_start(loop, &listening);
}

const char *mg_control_open(struct ev_loop *l, const char *where, int inherited, const struct mg_control_command *given,
                            void (*left)(void))
{
    struct mg_address a;

    loop = l;
    commands = given;
    on_left = left;
    if (!mg_address_of_file(where, &a))
        return complain(where, strerror(errno));
    if (inherited >= 0 && is_socket(where)) {
        take(&a, inherited);
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
    take(&a, fd);
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

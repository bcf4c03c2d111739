/* ask.c - what the command line asks a running moongate, by its control socket. */
#include "ask.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "address.h"

enum { ANSWER_MOST = 256 * 1024 };

/* ---- To be read. ---- */

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
    const char *value = json_string_value(json_object_get(o, key));

    return value ? value : "";
}

static void print_generation(const json_t *g)
{
    printf("%10.0f  %-10s %7.0f %10.0f %8.0f %12.0f %8.1f\n", number(g, "number"), text(g, "state"),
           fmax(0, (double)time(NULL) - number(g, "since")), number(g, "exchanges"), number(g, "failures"),
           number(g, "hook_errors"), number(g, "memory") / 1048576);
}

/* One that is not in force in a worker, and lives on there. */
static void print_other(const json_t *g)
{
    if (strcmp(text(g, "state"), "in force") != 0)
        printf("        generation %.0f is %s: %.0f exchanges, %.1f MiB\n", number(g, "number"), text(g, "state"),
               number(g, "exchanges"), number(g, "memory") / 1048576);
}

static void print_each(const json_t *list, void (*print)(const json_t *one))
{
    for (size_t i = 0; i < json_array_size(list); i++)
        print(json_array_get(list, i));
}

static void print_worker(const json_t *w)
{
    printf("%6.0f %8.0f  %10.0f %10.0f %12.0f %10.0f %8.1f\n", number(w, "number"), number(w, "pid"),
           number(w, "generation"), number(w, "served"), number(w, "connections"), number(w, "exchanges"),
           number(w, "memory") / 1048576);
    print_each(json_object_get(w, "generations"), print_other);
}

static void print_out(const json_t *p)
{
    double left = number(p, "left");

    printf("        %s is %s", text(p, "address"), text(p, "state"));
    if (left > 0)
        printf(" for another %.0f s", left);
    printf(": %s\n", text(p, "why"));
}

static void print_upstream(const json_t *u)
{
    bool panic = json_is_true(json_object_get(u, "panic"));

    printf("%-24s %6.0f %8.0f %8.0f %9.0f  %s%s\n", text(u, "name"), number(u, "peers"), number(u, "healthy"),
           number(u, "ejected"), number(u, "draining"), text(u, "breaker"), panic ? ", in panic" : "");
    print_each(json_object_get(u, "out"), print_out);
}

/* One of the workers tells of them. */
static void print_upstreams(const json_t *w)
{
    const json_t *list = json_object_get(w, "upstreams");

    if (!json_array_size(list))
        return;
    printf("\nupstream                  peers  healthy  ejected  draining  breaker\n");
    print_each(list, print_upstream);
}

static void print_generations(const json_t *o)
{
    const json_t *probation = json_object_get(o, "probation"), *rollback = json_object_get(o, "rollback");
    const json_t *canary = json_object_get(o, "canary");

    if (canary)
        printf("generation %.0f is tried out with %s\n", number(canary, "generation"), text(canary, "of"));
    if (probation)
        printf("generation %.0f is on probation for another %.0f s; generation %.0f is kept\n",
               number(probation, "generation"), number(probation, "ends_in"), number(probation, "kept"));
    if (rollback)
        printf("generation %.0f was taken back: %s\n", number(rollback, "generation"), text(rollback, "why"));
    printf("%sgeneration  state        for s  exchanges      5xx  hook errors  Lua MiB\n",
           canary || probation || rollback ? "\n" : "");
    print_each(json_object_get(o, "generations"), print_generation);
}

static void print_status(const json_t *o)
{
    printf("moongate %s, pid %.0f, up for %.0f s, generation %.0f in force\n", text(o, "version"), number(o, "pid"),
           number(o, "uptime"), number(o, "generation"));
    print_generations(o);
    printf("\nworker      pid  generation     served  connections  exchanges  Lua MiB\n");
    print_each(json_object_get(o, "workers"), print_worker);
    print_each(json_object_get(o, "workers"), print_upstreams);
}

static void print_peer(const json_t *p)
{
    printf("  %-28s %6g  %-10s %-10s %6.0f %9.1f %10.0f %8.0f  %s\n", text(p, "address"), number(p, "weight"),
           text(p, "zone"), text(p, "state"), number(p, "active"), number(p, "latency") * 1000, number(p, "requests"),
           number(p, "failed"), text(p, "from"));
}

static void print_peers_of(const json_t *u)
{
    printf(
        "%s\n  peer                         weight  zone       state      active        ms   requests   failed  from\n",
        text(u, "name"));
    print_each(json_object_get(u, "peers"), print_peer);
}

static void print_peers(const json_t *o)
{
    print_each(json_object_get(o, "upstreams"), print_peers_of);
}

static void print_summary(const json_t *o)
{
    static const char *const keys[] = { "summary", "text" };

    for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        if (json_object_get(o, keys[i]))
            puts(text(o, keys[i]));
}

/* ---- Asking. ---- */

static const struct command {
    const char *name;
    void (*print)(const json_t *answer);
    int patience;      /* seconds; what waits for the init hooks of all workers, the master gives up in time */
    const char *takes; /* what a word behind it is; NULL: there may be none */
} commands[] = {
    { "status", print_status, 5, NULL },        { "generations", print_generations, 5, NULL },
    { "reload", print_summary, 3600, NULL },    { "check", print_summary, 3600, NULL },
    { "rollback", print_summary, 3600, NULL },  { "promote", print_summary, 3600, NULL },
    { "upgrade", print_summary, 3600, NULL },   { "peers", print_peers, 5, NULL },
    { "log-level", print_summary, 5, "level" }, { "drain", print_summary, 5, NULL },
    { "stop", print_summary, 5, NULL },
};

static const struct command *find(const char *name)
{
    for (unsigned i = 0; i < sizeof(commands) / sizeof(*commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

bool mg_ask_knows(const char *name)
{
    return find(name) != NULL;
}

const char *mg_ask_word(const char *name)
{
    const struct command *c = find(name);

    return c ? c->takes : NULL;
}

/* Prints one line of JSON. The exit status. */
static int print_answer(const struct command *c, const char *line, bool as_it_came)
{
    json_t *o = json_loads(line, 0, NULL);
    const char *error = json_string_value(json_object_get(o, "error"));

    if (!o)
        fprintf(stderr, "moongate: no answer on the control socket\n");
    else if (as_it_came)
        puts(line);
    else if (error)
        fprintf(stderr, "%s\n", error);
    else
        c->print(o);
    bool failed = !o || error;
    json_decref(o);
    return failed;
}

static int read_answer(int fd, const struct command *c, bool as_it_came)
{
    char *line = malloc(ANSWER_MOST + 1);
    size_t filled = 0;
    ssize_t n;

    if (!line)
        return 1;
    while (filled < ANSWER_MOST && (n = read(fd, line + filled, ANSWER_MOST - filled)) > 0) {
        filled += (size_t)n;
        if (memchr(line, '\n', filled))
            break;
    }
    line[filled] = '\0';
    line[strcspn(line, "\n")] = '\0';
    int status = print_answer(c, line, as_it_came);
    free(line);
    return status;
}

static bool send_question(int fd, const struct command *c, const struct mg_given *given)
{
    json_t *o = json_pack("{s:s}", "command", c->name);

    for (; given->key; given++)
        if (given->value)
            json_object_set_new(o, given->key, json_string(given->value));
    char *line = json_dumps(o, JSON_COMPACT);
    size_t len = line ? strlen(line) : 0;
    bool sent = len && send(fd, line, len, MSG_NOSIGNAL) == (ssize_t)len && send(fd, "\n", 1, MSG_NOSIGNAL) == 1;
    free(line);
    json_decref(o);
    return sent;
}

int mg_ask(const char *path, const char *name, const struct mg_given *given, bool as_it_came)
{
    const struct command *c = find(name);
    struct timeval patience = { c->patience, 0 };
    struct mg_address a;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || !mg_address_of_file(path, &a) || connect(fd, &a.any, a.len) != 0) {
        fprintf(stderr, "moongate: control socket %s: %s; is a moongate running with --control %s?\n", path,
                strerror(errno), path);
        if (fd >= 0)
            close(fd);
        return 1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    int status = send_question(fd, c, given) ? read_answer(fd, c, as_it_came) : 1;
    close(fd);
    return status;
}

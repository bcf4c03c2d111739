/* declared.c - what the script in force declares for the master.
 *
 * Behind the binds of a struct mg_ready lie what has changed and the files it
 * was loaded from. */
#include "declared.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "shared.h"
#include "sockets.h"
#include "watch.h"

static const struct mg_master_options *options;
static struct mg_ready *now;
static unsigned generation = 1;

void mg_declared_start(const struct mg_master_options *given)
{
    options = given;
}

void mg_declared_end(void)
{
    free(now);
    now = NULL;
}

static size_t size_of(const struct mg_ready *r)
{
    return sizeof(*r) + r->count * sizeof(r->binds[0]) + r->changes + r->files;
}

struct mg_ready *mg_declared_copy(const struct mg_ready *r)
{
    struct mg_ready *copy = malloc(size_of(r));

    return copy ? memcpy(copy, r, size_of(r)) : NULL;
}

struct mg_ready *mg_declared_read(const struct mg_letter *l)
{
    const struct mg_ready *r = (const struct mg_ready *)l->body;
    bool whole = l->len >= sizeof(*r) && r->count <= MG_BINDS_MOST && r->changes <= MG_LETTER_MOST &&
                 r->files <= MG_LETTER_MOST && l->len == size_of(r) &&
                 ((!r->changes && !r->files) || !l->body[l->len - 1]);

    return whole ? mg_declared_copy(r) : NULL;
}

const char *mg_declared_changes(const struct mg_ready *r)
{
    return r->changes ? (const char *)&r->binds[r->count] : NULL;
}

void mg_declared_watch(bool broadly)
{
    mg_watch_files(now->files ? (const char *)&now->binds[now->count] + now->changes : NULL, broadly);
}

static bool open_log(const struct mg_ready *r, const char **why)
{
    static char problem[MG_WHERE_TEXT + 128];

    if (options->error_log_given || mg_log_open(r->error_log[0] ? r->error_log : NULL))
        return true;
    snprintf(problem, sizeof(problem), "error_log %s: %s", r->error_log, strerror(errno));
    *why = problem;
    return false;
}

bool mg_declared_take(const struct mg_ready *r, const char **why)
{
    struct mg_ready *copy = mg_declared_copy(r);

    *why = "out of memory";
    bool taken = copy && mg_sockets_open(copy->binds, copy->count, why) && open_log(copy, why);
    if (taken) {
        generation += now != NULL;
        free(now);
        now = copy;
        mg_declared_watch(false);
    } else {
        free(copy);
    }
    mg_sockets_keep(now ? now->binds : NULL, now ? now->count : 0);
    return taken;
}

const struct mg_ready *mg_declared_now(void)
{
    return now;
}

unsigned mg_declared_generation(void)
{
    return generation;
}

unsigned mg_declared_workers(void)
{
    cpu_set_t processors;
    int wanted = options->workers ? options->workers : now->workers;

    if (!wanted)
        wanted = sched_getaffinity(0, sizeof(processors), &processors) == 0 ? CPU_COUNT(&processors) : 1;
    return (unsigned)(wanted < 1 ? 1 : wanted > MG_WORKERS_MAX ? MG_WORKERS_MAX : wanted);
}

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
static unsigned newest = 1;

/* A generation as the master knows it. */
struct known {
    struct mg_ready *ready;
    struct mg_sources *sources; /* as they were when it was put in force; NULL: they could not be read */
    unsigned number;
};

static struct known in_force = { .number = 1 };
static struct known former;
static struct known canary;
static struct mg_canary_terms terms; /* by which the canary is tried out */
static bool returned;                /* the disk may hold something else than what is in force */

static void forget(struct known *k)
{
    free(k->ready);
    mg_sources_free(k->sources);
    *k = (struct known){ 0 };
}

void mg_declared_start(const struct mg_master_options *given)
{
    options = given;
}

void mg_declared_end(void)
{
    forget(&in_force);
    forget(&former);
    forget(&canary);
    in_force.number = newest;
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

static const char *files_of(const struct mg_ready *r)
{
    return r->files ? (const char *)&r->binds[r->count] + r->changes : NULL;
}

void mg_declared_watch(bool broadly)
{
    mg_watch_files(files_of(in_force.ready), broadly);
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

static void keep_sockets(void)
{
    const struct mg_ready *now = in_force.ready;

    mg_sockets_keep(now ? now->binds : NULL, now ? now->count : 0);
}

/* Its sockets are bound and its log is open; or what is in force stays as it is. */
static bool open_for(const struct mg_ready *r, const char **why)
{
    if (mg_sockets_open(r->binds, r->count, why) && open_log(r, why))
        return true;
    keep_sockets();
    return false;
}

bool mg_declared_try(const struct mg_ready *r, const char **why)
{
    bool opened = mg_sockets_open(r->binds, r->count, why);

    keep_sockets();
    return opened;
}

/* `next` is in force, which it then owns; or it stays the caller's, and nothing has changed. */
static bool put_in_force(struct known next, const char **why)
{
    bool first = !in_force.ready;

    if (!open_for(next.ready, why))
        return false;
    forget(&former);
    if (next.ready->probation > 0 && !first)
        former = in_force;
    else
        forget(&in_force);
    in_force = next;
    mg_sockets_keep(next.ready->binds, next.ready->count);
    return true;
}

static bool know(struct known *k, const struct mg_ready *r, unsigned number, const char **why)
{
    struct mg_ready *copy = mg_declared_copy(r);

    *why = "out of memory";
    if (!copy)
        return false;
    *k = (struct known){ .ready = copy, .number = number };
    if (copy->files)
        k->sources = mg_sources_read(files_of(copy));
    return true;
}

bool mg_declared_take(const struct mg_ready *r, const char **why)
{
    struct known next;
    bool first = !in_force.ready;

    if (!know(&next, r, newest + !first, why))
        return false;
    if (!put_in_force(next, why)) {
        forget(&next);
        return false;
    }
    newest = next.number;
    returned = false;
    mg_declared_watch(false);
    return true;
}

bool mg_declared_go_back(const char **why)
{
    if (!former.ready) {
        *why = "the generation of before is not kept any more";
        return false;
    }
    if (!open_for(former.ready, why))
        return false;
    forget(&in_force);
    in_force = former;
    former = (struct known){ 0 };
    returned = true;
    mg_sockets_keep(in_force.ready->binds, in_force.ready->count);
    mg_declared_watch(true);
    return true;
}

void mg_declared_forget_former(void)
{
    forget(&former);
}

/* ---- Tried out. ---- */

bool mg_declared_begin_canary(const struct mg_ready *r, const struct mg_canary_terms *t, const char **why)
{
    if (!know(&canary, r, newest + 1, why))
        return false;
    if (!in_force.sources || !canary.sources) {
        forget(&canary);
        *why = "the scripts' texts can't be kept (they are longer than 16 MiB), so a worker that dies could not load "
               "both generations; reload without --canary";
        return false;
    }
    newest = canary.number;
    terms = *t;
    return true;
}

bool mg_declared_take_canary(const char **why)
{
    if (!put_in_force(canary, why))
        return false;
    canary = (struct known){ 0 };
    returned = true;
    mg_declared_watch(true);
    return true;
}

void mg_declared_forget_canary(void)
{
    if (canary.number)
        returned = true;
    forget(&canary);
}

unsigned mg_declared_canary(void)
{
    return canary.number;
}

const struct mg_canary_terms *mg_declared_terms(void)
{
    return &terms;
}

/* ---- What is there. ---- */

unsigned mg_declared_beside(const struct mg_sources **sources)
{
    const struct known *k = canary.ready ? &canary : &former;

    *sources = k->sources;
    return k->sources ? k->number : 0;
}

const struct mg_sources *mg_declared_sources(void)
{
    return returned || canary.ready ? in_force.sources : NULL;
}

const struct mg_ready *mg_declared_now(void)
{
    return in_force.ready;
}

unsigned mg_declared_generation(void)
{
    return in_force.number;
}

unsigned mg_declared_next(void)
{
    return newest + 1;
}

unsigned mg_declared_workers(void)
{
    cpu_set_t processors;
    int wanted = options->workers ? options->workers : in_force.ready->workers;

    if (!wanted)
        wanted = sched_getaffinity(0, sizeof(processors), &processors) == 0 ? CPU_COUNT(&processors) : 1;
    return (unsigned)(wanted < 1 ? 1 : wanted > MG_WORKERS_MAX ? MG_WORKERS_MAX : wanted);
}

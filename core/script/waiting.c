/* waiting.c - what Lua waits for beside sockets: time, and names; and the tasks that wait though no exchange owns them.
 *
 * Implements what seam.h declares. */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "resolve.h"
#include "script.h"
#include "srv.h"
#include "text.h"

enum { LOOKUP_MOST = 16 };

/* ---- Sleeping. ---- */

struct sleep {
    struct mg_wait wait; /* first */
    struct mg_alarm *alarm;
};

static void on_alarm(void *owner)
{
    struct sleep *s = owner;

    mg_task_answer(&s->wait, MG_OK);
    free(s);
}

static void cancel_sleep(struct mg_wait *w)
{
    struct sleep *s = (struct sleep *)w;

    mg_alarm_free(s->alarm);
    free(s);
}

int mg_sleep(mg_task *t, double seconds)
{
    struct sleep *s = calloc(1, sizeof(*s));

    if (!s)
        return MG_NO_MEMORY;
    int ticket = mg_task_wait(t, &s->wait, cancel_sleep);
    if (ticket < 0) {
        free(s);
        return ticket;
    }
    s->alarm = mg_alarm_new(seconds > 0 ? seconds : 0, on_alarm, s);
    if (s->alarm)
        return ticket;
    mg_task_cancel(t, ticket);
    return MG_NO_MEMORY;
}

void mg_ticket_cancel(mg_task *t, int ticket)
{
    mg_task_cancel(t, ticket);
}

/* ---- Tasks. ---- */

/* A task that Lua opened: a timer's, or of work that no exchange owns. */
struct own_task {
    struct mg_task task; /* first */
    struct own_task *next, *previous;
};

static struct own_task *own_tasks;

mg_task *mg_task_open(mg_generation *g)
{
    struct own_task *t = malloc(sizeof(*t));

    if (!t)
        return NULL;
    mg_task_init(&t->task, g);
    t->next = own_tasks;
    t->previous = NULL;
    if (own_tasks)
        own_tasks->previous = t;
    own_tasks = t;
    return &t->task;
}

void mg_task_close(mg_task *task)
{
    struct own_task *t = (struct own_task *)task;

    mg_outside_end(task->generation, task);
    mg_fetch_end(task->generation, task);
    mg_coding_end(task);
    mg_file_watch_end(task);
    mg_task_end(task);
    if (t->previous)
        t->previous->next = t->next;
    else
        own_tasks = t->next;
    if (t->next)
        t->next->previous = t->previous;
    free(t);
}

void mg_seam_end(struct mg_generation *g)
{
    for (struct own_task *t = own_tasks, *next; t; t = next) {
        next = t->next;
        if (t->task.generation == g)
            mg_task_close(&t->task);
    }
    mg_outside_end(g, NULL);
    mg_fetch_end(g, NULL);
}

/* ---- Names. ---- */

struct mg_lookup_wait {
    struct mg_wait wait; /* first */
    struct mg_lookup *lookup;
    unsigned count;
    struct mg_address list[LOOKUP_MOST];
    char text[MG_ADDRESS_TEXT];
};

static void on_looked_up(void *owner, const struct mg_address *list, unsigned count, const char *why)
{
    struct mg_lookup_wait *l = owner;

    l->lookup = NULL;
    l->count = why ? 0 : count < LOOKUP_MOST ? count : LOOKUP_MOST;
    if (l->count)
        memcpy(l->list, list, l->count * sizeof(*list));
    mg_task_answer(&l->wait, l->count ? MG_OK : MG_UNKNOWN_NAME);
}

static void cancel_lookup(struct mg_wait *w)
{
    struct mg_lookup_wait *l = (struct mg_lookup_wait *)w;

    if (l->lookup)
        mg_lookup_cancel(l->lookup);
    l->lookup = NULL;
}

int mg_lookup_open(mg_task *t, const char *name, uint32_t len, mg_lookup_wait **out)
{
    struct mg_lookup_wait *l = calloc(1, sizeof(*l));

    *out = l;
    if (!l)
        return MG_NO_MEMORY;
    unsigned count = LOOKUP_MOST;
    l->lookup = mg_resolve((mg_slice){ name, len }, l->list, &count, on_looked_up, l);
    l->count = count;
    if (!l->lookup)
        return count ? MG_OK : MG_NO_MEMORY;
    int ticket = mg_task_wait(t, &l->wait, cancel_lookup);
    if (ticket < 0)
        cancel_lookup(&l->wait);
    return ticket;
}

int mg_lookup_address(mg_lookup_wait *l, int index, mg_slice *out)
{
    if (index < 0 || (unsigned)index >= l->count)
        return MG_ABSENT;
    *out = (mg_slice){ l->text, (uint32_t)mg_address_print_host(&l->list[index], l->text) };
    return MG_OK;
}

void mg_lookup_free(mg_lookup_wait *l)
{
    if (!l)
        return;
    cancel_lookup(&l->wait);
    free(l);
}

/* ---- SRV records. ---- */

struct mg_srv_wait {
    struct mg_wait wait; /* first */
    struct mg_srv_question *question;
    struct mg_srv_answer *answer;
    const char *problem;
};

static void on_records(void *owner, struct mg_srv_answer *answer, const char *problem)
{
    struct mg_srv_wait *w = owner;

    w->question = NULL;
    w->answer = answer;
    w->problem = problem;
    mg_task_answer(&w->wait, answer ? MG_OK : MG_UNKNOWN_NAME);
}

static void cancel_srv(struct mg_wait *wait)
{
    struct mg_srv_wait *w = (struct mg_srv_wait *)wait;

    if (w->question)
        mg_srv_cancel(w->question);
    w->question = NULL;
}

int mg_srv_open(mg_task *t, const char *name, uint32_t len, mg_srv_wait **out)
{
    struct mg_srv_wait *w = calloc(1, sizeof(*w));

    *out = w;
    if (!w)
        return MG_NO_MEMORY;
    w->question = mg_srv_ask((mg_slice){ name, len }, on_records, w);
    if (!w->question)
        return MG_NO_MEMORY;
    int ticket = mg_task_wait(t, &w->wait, cancel_srv);
    if (ticket < 0)
        cancel_srv(&w->wait);
    return ticket;
}

int mg_srv_record(const mg_srv_wait *w, int index, mg_srv *out)
{
    if (!w->answer || index < 0 || (unsigned)index >= w->answer->count)
        return MG_ABSENT;
    *out = w->answer->records[index];
    return MG_OK;
}

double mg_srv_ttl(const mg_srv_wait *w)
{
    return w->answer ? w->answer->ttl : 0;
}

void mg_srv_problem(const mg_srv_wait *w, mg_slice *out)
{
    *out = mg_slice_of(w->problem ? w->problem : "out of memory");
}

void mg_srv_free(mg_srv_wait *w)
{
    if (!w)
        return;
    cancel_srv(&w->wait);
    free(w->answer);
    free(w);
}

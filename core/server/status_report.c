/* status_report.c - the answers to the commands "status" and "generations": what the master knows, and what each
 * worker has open. */
#include "status_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "control.h"
#include "declared.h"
#include "probation.h"

enum { ANSWER_ROOM = 256 * 1024 };
static const double PATIENCE = 1.0; /* seconds for a worker to answer */

static struct ev_loop *loop;
static ev_timer late;
static unsigned asked;   /* the control socket's question under way; 0: none */
static bool generations; /* it is about them alone */
static double began;

/* NULL: this worker has not told, at least not yet. */
static const char *report_of(unsigned worker)
{
    return mg_children.all[worker].reported ? mg_children.all[worker].report : NULL;
}

/* Of one worker's report, what is said of a generation, which may stand there more than once. */
static double memory_in(const char *report, unsigned number)
{
    json_t *o = json_loads(report, 0, NULL), *list = json_object_get(o, "generations"), *g;
    double sum = 0;
    size_t i;

    json_array_foreach(list, i, g) if (json_integer_value(json_object_get(g, "number")) == (json_int_t)number)
        sum += json_number_value(json_object_get(g, "memory"));
    json_decref(o);
    return sum;
}

/* Over all workers. */
static double memory_of(unsigned number)
{
    double sum = 0;

    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (report_of(i))
            sum += memory_in(report_of(i), number);
    return sum;
}

static size_t put_workers(char *to, size_t size)
{
    size_t n = (size_t)snprintf(to, size, ",\"workers\":[");
    bool first = true;

    for (unsigned i = 0; i < MG_WORKERS_MAX; i++) {
        const char *report = report_of(i);
        if (!report || n + strlen(report) + 4 > size)
            continue;
        n += (size_t)snprintf(to + n, size - n, "%s%s", first ? "" : ",", report);
        first = false;
    }
    return n + (size_t)snprintf(to + n, size - n, "]");
}

static size_t put_process(char *to, size_t size)
{
    return (size_t)snprintf(to, size, "\"version\":\"" MG_VERSION "\",\"pid\":%d,\"uptime\":%.0f,\"generation\":%u,",
                            (int)getpid(), ev_now(loop) - began, mg_declared_generation());
}

static void answer(void)
{
    static char text[ANSWER_ROOM] = "{";
    const size_t room = sizeof(text) - 1; /* for the last brace */
    unsigned ticket = asked;
    size_t n = 1;

    if (!generations)
        n += put_process(text + n, room - n);
    n += mg_probation_report(text + n, room - n, memory_of);
    if (!generations)
        n += put_workers(text + n, room - n);
    snprintf(text + n, sizeof(text) - n, "}");
    ev_timer_stop(loop, &late);
    asked = 0;
    mg_control_answer(ticket, text);
}

static void on_late(struct ev_loop *l, ev_timer *t, int events)
{
    (void)l;
    (void)t;
    (void)events;
    answer();
}

static void answer_if_all_reported(void)
{
    if (!asked)
        return;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (mg_children.all[i].pid && !mg_children.all[i].reported)
            return;
    answer();
}

static const char *ask(unsigned ticket, bool generations_alone)
{
    if (asked)
        return "another status is under way; ask again";
    asked = ticket;
    generations = generations_alone;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        mg_children.all[i].reported = false;
    mg_children_tell(MG_WORD_STATUS);
    ev_timer_set(&late, mg_children_alive() ? PATIENCE : 0, 0);
    ev_timer_start(loop, &late);
    return NULL;
}

const char *mg_status_ask(unsigned ticket)
{
    return ask(ticket, false);
}

const char *mg_status_ask_generations(unsigned ticket)
{
    return ask(ticket, true);
}

void mg_status_on_report(struct mg_child *c, const struct mg_letter *l)
{
    free(c->report);
    c->report = strdup(l->body);
    c->reported = true;
    answer_if_all_reported();
}

void mg_status_on_end(void)
{
    answer_if_all_reported();
}

void mg_status_start(struct ev_loop *on)
{
    loop = on;
    began = ev_now(loop);
    ev_init(&late, on_late);
}

/* status_report.c - the answer to the command "status": what the master knows, and what each worker has open. */
#include "status_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "declared.h"
#include "probation.h"

enum { ANSWER_ROOM = 256 * 1024 };
static const double PATIENCE = 1.0; /* seconds for a worker to answer */

static struct ev_loop *loop;
static ev_timer late;
static unsigned asked; /* the control socket's question under way; 0: none */
static double began;

static void answer(void)
{
    static char text[ANSWER_ROOM];
    size_t n = (size_t)snprintf(text, sizeof(text),
                                "{\"version\":\"" MG_VERSION "\",\"pid\":%d,\"uptime\":%.0f,\"generation\":%u,",
                                (int)getpid(), ev_now(loop) - began, mg_declared_generation());
    unsigned ticket = asked;
    bool first = true;

    n += mg_probation_report(text + n, sizeof(text) - n);
    n += (size_t)snprintf(text + n, sizeof(text) - n, ",\"workers\":[");
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++) {
        const char *report = mg_children.all[i].report;
        if (!mg_children.all[i].reported || !report || n + strlen(report) + 4 > sizeof(text))
            continue;
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", first ? "" : ",", report);
        first = false;
    }
    snprintf(text + n, sizeof(text) - n, "]}");
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

const char *mg_status_ask(unsigned ticket)
{
    if (asked)
        return "another status is under way; ask again";
    asked = ticket;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        mg_children.all[i].reported = false;
    mg_children_tell(MG_WORD_STATUS);
    ev_timer_set(&late, mg_children_alive() ? PATIENCE : 0, 0);
    ev_timer_start(loop, &late);
    return NULL;
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

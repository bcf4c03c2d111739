/* task.h - somebody running Lua: an exchange, a connection, a timer.
 *
 * A task owns what its fibers wait for. Every pending operation embeds a
 * struct mg_wait in the task's list; its ticket is a small number, unique in
 * the generation until it is answered. Ending a task cancels the list, so no
 * timer or socket outlives it, and nothing is ever answered twice.
 *
 * struct mg_policy is what the core asks of whoever runs the scripts: the
 * Lua VM (enter.c), or a test.
 */
#pragma once

#include "holder.h"

#include "status.h"

struct mg_generation;
struct mg_policy;
struct mg_wait;

enum mg_next {
    MG_MORE, /* go on now */
    MG_PARK, /* wait for an event */
    MG_DONE, /* it is over */
};

struct mg_policy {
    /* Run the hooks of this phase. MG_PARK: they wait; the engine is run again when they are done. */
    enum mg_next (*enter)(struct mg_policy *p, struct mg_view *x, enum mg_phase phase);
    enum mg_next (*connect)(struct mg_policy *p, struct mg_connection_view *c);
    /* Gives the ticket back by mg_ticket_release() before the fiber runs. */
    void (*wake)(struct mg_policy *p, int ticket, int code);
    /* The client has left: fibers of this exchange that wait for each other, not for a ticket, learn it too. */
    void (*gone)(struct mg_policy *p, uint32_t slot);
    /* The view dies: an exchange's, a connection's. What its task has open is closed. */
    void (*finish)(struct mg_policy *p, struct mg_view *x);
    void (*closed)(struct mg_policy *p, struct mg_connection_view *c);
};

struct mg_task {
    unsigned magic;
    bool gone; /* waits are answered MG_GONE at once */
    struct mg_generation *generation;
    struct mg_wait *waits;
};

struct mg_wait {
    struct mg_wait *next, *previous;
    struct mg_task *task; /* NULL while not waiting */
    int ticket;
    void (*cancel)(struct mg_wait *w); /* stop the work; w is out of the list already and may be freed */
};

/* Tickets of a generation: which wait each belongs to. */
struct mg_tickets {
    struct mg_wait **waits; /* by ticket - 1; free ones are linked through free_next */
    int *free_next;
    int room, free, used;
};

void mg_task_init(struct mg_task *t, struct mg_generation *g);
/* Cancels all that it waits for, and lets go of the generation. */
void mg_task_end(struct mg_task *t);
/* Every wait is cancelled and answered MG_GONE, later ones too: the client has left. */
void mg_task_gone(struct mg_task *t);

/* A new ticket for w, above 0; MG_GONE if the task is gone, MG_NO_MEMORY. */
int MG_MUST_CHECK mg_task_wait(struct mg_task *t, struct mg_wait *w, void (*cancel)(struct mg_wait *w));
/* Answers: the fiber that waits for it runs, now or when the VM is free. w may be used again. */
void mg_task_answer(struct mg_wait *w, int code);
/* Cancels the wait behind a ticket of this task, if there is one. It is never answered. */
void mg_task_cancel(struct mg_task *t, int ticket);
static inline bool mg_wait_pending(const struct mg_wait *w)
{
    return w->task != NULL;
}

/* A ticket that was answered may be used again. */
void mg_ticket_release(struct mg_tickets *t, int ticket);
void mg_tickets_free(struct mg_tickets *t);

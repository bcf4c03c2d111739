/* task.c - tickets: who waits for what, answered once or cancelled. */
#include "task.h"

#include <assert.h>
#include <stdlib.h>

#include "generation.h"

enum { TASK_MAGIC = 0x6d67746b };

void mg_task_init(struct mg_task *t, struct mg_generation *g)
{
    *t = (struct mg_task){ .magic = TASK_MAGIC, .generation = g };
    g->tasks++;
}

static bool grow(struct mg_tickets *t)
{
    int room = t->room ? t->room * 2 : 64;
    struct mg_wait **waits = realloc(t->waits, (size_t)room * sizeof(*waits));

    if (!waits)
        return false;
    t->waits = waits;
    int *next = realloc(t->free_next, (size_t)room * sizeof(*next));
    if (!next)
        return false;
    t->free_next = next;
    /* Ticket n lies at n - 1; the free list holds tickets, 0 ends it. */
    for (int i = t->room; i < room; i++) {
        waits[i] = NULL;
        next[i] = i + 1 < room ? i + 2 : 0;
    }
    t->free = t->room + 1;
    t->room = room;
    return true;
}

void mg_tickets_free(struct mg_tickets *t)
{
    free(t->waits);
    free(t->free_next);
    *t = (struct mg_tickets){ 0 };
}

int mg_task_wait(struct mg_task *t, struct mg_wait *w, void (*cancel)(struct mg_wait *w))
{
    struct mg_tickets *tickets = &t->generation->tickets;

    assert(t->magic == TASK_MAGIC && !mg_wait_pending(w));
    if (t->gone)
        return MG_GONE;
    if (!tickets->free && !grow(tickets))
        return MG_NO_MEMORY;

    int ticket = tickets->free;
    tickets->free = tickets->free_next[ticket - 1];
    tickets->waits[ticket - 1] = w;
    tickets->used++;

    *w = (struct mg_wait){ .next = t->waits, .task = t, .ticket = ticket, .cancel = cancel };
    if (t->waits)
        t->waits->previous = w;
    t->waits = w;
    return ticket;
}

void mg_ticket_release(struct mg_tickets *t, int ticket)
{
    t->free_next[ticket - 1] = t->free;
    t->free = ticket;
    t->used--;
}

/* Takes w out of its task's list; its ticket, which is not free yet, is returned. */
static int take_off(struct mg_wait *w)
{
    struct mg_task *t = w->task;
    struct mg_tickets *tickets = &t->generation->tickets;
    int ticket = w->ticket;

    if (w->previous)
        w->previous->next = w->next;
    else
        t->waits = w->next;
    if (w->next)
        w->next->previous = w->previous;
    w->task = NULL;

    tickets->waits[ticket - 1] = NULL;
    return ticket;
}

void mg_task_answer(struct mg_wait *w, int code)
{
    struct mg_policy *policy = w->task->generation->policy;

    policy->wake(policy, take_off(w), code);
}

void mg_task_cancel(struct mg_task *t, int ticket)
{
    struct mg_tickets *tickets = &t->generation->tickets;
    struct mg_wait *w = ticket > 0 && ticket <= tickets->room ? tickets->waits[ticket - 1] : NULL;

    if (!w || w->task != t)
        return;
    mg_ticket_release(tickets, take_off(w));
    w->cancel(w);
}

/* All waits are taken off first: a fiber that is woken may end the task, and with it free what holds it. Tickets that
 * are still to be answered are linked through the list of free ones, which they are not in yet. */
void mg_task_gone(struct mg_task *t)
{
    struct mg_generation *g = t->generation;
    int first = 0;

    t->gone = true;
    while (t->waits) {
        struct mg_wait *w = t->waits;
        int ticket = take_off(w);
        w->cancel(w);
        g->tickets.free_next[ticket - 1] = first;
        first = ticket;
    }
    while (first) {
        int ticket = first;
        first = g->tickets.free_next[ticket - 1];
        g->policy->wake(g->policy, ticket, MG_GONE);
    }
}

void mg_task_end(struct mg_task *t)
{
    assert(t->magic == TASK_MAGIC);
    t->gone = true;
    while (t->waits) {
        struct mg_wait *w = t->waits;
        mg_ticket_release(&t->generation->tickets, take_off(w));
        w->cancel(w);
    }
    t->magic = 0;
    t->generation->tasks--;
}

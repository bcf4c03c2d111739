/* agenda.c - what is due when: a binary heap that knows where each entry lies. */
#include "agenda.h"

#include <stdlib.h>

static bool is_before(const struct mg_agenda_entry *a, const struct mg_agenda_entry *b)
{
    return a->at < b->at || (a->at == b->at && a->serial < b->serial);
}

static void put(struct mg_agenda *a, unsigned at, struct mg_agenda_entry e)
{
    a->entries[at] = e;
    e.due->place = at + 1;
}

/* Finds e's place from `at`, which is free, towards the first. */
static void rise(struct mg_agenda *a, unsigned at, struct mg_agenda_entry e)
{
    while (at) {
        unsigned above = (at - 1) / 2;
        if (!is_before(&e, &a->entries[above]))
            break;
        put(a, at, a->entries[above]);
        at = above;
    }
    put(a, at, e);
}

static void sink(struct mg_agenda *a, unsigned at, struct mg_agenda_entry e)
{
    for (;;) {
        unsigned below = 2 * at + 1;
        if (below >= a->count)
            break;
        if (below + 1 < a->count && is_before(&a->entries[below + 1], &a->entries[below]))
            below++;
        if (!is_before(&a->entries[below], &e))
            break;
        put(a, at, a->entries[below]);
        at = below;
    }
    put(a, at, e);
}

bool mg_agenda_add(struct mg_agenda *a, struct mg_due *d, double at)
{
    if (a->count == a->room) {
        unsigned room = a->room ? a->room * 2 : 64;
        struct mg_agenda_entry *more = realloc(a->entries, room * sizeof(*more));
        if (!more)
            return false;
        a->entries = more;
        a->room = room;
    }
    rise(a, a->count++, (struct mg_agenda_entry){ at, ++a->serial, d });
    return true;
}

void mg_agenda_remove(struct mg_agenda *a, struct mg_due *d)
{
    if (!d->place)
        return;
    unsigned at = d->place - 1;
    d->place = 0;
    struct mg_agenda_entry last = a->entries[--a->count];
    if (at == a->count)
        return;
    if (at && is_before(&last, &a->entries[(at - 1) / 2]))
        rise(a, at, last);
    else
        sink(a, at, last);
}

struct mg_due *mg_agenda_take(struct mg_agenda *a)
{
    struct mg_due *first = a->count ? a->entries[0].due : NULL;

    if (first)
        mg_agenda_remove(a, first);
    return first;
}

void mg_agenda_free(struct mg_agenda *a)
{
    free(a->entries);
    *a = (struct mg_agenda){ 0 };
}

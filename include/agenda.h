/* agenda.h - what is due when: a queue by time, and by the order of entry for what is due at the same time. */
#pragma once

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

/* A part of whatever is due; all zero while it is in no agenda. */
struct mg_due {
    unsigned place; /* from 1 */
};

struct mg_agenda_entry {
    double at;
    uint64_t serial;
    struct mg_due *due;
};

struct mg_agenda {
    struct mg_agenda_entry *entries; /* a heap of two branches; the first is due first */
    unsigned count, room;
    uint64_t serial; /* of the last that was added */
};

/* False without memory. d is in no agenda. */
bool mg_agenda_add(struct mg_agenda *a, struct mg_due *d, double at);
/* Nothing, if it is not in it. */
void mg_agenda_remove(struct mg_agenda *a, struct mg_due *d);
/* When the first is due; INFINITY: nothing is. */
static inline double mg_agenda_next(const struct mg_agenda *a)
{
    return a->count ? a->entries[0].at : INFINITY;
}
/* Takes the first out; NULL if there is none. */
struct mg_due *mg_agenda_take(struct mg_agenda *a);
void mg_agenda_free(struct mg_agenda *a);

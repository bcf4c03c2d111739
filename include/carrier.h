/* carrier.h - carriers that are to be flushed: each codec has one such list, and includes this alone.
 *
 * Whatever happens to a connection marks it; its codec's flush looks at it
 * later, with nothing else on the stack, and frees it if it is doomed. */
#pragma once

#include "stream.h"

struct mg_carriers {
    struct mg_carrier *first;
    bool flushing;
};

static inline void mg_carrier_mark(struct mg_carriers *list, struct mg_carrier *c)
{
    if (c->dirty)
        return;
    c->dirty = true;
    c->next_dirty = list->first;
    list->first = c;
}

/* It ends at the next flush, without another word; with `abort` by a reset. */
static inline void mg_carrier_doom(struct mg_carriers *list, struct mg_carrier *c, bool abort)
{
    c->doomed = true;
    c->abort |= abort;
    mg_carrier_mark(list, c);
}

/* Flushes all that are marked, also those that are marked meanwhile. True if there were any. */
static inline bool mg_carriers_flush(struct mg_carriers *list, void (*flush)(struct mg_carrier *c),
                                     void (*destroy)(struct mg_carrier *c))
{
    bool some = false;

    if (list->flushing)
        return false;
    list->flushing = true;
    while (list->first) {
        struct mg_carrier *c = list->first;
        list->first = c->next_dirty;
        c->dirty = false;
        some = true;
        if (!c->doomed)
            flush(c);
        if (c->doomed && !c->dirty)
            destroy(c);
    }
    list->flushing = false;
    return some;
}

/* news.h - what has become of an upstream or a peer: a line in the error log, and word for the script's `peer` hooks.
 *
 * Whoever decides tells, once. The hooks run later, from the loop, in the same worker: whoever tells may be in the
 * middle of anything. The seam's mg_news_* are here. */
#pragma once

#include "clock.h"
#include "task.h"

struct mg_news_entry;

/* A generation's. */
struct mg_news {
    bool wanted; /* the script has hooks */
    struct mg_news_entry *first, *last, *taken;
    unsigned count;
    struct mg_wait wait; /* who takes them */
    struct mg_timeout soon;
};

/* `format` says why, with figures. p is NULL for news of the upstream as a whole. */
void mg_news_tell(struct mg_upstream *u, struct mg_peer *p, enum mg_news_kind kind, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void mg_news_free(struct mg_news *n);

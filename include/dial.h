/* dial.h - a stream to an origin: borrowed from the pool (pool.h) or newly opened. */
#pragma once

#include "origin.h"
#include "stream.h"

struct mg_dial {
    /* Once, unless cancelled, and never before mg_dial_begin() has returned. s, or NULL with failure and its text. */
    void (*done)(struct mg_dial *d, struct mg_stream *s, enum mg_failure failure, const char *text);
    const struct mg_stream_events *events; /* for the stream */
    void *owner;
    const struct mg_peer_info *client; /* for whom, where the origin is told so; NULL: for ourselves */
    bool bytes;                        /* a connection of its own that carries bytes alone (tcp.h) */
    struct mg_dial_work *work;         /* NULL when nothing is under way */
};

enum mg_dial_how {
    MG_DIAL_ANY,
    MG_DIAL_CHECKED, /* a kept connection is looked at once more: the request can't be repeated */
    MG_DIAL_FRESH,   /* no kept connection */
};

/* A stream at once if one is kept; otherwise NULL, and done() comes. Without memory it does not: d->work is NULL then.
 * */
struct mg_stream *mg_dial_begin(struct mg_dial *d, struct mg_origin *o, enum mg_dial_how how);
void mg_dial_cancel(struct mg_dial *d);

/* Who dials in a simulation, by the same contract: `begin` may set d->work, and then done() comes or `cancel`. */
struct mg_dial_stand_in {
    struct mg_stream *(*begin)(struct mg_dial *d, struct mg_origin *o);
    void (*cancel)(struct mg_dial *d);
};
void mg_dial_stand_in(const struct mg_dial_stand_in *who);

/* Closes what is idle; nothing is kept any more. */
void mg_dial_stop(void);
unsigned mg_dial_live(void); /* dials under way */

/* queue.h - exchanges that wait for a peer below max_connections, first come first served. */
#pragma once

#include "exchange.h"

/* How many wait in this worker, in all, and for peers of u. */
extern unsigned mg_queued;
unsigned mg_queue_length(const struct mg_upstream *u);

/* Waits from now on, until x->queue_until; it is run again when a peer of its upstream has room, and now and then, as
 * another worker may have freed one. */
void mg_queue_enter(struct mg_exchange *x);
/* Does nothing if it does not wait. */
void mg_queue_leave(struct mg_exchange *x);
/* A peer of u has room: the first in line gets its turn. */
void mg_queue_call(const struct mg_upstream *u);

/* listener.h - connections come in: accepted, looked at by the connect phase, handed to a codec.
 *
 * A listener is one bound socket of the master's in this worker, with what the
 * generation in force says of it. */
#pragma once

#include "generation.h"

struct ev_loop;
struct mg_listener;

/* Takes over a bound, listening, non-blocking descriptor; `listen` is copied. NULL without memory. */
struct mg_listener *mg_listener_new(struct ev_loop *loop, int fd, const struct mg_listen *listen);
/* New connections are served as `listen` says, which is copied; those that are open keep what they began with. False
 * without memory. */
bool MG_MUST_CHECK mg_listener_settle(struct mg_listener *l, const struct mg_listen *listen);
const struct mg_address *mg_listener_address(const struct mg_listener *l);
/* Begins to accept. */
void mg_listener_start(struct mg_listener *l);
/* No more connections; those that are open go on. */
void mg_listener_stop(struct mg_listener *l);
/* All connections of all listeners: answer what is in progress, then close. */
void mg_listener_drain(void);
/* All connections of all listeners, at once. */
void mg_listener_close(void);
/* Accepts nothing more, and goes with its last connection. */
void mg_listener_remove(struct mg_listener *l);
/* Open connections from clients. */
unsigned mg_listener_connections(void);

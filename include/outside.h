/* outside.h - sockets that Lua opens: Redis, or any stream. The seam's mg_socket_* are implemented here.
 *
 * A socket belongs to a task, or to its generation (kept connections): what
 * its owner leaves open is closed with it. One fiber may wait for reading and
 * one for writing. When mg_socket_open answers with an error at once, there
 * is no socket. */
#pragma once

#include "task.h"

struct mg_clock_queue;
struct mg_generation;

/* Closes all sockets that belong to this task, or, with NULL for the task, to the generation itself. */
void mg_outside_end(struct mg_generation *g, struct mg_task *t);
/* Writes what was sent since the last call: once for all that a turn of Lua sends. Called with mg_h1_flush(). */
void mg_outside_flush(void);
/* The queue of a duration that a script names, rounded up to two digits, so that however scripts compute them there are
 * few queues. NULL for 0 or less. */
struct mg_clock_queue *mg_outside_patience(double seconds);
/* Open sockets: for the question what is left open. */
unsigned mg_outside_live(void);

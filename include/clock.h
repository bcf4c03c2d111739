/* clock.h - the time, and timeouts.
 *
 * Nearly all timeouts have one of a few durations, so each duration has a
 * queue that is sorted by construction: setting, moving and clearing one is
 * O(1), and a queue arms one libev timer. Times are seconds of a monotonic
 * clock read once a turn of the loop; only mg_clock_wall() is the wall's.
 */
#pragma once

#include "holder.h"

struct ev_loop;
struct mg_clock_queue;

struct mg_timeout {
    struct mg_timeout *next, *previous;
    struct mg_clock_queue *queue; /* NULL while not set */
    double deadline;
    void (*fire)(struct mg_timeout *t); /* not set any more when called; may free t */
};

/* Once a process, before anything else here. Keeps the loop awake for none of it. */
void mg_clock_start(struct ev_loop *loop);
/* Clears what is set and frees the queues. */
void mg_clock_stop(void);
struct ev_loop *mg_clock_loop(void);

double mg_clock_now(void);  /* monotonic, as of this turn of the loop */
double mg_clock_read(void); /* the same clock, read anew */
double mg_clock_wall(void); /* Unix time, as of this turn of the loop */
/* "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 5.6.7), 29 bytes, made once a second. */
const char *mg_clock_date(void);

/* The queue of this duration, made when first asked for; NULL for 0 or less,
 * which means never. Lives until mg_clock_stop(). */
struct mg_clock_queue *mg_clock_queue(double seconds);

/* Start anew, or move, a timeout; a queue of NULL clears it. */
void mg_timeout_set(struct mg_timeout *t, struct mg_clock_queue *queue);
void mg_timeout_clear(struct mg_timeout *t);

/* A single wake-up after an odd number of seconds. */
struct mg_alarm;
struct mg_alarm *mg_alarm_new(double seconds, void (*fire)(void *owner), void *owner);
/* Before it fired; an alarm that fired is gone by itself. */
void mg_alarm_free(struct mg_alarm *a);

/* Instead of mg_clock_start(): from now on no real time passes. It is `begin` until mg_clock_set() says otherwise, and
 * Unix time `wall` then. Several machines may share the clock, each with a number: what is set belongs to the one whose
 * turn it is, and before it fires `enter`, unless it is NULL, is told whose turn it is now. */
void mg_clock_simulate(double begin, double wall, void (*enter)(unsigned whom));
/* When the next timeout or alarm is due, or earlier, if one that would have been was cleared; INFINITY: none is set. */
double mg_clock_due(void);
/* The time is `to`, which is not before what it was: what is due by then fires. To keep the order, step by step. */
void mg_clock_set(double to);
/* It is the turn of `whom`. */
void mg_clock_enter(unsigned whom);
unsigned mg_clock_whom(void);

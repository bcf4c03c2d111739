/* clock.c - the time, and one queue of timeouts per duration.
 *
 * A queue's libev timer is armed for the head that it had then, and left
 * alone when the head moves on: when it fires too early it is armed again for
 * the head of that moment. So setting and clearing touch nothing but the list.
 */
#include "clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <ev.h>

#include "agenda.h"

struct mg_clock_queue {
    ev_timer timer;         /* active whenever the queue is not empty */
    struct mg_timeout ring; /* next is the head, the first to fire */
    double seconds;
    unsigned whom; /* it is for */
    struct mg_clock_queue *next;
};

struct mg_alarm {
    union {
        ev_timer timer;
        struct mg_due due; /* in simulated time */
    };
    unsigned whom;
    void (*fire)(void *owner);
    void *owner;
};

static struct ev_loop *loop;
static ev_check turn;
static double now;
static struct mg_clock_queue *queues;
static bool simulated;
static double wall_at_zero; /* of simulated time */
static double soonest;      /* in simulated time: no timeout is due before */
static struct mg_agenda alarms;
static unsigned whom; /* it is the turn of */
static void (*on_enter)(unsigned whom);

double mg_clock_read(void)
{
    struct timespec t;

    if (simulated)
        return now;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void on_turn(struct ev_loop *l, ev_check *w, int events)
{
    (void)l, (void)w, (void)events;
    now = mg_clock_read();
}

void mg_clock_start(struct ev_loop *on)
{
    loop = on;
    ev_check_init(&turn, on_turn);
    ev_set_priority(&turn, EV_MAXPRI); /* before all who ask for the time */
    ev_check_start(loop, &turn);
    ev_unref(loop);
    ev_now_update(loop);
    now = mg_clock_read();
}

static void unlink_timeout(struct mg_timeout *t)
{
    t->previous->next = t->next;
    t->next->previous = t->previous;
    t->queue = NULL;
}

void mg_clock_stop(void)
{
    while (queues) {
        struct mg_clock_queue *q = queues;
        queues = q->next;
        while (q->ring.next != &q->ring)
            unlink_timeout(q->ring.next);
        if (!simulated)
            ev_timer_stop(loop, &q->timer);
        free(q);
    }
    mg_agenda_free(&alarms);
    if (simulated) {
        simulated = false;
        whom = 0;
        return;
    }
    ev_ref(loop);
    ev_check_stop(loop, &turn);
    loop = NULL;
}

struct ev_loop *mg_clock_loop(void)
{
    return loop;
}

double mg_clock_now(void)
{
    return now;
}

double mg_clock_wall(void)
{
    return simulated ? wall_at_zero + now : ev_now(loop);
}

const char *mg_clock_date(void)
{
    static const char days[][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
    static const char months[][4] = {
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"
    };
    static time_t made = -1;
    static char text[64];

    time_t second = (time_t)mg_clock_wall();
    if (second == made)
        return text;

    struct tm t;
    gmtime_r(&second, &t);
    snprintf(text, sizeof(text), "%s, %02d %s %04d %02d:%02d:%02d GMT", days[t.tm_wday], t.tm_mday, months[t.tm_mon],
             t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
    made = second;
    return text;
}

static void arm(struct mg_clock_queue *q)
{
    if (simulated) {
        if (q->ring.next->deadline < soonest)
            soonest = q->ring.next->deadline;
        return;
    }
    double left = q->ring.next->deadline - now;
    ev_timer_set(&q->timer, left > 0 ? left : 0, 0);
    ev_timer_start(loop, &q->timer);
}

/* What a fired timeout sets anew is later than now: this ends. */
static void fire_queue(struct mg_clock_queue *q)
{
    for (struct mg_timeout *t; (t = q->ring.next) != &q->ring && t->deadline <= now;) {
        unlink_timeout(t);
        t->fire(t);
    }
}

static void on_timer(struct ev_loop *l, ev_timer *w, int events)
{
    (void)l, (void)events;
    struct mg_clock_queue *q = w->data;

    fire_queue(q);
    if (q->ring.next != &q->ring && !ev_is_active(&q->timer))
        arm(q);
}

struct mg_clock_queue *mg_clock_queue(double seconds)
{
    if (!(seconds > 0))
        return NULL;
    for (struct mg_clock_queue *q = queues; q; q = q->next)
        if (q->seconds == seconds && q->whom == whom)
            return q;

    /* NULL would mean never, and a limit that never strikes is worse than an end. */
    struct mg_clock_queue *q = calloc(1, sizeof(*q));
    if (!q)
        abort();
    ev_timer_init(&q->timer, on_timer, 0, 0);
    q->timer.data = q;
    q->ring.next = q->ring.previous = &q->ring;
    q->ring.deadline = INFINITY;
    q->seconds = seconds;
    q->whom = whom;
    q->next = queues;
    queues = q;
    return q;
}

void mg_timeout_set(struct mg_timeout *t, struct mg_clock_queue *q)
{
    if (t->queue)
        unlink_timeout(t);
    if (!q)
        return;

    t->queue = q;
    t->deadline = now + q->seconds;
    t->next = &q->ring;
    t->previous = q->ring.previous;
    t->previous->next = t;
    q->ring.previous = t;
    if (__builtin_expect(!ev_is_active(&q->timer), 0))
        arm(q);
}

void mg_timeout_clear(struct mg_timeout *t)
{
    if (t->queue)
        unlink_timeout(t);
}

static void fire_alarm(struct mg_alarm *a)
{
    void (*fire)(void *owner) = a->fire;
    void *owner = a->owner;
    free(a);
    fire(owner);
}

static void on_alarm(struct ev_loop *l, ev_timer *w, int events)
{
    (void)l, (void)events;
    fire_alarm(w->data);
}

struct mg_alarm *mg_alarm_new(double seconds, void (*fire)(void *owner), void *owner)
{
    struct mg_alarm *a = malloc(sizeof(*a));
    if (!a)
        return NULL;
    a->fire = fire;
    a->owner = owner;
    if (simulated) {
        a->due.place = 0;
        a->whom = whom;
        if (mg_agenda_add(&alarms, &a->due, now + (seconds > 0 ? seconds : 0)))
            return a;
        free(a);
        return NULL;
    }

    /* libev counts from the start of this turn, which may have been long. */
    double after = seconds > 0 ? seconds + (mg_clock_read() - now) : 0;
    ev_timer_init(&a->timer, on_alarm, after, 0);
    a->timer.data = a;
    ev_timer_start(loop, &a->timer);
    return a;
}

void mg_alarm_free(struct mg_alarm *a)
{
    if (simulated)
        mg_agenda_remove(&alarms, &a->due);
    else
        ev_timer_stop(loop, &a->timer);
    free(a);
}

/* ---- Simulated time. ---- */

void mg_clock_simulate(double begin, double wall, void (*enter)(unsigned whom))
{
    simulated = true;
    on_enter = enter;
    now = begin;
    soonest = begin; /* timeouts of before are looked at */
    wall_at_zero = wall - begin;
}

double mg_clock_due(void)
{
    double alarm = mg_agenda_next(&alarms);

    return soonest < alarm ? soonest : alarm;
}

static void fire_timeouts(void)
{
    soonest = INFINITY;
    for (struct mg_clock_queue *q = queues; q; q = q->next) {
        if (q->ring.next->deadline <= now) {
            mg_clock_enter(q->whom);
            fire_queue(q);
        }
    }
    for (struct mg_clock_queue *q = queues; q; q = q->next)
        if (q->ring.next->deadline < soonest)
            soonest = q->ring.next->deadline;
}

void mg_clock_set(double to)
{
    uint64_t last = alarms.serial;

    now = to;
    if (soonest <= now)
        fire_timeouts();
    /* An alarm of 0 seconds that is set by one of these waits for the next call, or this would not end. */
    while (mg_agenda_next(&alarms) <= now && alarms.entries[0].serial <= last) {
        struct mg_alarm *a = MG_HOLDER(mg_agenda_take(&alarms), struct mg_alarm, due);
        mg_clock_enter(a->whom);
        fire_alarm(a);
    }
}

void mg_clock_enter(unsigned who)
{
    whom = who;
    if (on_enter)
        on_enter(who);
}

unsigned mg_clock_whom(void)
{
    return whom;
}

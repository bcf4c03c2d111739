/* times.h - how long a client or an origin may take: the durations of its limits as queues of the clock.
 *
 * The numbers themselves are struct mg_limits of seam.h, which scripts fill
 * in; this adds what C makes of them once: the clock's queues.
 */
#pragma once

#include "clock.h"
#include "framing.h"
#include "head.h"

struct mg_times {
    struct mg_clock_queue *head, *body, *send, *idle, *half_close;
};

static inline struct mg_times mg_times_of(const struct mg_limits *l)
{
    return (struct mg_times){
        mg_clock_queue(l->head_timeout), mg_clock_queue(l->body_timeout),       mg_clock_queue(l->send_timeout),
        mg_clock_queue(l->idle_timeout), mg_clock_queue(l->half_close_timeout),
    };
}

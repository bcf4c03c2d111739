/* in_flight.c - a peer's part in a try: counted when it begins, judged when it ends. */
#include "in_flight.h"

#include "breaker.h"
#include "ejection.h"
#include "queue.h"

void mg_in_flight_begin(struct mg_peer *p)
{
    mg_peer_begin(p);
    if (p->guarded)
        mg_breaker_began(p->upstream);
}

void mg_in_flight_end(struct mg_peer *p, bool failed, double latency)
{
    mg_peer_end(p, failed, latency);
    if (failed)
        mg_ejection_failed(p);
    if (p->guarded)
        mg_breaker_ended(p->upstream, failed ? MG_OUTCOME_FAILED : latency >= 0 ? MG_OUTCOME_GOOD : MG_OUTCOME_UNKNOWN);
    if (mg_queued)
        mg_queue_call(p->upstream);
}

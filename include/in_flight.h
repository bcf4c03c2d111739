/* in_flight.h - a peer's part in a try: counted when it begins, judged when it ends. */
#pragma once

#include "peer.h"

void mg_in_flight_begin(struct mg_peer *p);
/* As mg_peer_end(); its ejection and the upstream's breaker hear of it, and who waits for a place gets it. */
void mg_in_flight_end(struct mg_peer *p, bool failed, double latency);

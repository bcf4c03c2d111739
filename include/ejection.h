/* ejection.h - peers that fail their requests are left out for a while: passive detection.
 *
 * Failures in a row are seen where the last of them happens. What takes a look at all peers (the share of errors
 * within a window, latency beside the others') and the end of ejections is decided by mg_upstream_judge, which one
 * worker calls for all at an interval; it is the seam's. */
#pragma once

#include "peer.h"

/* A try at this peer has failed, and mg_peer_end has counted it. */
void mg_ejection_failed(struct mg_peer *p);
/* The end of ejections, and what the windows show. */
void mg_ejection_judge(struct mg_upstream *u, double now);

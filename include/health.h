/* health.h - which peers are healthy: what the checks have found, and what the peers say of themselves.
 *
 * A peer is healthy while the checks do not say that it is down and nobody has
 * ejected it (ejection.h). Both are kept in its shared view; the seam's
 * mg_peer_checked, mg_peer_set_load and mg_upstream_begin are here. */
#pragma once

#include "message.h"
#include "peer.h"

/* Its `down` or `ejected` has changed: is it healthy now? Tells of a panic that begins or ends with it. */
void mg_health_settle(struct mg_peer *p);
/* The head of an answer of a peer with `watched`: takes what it says of its load. True if its status counts as a
 * failure. */
bool mg_health_see(struct mg_peer *p, const struct mg_message *answer);

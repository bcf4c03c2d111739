/* mirror.h - a copy of a request to another upstream, whose answer nobody gets. */
#pragma once

#include "exchange.h"

/* The request has been sent to its own upstream, and what became of that is known: now or never. Nothing of it is the
 * exchange's any more when this returns. */
void mg_mirror_send(struct mg_exchange *x);
/* The worker ends: and with it all copies under way. */
void mg_mirror_stop(void);

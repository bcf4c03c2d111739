/* leader.h - which worker does what one of them does for all: discovery, health checks.
 *
 * A place in shared memory says who leads, and until when. One that ends is put off by its master, at once; one that
 * hangs, by the time. The seam's mg_leader_of and mg_leader_lead are here.
 */
#pragma once

#include "status.h"

/* The worker of this slot has ended: others may lead what it led. */
void mg_leader_forget_slot(unsigned slot);
/* This worker drains: it leads nothing from now on, so that those do who have what is in force now. */
void mg_leader_leave(void);

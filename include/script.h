/* script.h - what enter.c and vm.c need of the seam's other side. */
#pragma once

#include "coding.h"
#include "fetch.h"
#include "outside.h"
#include "watching.h"

/* Runs what Lua has set going: exchanges it touched, connections it has decided on, a generation that is ready.
 * After each entry into Lua. */
void mg_seam_settle(void);
/* Ends what the scripts of g have open that belongs to no exchange: timers' tasks, kept sockets. */
void mg_seam_end(struct mg_generation *g);

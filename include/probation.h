/* probation.h - is a generation that has just been put in force worse than the one before?
 *
 * For a time after a commit (gate.set { probation = ... }) every worker keeps the generation of before. Meanwhile the
 * shares of 5xx answers and of hooks that throw are compared with those of the minute before the commit. */
#pragma once

#include <ev.h>

#include "channel.h"

/* The one in force is worse than the one before, and this is why. */
typedef void mg_on_worse(const char *why);

/* Once, before all others. */
void mg_probation_start(struct ev_loop *loop, mg_on_worse *on_worse);
/* `now` has taken the place of `before`; r is what it declared. */
void mg_probation_begin(unsigned before, unsigned now, const struct mg_ready *r);
/* `before` is in force again. */
void mg_probation_taken_back(unsigned before, const char *why);
/* `canary`, which has declared r, is tried out beside the one in force, and compared with it from now on; a probation
 * under way is over. */
void mg_probation_try_out(unsigned canary, const struct mg_ready *r);
/* It is tried out no more, and this is why. */
void mg_probation_end_canary(const char *why);
/* It is over: the one of before is let go. False: there was none. */
bool mg_probation_promote(void);
/* Is the one of before kept? */
bool mg_probation_is_on(void);
/* Members of a JSON object for `moongate status`: the generations, what is on probation, the last rollback. memory_of
 * says how many bytes the VMs of a generation take. */
size_t mg_probation_report(char *to, size_t size, double (*memory_of)(unsigned number));

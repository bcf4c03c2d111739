/* reload.h - the script is loaded anew in all workers, or in none.
 *
 * One worker after another is asked to prepare, so that compiling never stops
 * all loops at once; when all are ready, what is new is bound and all are told
 * to commit. Until then whatever goes wrong changes nothing; from then on
 * it can be taken back as a whole, while the generation of before is kept. */
#pragma once

#include "children.h"

/* Once, before all others. */
void mg_reload_start(struct ev_loop *loop);
void mg_reload_end(void);

/* Begins; the answer goes to mg_control_answer(). NULL, or why it can't be now. */
const char *mg_reload_asked(unsigned ticket);
/* The same, but nothing is put in force: the answer is what would change. */
const char *mg_reload_check(unsigned ticket);
/* The same, but the new generation is only tried out, by these terms, until mg_reload_promote() or
 * mg_reload_end_canary(). Meanwhile nothing else is reloaded. */
const char *mg_reload_try_out(unsigned ticket, const struct mg_canary_terms *t);
/* What is tried out is in force from now on, and on probation. NULL, or why it can't be. */
const char *mg_reload_promote(unsigned ticket);
/* What is tried out serves no more; `why` is told. An answer for the control socket, or why it can't be. */
const char *mg_reload_end_canary(const char *why);
/* By nobody who waits for an answer. One that is under way is followed by another: it may be about a later edit. */
void mg_reload_unasked(void);
/* All workers go back to the generation of before, which is kept; `why` is told. NULL, or why it can't be. */
const char *mg_reload_back(unsigned ticket, const char *why);
bool mg_reload_is_under_way(void);
/* The one under way, if it has not committed yet, changes nothing. */
void mg_reload_give_up(const char *why);
/* The same, since moongate stops; no other follows. */
void mg_reload_no_more(void);

/* News of a worker: it has prepared; it has begun; it has died, and another may have taken its place. */
void mg_reload_on_prepared(struct mg_child *c);
void mg_reload_on_in_force(void);
void mg_reload_on_end(const struct mg_child *c, const struct mg_child_end *end);

/* generations.h - the generations of a worker: loaded, in force, retired, rebuilt. */
#pragma once

#include "canary.h"
#include "worker.h"

struct ev_loop;

/* Once, before all others; `options` must live as long. */
void mg_generations_start(struct ev_loop *loop, const struct mg_worker_options *options);
/* Drops the one in force, and those that are retired. */
void mg_generations_end(void);

/* Begins to run the script in a fresh VM, a slice a turn of the loop: g->on_loaded follows, and on_ready once its init
 * hooks were begun (vm.h). NULL with the text for the user. */
struct mg_generation *mg_generations_load(unsigned number, mg_on_loaded *on_loaded, mg_on_ready *on_ready,
                                          mg_slice *problem);
/* Is the one of this number loaded from a text that the master has kept, and not from the disk? */
bool mg_generations_has_text(unsigned number);
/* Why its init hooks failed. */
const char *mg_generations_fault(const struct mg_generation *g);
/* The one that was in force is retired; or kept, if g is on probation. */
void mg_generations_put_in_force(struct mg_generation *g, bool on_probation);
/* A share of the exchanges begins in g from now on. on_lost: its VM was lost, and it is forgotten. */
void mg_generations_try_out(struct mg_generation *g, const struct mg_canary_terms *t, void (*on_lost)(void));
/* It ends, as a generation that another has replaced; nothing, if there is none. */
void mg_generations_end_canary(void);
/* g is what has been in force before, loaded once more. */
void mg_generations_keep(struct mg_generation *g);
/* The one of before, which may be put in force again; NULL: there is none. */
struct mg_generation *mg_generations_kept(void);
/* The same, and it is the caller's to put in force. */
struct mg_generation *mg_generations_take_kept(void);
/* It will not come back. */
void mg_generations_let_kept_go(void);
/* What was loaded and will not be in force; *g may be NULL, and is afterwards. */
void mg_generations_forget(struct mg_generation **g);
/* Another takes the place of the one whose VM was lost. */
void mg_generations_keep_no_rebuilt(void);
/* Frees those that nothing refers to any more; before the loop sleeps. */
void mg_generations_close_retired(void);

/* The first of those that are retired; `next` leads on. */
const struct mg_generation *mg_generations_retired(void);
/* What they hold now, and how many exchanges. */
struct mg_worker_level mg_generations_level(void);
/* Chunks of arenas that hold what scripts declared: they are not left open. */
unsigned mg_generations_declared(void);

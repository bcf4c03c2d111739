/* engine.h - runs exchanges through their steps.
 *
 * A step does its part, names the step that follows, and says whether to go
 * on now (MORE), to wait for an event (PARK), or that the exchange is over
 * (DONE). It may be entered again after a wait, so it begins by reading facts.
 * Events record facts and ask for another turn; they never run a step.
 */
#pragma once

#include "exchange.h"

struct mg_step_entry {
    const char *name;
    enum mg_next (*run)(struct mg_exchange *x);
};

/* The way of a request, by enum mg_step: exchange.c's table. */
void mg_engine_start(const struct mg_step_entry *steps);
/* The ids of exchanges are the same from here on each time it is called so: for simulations. */
void mg_engine_seed(uint64_t begin);
const char *mg_engine_step_name(enum mg_step step);

/* Run until it parks or ends. Never nests: from inside a step it asks for another turn. */
void mg_engine_run(struct mg_exchange *x);
/* Something has changed while nothing may run (a call of the seam): it is run by mg_engine_run_touched(), which comes
 * after each entry into Lua and before the loop sleeps. */
void mg_engine_touch(struct mg_exchange *x);
void mg_engine_run_touched(void);

/* A new exchange, zeroed, in an arena of its own, held by engine and client; NULL without memory. */
struct mg_exchange *mg_engine_new(struct mg_generation *g);
void mg_engine_drop(struct mg_exchange *x, enum mg_hand hand);
/* Frees the dead. Called before the loop sleeps: no callback can still be using them. */
unsigned mg_engine_reap(void);
unsigned mg_engine_live(void);
uint64_t mg_engine_served(void);

static inline enum mg_next mg_go(struct mg_exchange *x, enum mg_step step)
{
    x->view.step = (uint8_t)step;
    return MG_MORE;
}

static inline bool mg_wants(const struct mg_exchange *x, enum mg_phase phase)
{
    return x->view.wants >> phase & 1;
}

enum mg_next mg_engine_enter(struct mg_exchange *x, enum mg_phase phase);
/* Runs a phase's hooks if it has any and they have not run yet. PARK while they wait. */
static inline enum mg_next mg_engine_hooks(struct mg_exchange *x, enum mg_phase phase)
{
    return mg_wants(x, phase) ? mg_engine_enter(x, phase) : MG_MORE;
}
/* The phase may be entered once more: another attempt. */
static inline void mg_engine_again(struct mg_exchange *x, enum mg_phase phase)
{
    x->entered &= ~(1u << phase);
}
/* Where to go after hooks: to ERROR or RESPONSE if they failed or answered, otherwise to `next`. */
enum mg_next mg_engine_after_hooks(struct mg_exchange *x, enum mg_step next);
/* The proxy itself answers with this status; to ERROR. */
enum mg_next mg_engine_fail(struct mg_exchange *x, unsigned status, const char *text);

/* For the seam: the hooks of this phase are done; a hook threw. */
void mg_engine_phase_done(struct mg_exchange *x, enum mg_phase phase);
void mg_engine_phase_failed(struct mg_exchange *x, enum mg_phase phase);

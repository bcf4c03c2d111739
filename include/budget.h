/* budget.h - what a run of a Lua VM may take of the CPU.
 *
 * budget.c, load.c, enter.c and vm.c are the only files that know Lua's C API. A run that
 * overdoes it is asked to stop by an error; if it does not (compiled loops and
 * C functions look at no hook) it is left for good in the middle of what it
 * does, and its VM can't be entered again.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct lua_State;

/* What is said beyond the values of Lua's own. */
enum { MG_BUDGET_LEFT = 100, MG_BUDGET_PAUSED };

/* The tick of the calling thread's CPU clock begins; a run may take this many seconds. 0: no bound. Called again when
 * that changes. */
bool mg_budget_start(double seconds);
/* From now on a run may take this many seconds; the tick is left as it is. */
void mg_budget_allow(double seconds);
/* Learns which code is whose; after a VM has been loaded, since modules may have come. */
void mg_budget_learn(void);

/* As lua_pcall without a handler. MG_BUDGET_LEFT: the VM is lost; only its heap may be freed. */
int mg_budget_call(struct lua_State *L, int arguments, int results);
/* The same of lua_resume. */
int mg_budget_resume(struct lua_State *co, int arguments);

/* A script's top level, which is run in slices: what it may take in all, and has taken. */
struct mg_budget_load {
    const double *seconds; /* which the script may change itself */
    int spent;             /* ticks */
};
/* As lua_resume, but after a quarter of a millisecond co is paused: MG_BUDGET_PAUSED, to be gone on with by the same
 * call without arguments. A call that Lua makes through C can't be paused. Nothing of it is compiled, so that whatever
 * loops can be told by its line. */
int mg_budget_slice(struct lua_State *co, int arguments, struct mg_budget_load *l);
/* Whenever a run of this VM is over its budget and asked to stop, `trip` is told first, inside of the run. The same
 * function for all VMs. */
void mg_budget_tell(struct lua_State *L, void (*trip)(void *owner, unsigned ms), void *owner);
/* Milliseconds of CPU that the last run had taken which was stopped or left. */
unsigned mg_budget_spent(void);
/* Seconds of CPU so far, while the tick goes; to 10 ms. */
double mg_budget_clock(void);
/* Milliseconds of CPU that a run may take. */
unsigned mg_budget_allowed(void);

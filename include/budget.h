/* budget.h - what a run of a Lua VM may take of the CPU.
 *
 * budget.c and vm.c are the only files that know Lua's C API. A run that
 * overdoes it is asked to stop by an error; if it does not (compiled loops and
 * C functions look at no hook) it is left for good in the middle of what it
 * does, and its VM can't be entered again.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct lua_State;

/* What mg_budget_call says beyond lua_pcall's own values. */
enum { MG_BUDGET_LEFT = 100 };

/* The tick of the process's CPU clock begins; a run may take this many seconds. 0: no bound. Called again when that
 * changes. */
bool mg_budget_start(double seconds);
/* Learns which code is whose; after a VM has been loaded, since modules may have come. */
void mg_budget_learn(void);

/* As lua_pcall without a handler. MG_BUDGET_LEFT: the VM is lost; only its heap may be freed. */
int mg_budget_call(struct lua_State *L, int arguments, int results);
/* The same of lua_resume. */
int mg_budget_resume(struct lua_State *co, int arguments);
/* As lua_pcall with a handler, for a script's top level: it may take *seconds, which it may change itself. Nothing of
 * it is compiled, so that whatever loops can be told by its line. */
int mg_budget_load(struct lua_State *L, int arguments, int results, int handler, const double *seconds);
/* Milliseconds of CPU that a run may take. */
unsigned mg_budget_allowed(void);

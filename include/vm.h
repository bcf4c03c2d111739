/* vm.h - one Lua VM, seen from the core as a policy. */
#pragma once

#include "load.h"

/* Makes g's VM with the runtime in it. MG_OK, or the whole text for the user in *problem (valid until the next call).
 * `script` must live as long as g is being loaded. */
enum mg_status MG_MUST_CHECK mg_vm_open(struct mg_generation *g, const char *script, const struct mg_load_wants *wants,
                                        mg_slice *problem);
/* Goes on with running the user's script and finishing what it declares, for a slice of time (budget.h). MG_BUSY:
 * there is more to do. MG_OK, or the text in *problem: g can be closed only. */
enum mg_status MG_MUST_CHECK mg_vm_load(struct mg_generation *g, mg_slice *problem);
/* Runs the init hooks, which may wait; g->on_ready says how it went. */
void mg_vm_init(struct mg_generation *g);
/* g is in force: its timers begin. */
void mg_vm_start(struct mg_generation *g);
/* Packs what g's script keeps (gate.keep) into g->kept; NULL stays there if it keeps nothing. */
void mg_vm_give(struct mg_generation *g);
/* g's script takes what was packed into g->kept. */
void mg_vm_take(struct mg_generation *g);
/* Another generation has taken g's place: its timers end. */
void mg_vm_retire(struct mg_generation *g);
/* Runs the exit hooks and frees the VM, whoever is still in it: hooks that wait fail, and any that would follow. What
 * needs no Lua goes on. */
void mg_vm_cut(struct mg_generation *g);
/* Runs the exit hooks, unless g was not loaded to its end. All its tasks must have ended but its own. What follows is
 * mg_vm_close(); to free a large VM at once holds the worker for milliseconds, so mg_vm_shrink() may go before. */
void mg_vm_end(struct mg_generation *g);
/* Frees some of it; true when most is gone. */
bool mg_vm_shrink(struct mg_generation *g);
void mg_vm_close(struct mg_generation *g);
/* Calls the function that the library's `module` returns, with a word and a text. *out: the text that it returns, valid
 * until the next call, or with MG_MALFORMED what it has thrown. MG_GONE: the VM can be closed only. */
enum mg_status MG_MUST_CHECK mg_vm_call(struct mg_generation *g, const char *module, const char *word, mg_slice text,
                                        mg_slice *out);
/* What `moongate check` prints about g. */
void mg_vm_check(struct mg_generation *g);
/* Bytes that g's VM holds. */
double mg_vm_memory(const struct mg_generation *g);

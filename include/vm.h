/* vm.h - one Lua VM, seen from the core as a policy. vm.c alone includes lua.h. */
#pragma once

#include "generation.h"

/* Makes g's VM, runs the user's script in it and finishes declaring. MG_OK, or
 * MG_MALFORMED with the whole text for the user in *problem (valid until the next call). */
enum mg_status MG_MUST_CHECK mg_vm_load(struct mg_generation *g, const char *script, mg_slice *problem);
/* Runs the init hooks, which may wait; g->on_ready says how it went. */
void mg_vm_init(struct mg_generation *g);
/* g is in force: its timers begin. */
void mg_vm_start(struct mg_generation *g);
/* Another generation has taken g's place: its timers end. */
void mg_vm_retire(struct mg_generation *g);
/* Runs the exit hooks and frees the VM, whoever is still in it: hooks that wait fail, and any that would follow. What
 * needs no Lua goes on. */
void mg_vm_cut(struct mg_generation *g);
/* Calls the function that a module of the runtime is, with two texts: what it returns, of malloc; NULL if it failed. */
char *mg_vm_ask(struct mg_generation *g, const char *module, const char *first, const char *second, size_t *len);
/* Runs the exit hooks and closes the VM. All its tasks must have ended but its own. */
void mg_vm_close(struct mg_generation *g);
/* What `moongate check` prints about g. */
void mg_vm_check(struct mg_generation *g);
/* Bytes that g's VM holds. */
double mg_vm_memory(const struct mg_generation *g);

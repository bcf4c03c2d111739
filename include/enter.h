/* enter.h - how the core gets into a Lua VM and out of it again: for vm.c, which opens and closes it.
 *
 * Lua is entered in two ways, and seam.h says how: a phase by its own work,
 * in the coroutine that lies ready for it, as that happens several times a
 * request; everything else by one function of the runtime, step(event, a, b,
 * c). It and the table of works lie at the bottom of the stack. While Lua runs
 * the engine does not: what the seam was asked for, and wakes that came
 * meanwhile, follow when it has returned. */
#pragma once

#include "engine.h"
#include "heap.h"
#include "load.h"

struct lua_State;

struct mg_vm {
    struct mg_policy policy; /* first: the engine sees only this */
    struct mg_generation *generation;
    struct lua_State *L;     /* the runtime's step and works lie on its stack */
    struct lua_State *ready; /* works[0]: where the next phase runs */
    struct mg_heap heap;
    struct mg_load load;
    size_t crowded;         /* what the heap may use before a collection is due at once */
    uint8_t *prepared;      /* by route + 1: which of its works there are */
    bool inside;            /* Lua is on the stack */
    bool overran;           /* the run under way, and it has been counted */
    bool lost;              /* it was left in the middle, or is over: never entered again */
    int cycles;             /* of the collector since it is over */
    struct mg_view **views; /* that Lua knows, by slot */
    uint32_t view_room;
    struct mg_vm_wake *wakes; /* came while inside */
    unsigned wake_count, wake_room;
};

enum { MG_VM_STACK = 2 }; /* what lies on L's stack while nothing runs */

static inline struct mg_vm *mg_vm_of(const struct mg_generation *g)
{
    return (struct mg_vm *)g->policy;
}

/* The runtime lies on L's stack: vm can be entered from now on, and the engine may have it as its policy. */
void mg_enter_open(struct mg_vm *vm);
/* Runs step(event, a, b, c) with its answer; -1 if that failed, or the VM is lost. */
int mg_enter(struct mg_vm *vm, int event, uint32_t a, int b, void *c);
/* Afterwards, once nothing of the engine's is on the stack: what Lua has set going. */
void mg_enter_settle(struct mg_vm *vm);
/* The VM will not be entered again: every exchange that was inside ends with 500, or is cut. One that only relays goes
 * on; if it meets another hook, that hook fails. */
void mg_enter_no_more(struct mg_vm *vm);
/* Collects some `step` KiB, or with 0 all. True when a cycle has ended. A finalizer of the user's may throw: that ends
 * this step, and nothing else. */
bool mg_enter_collect(const struct mg_vm *vm, int step);

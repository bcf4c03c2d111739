/* vm.c - a Lua VM's life: opened, loaded, told of what its generation goes through, closed. */
#include "vm.h"

#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>

#include <lauxlib.h>
#include <lua.h>

#include "budget.h"
#include "enter.h"
#include "file.h"
#include "key.h"
#include "script.h"

enum {
    SHRINK_STEP = 64,  /* some 0.2 ms */
    SHRINK_CYCLES = 2, /* the first may have begun when all of it was still in use */
};

/* ---- Loading. ---- */

static void close_vm(struct mg_vm *vm)
{
    if (vm->L)
        lua_close(vm->L);
    mg_heap_free(&vm->heap);
    mg_keys_end(vm->generation);
    mg_files_end(vm->generation);
    free(vm->wakes);
    free(vm->views);
    free(vm->prepared);
    free(vm);
}

static mg_slice keep_problem(const char *text)
{
    static char problem[8192];

    snprintf(problem, sizeof(problem), "%s", text);
    return mg_slice_of(problem);
}

/* It was left inside of one of Lua's own functions, which has no line. */
static const char *endless(const char *script)
{
    static char text[PATH_MAX + 128];

    snprintf(text, sizeof(text),
             "%s: the script's top level took longer than load_budget allows, in a call that did not stop when it was "
             "asked to (a pattern that never ends, say); it should only declare",
             script);
    return text;
}

static void set_limit(struct mg_vm *vm)
{
    vm->heap.most = (size_t)vm->generation->settings.memory_limit;
    vm->crowded = vm->heap.most / 10 * 9;
    vm->heap.refused = false;
}

enum mg_status mg_vm_open(struct mg_generation *g, const char *script, const struct mg_load_wants *wants,
                          mg_slice *problem)
{
    struct mg_vm *vm = calloc(1, sizeof(*vm));

    *problem = MG_LIT("out of memory");
    if (!vm)
        return MG_NO_MEMORY;
    vm->generation = g;
    set_limit(vm);
    vm->L = lua_newstate(mg_heap_change, &vm->heap);
    if (vm->L && !mg_load_begin(&vm->load, vm->L, g, script, wants)) {
        mg_enter_open(vm);
        g->policy = &vm->policy;
        return MG_OK;
    }
    if (vm->L)
        *problem = keep_problem(lua_tostring(vm->L, -1));
    close_vm(vm);
    return MG_MALFORMED;
}

static enum mg_status loaded(struct mg_vm *vm, mg_slice *problem)
{
    vm->prepared = calloc(vm->generation->route_count + 1, 1);
    if (!vm->prepared) {
        *problem = keep_problem("out of memory");
        return MG_NO_MEMORY;
    }
    mg_budget_learn();
    set_limit(vm);
    vm->generation->state = MG_GENERATION_READY;
    return MG_OK;
}

enum mg_status mg_vm_load(struct mg_generation *g, mg_slice *problem)
{
    struct mg_vm *vm = mg_vm_of(g);
    enum mg_status status = mg_load_go_on(&vm->load);

    if (status == MG_BUSY)
        return status;
    if (status == MG_OK)
        return loaded(vm, problem);
    const char *text = status == MG_GONE ? endless(vm->load.script) : lua_tostring(vm->L, -1);
    *problem = keep_problem(text ? text : "out of memory");
    if (status == MG_GONE)
        vm->L = NULL;
    return MG_MALFORMED;
}

/* ---- In force, and not any more. ---- */

void mg_vm_init(struct mg_generation *g)
{
    struct mg_vm *vm = mg_vm_of(g);
    int answer = g->use_wants & MG_USE_INIT ? mg_enter(vm, MG_EVENT_INIT, 0, 0, NULL) : 0;

    if (answer <= 0 && !g->ready_known)
        mg_generation_ready(g, answer < 0 ? MG_MALFORMED : MG_OK);
    mg_enter_settle(vm);
}

void mg_vm_start(struct mg_generation *g)
{
    mg_enter(mg_vm_of(g), MG_EVENT_START, 0, 0, NULL);
    mg_enter_settle(mg_vm_of(g));
}

/* That can be a lot: it may take as long as a load. */
static void enter_at_length(struct mg_vm *vm, int event)
{
    double before = mg_budget_allowed() / 1e3;

    mg_budget_allow(vm->generation->settings.load_budget);
    mg_enter(vm, event, 0, 0, NULL);
    mg_budget_allow(before);
}

void mg_vm_give(struct mg_generation *g)
{
    enter_at_length(mg_vm_of(g), MG_EVENT_GIVE);
}

void mg_vm_take(struct mg_generation *g)
{
    enter_at_length(mg_vm_of(g), MG_EVENT_TAKE);
}

void mg_vm_retire(struct mg_generation *g)
{
    mg_enter(mg_vm_of(g), MG_EVENT_RETIRE, 0, 0, NULL);
    mg_enter_settle(mg_vm_of(g));
}

/* ---- Its end. ---- */

void mg_vm_cut(struct mg_generation *g)
{
    struct mg_vm *vm = mg_vm_of(g);

    mg_enter(vm, MG_EVENT_EXIT, 0, 0, NULL);
    if (!vm->lost) {
        mg_enter_no_more(vm);
        mg_seam_end(g);
        lua_close(vm->L);
        vm->L = NULL;
        mg_heap_free(&vm->heap);
    }
    mg_enter_settle(vm);
}

void mg_vm_end(struct mg_generation *g)
{
    struct mg_vm *vm = mg_vm_of(g);

    g->ready_known = true; /* init hooks that still wait are cancelled: nobody is told */
    if (g->state != MG_GENERATION_LOADING)
        mg_enter(vm, MG_EVENT_EXIT, 0, 0, NULL);
    mg_seam_end(g);
    vm->lost = true;
    if (!vm->L)
        return;
    lua_settop(vm->L, 0);
    lua_getfield(vm->L, LUA_REGISTRYINDEX, "_LOADED");
    for (lua_pushnil(vm->L); lua_next(vm->L, 1);) {
        lua_pop(vm->L, 1);
        lua_pushvalue(vm->L, -1);
        lua_pushnil(vm->L);
        lua_rawset(vm->L, 1);
    }
    lua_settop(vm->L, 0);
}

bool mg_vm_shrink(struct mg_generation *g)
{
    struct mg_vm *vm = mg_vm_of(g);

    if (!vm->L)
        return true;
    vm->cycles += mg_enter_collect(vm, SHRINK_STEP);
    return vm->cycles == SHRINK_CYCLES;
}

void mg_vm_close(struct mg_generation *g)
{
    struct mg_vm *vm = mg_vm_of(g);

    g->policy = NULL;
    close_vm(vm);
}

/* What is returned lives in the registry until the next call. */
static mg_slice keep_text(lua_State *L)
{
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);

    if (!text)
        return MG_LIT("");
    lua_setfield(L, LUA_REGISTRYINDEX, "moongate.called");
    return (mg_slice){ text, (uint32_t)len };
}

enum mg_status mg_vm_call(struct mg_generation *g, const char *module, const char *word, mg_slice text, mg_slice *out)
{
    lua_State *L = mg_vm_of(g)->L;

    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    int failed = mg_budget_call(L, 1, 1);
    if (!failed) {
        lua_pushstring(L, word);
        lua_pushlstring(L, text.ptr, text.len);
        failed = mg_budget_call(L, 2, 1);
    }
    if (failed == MG_BUDGET_LEFT) { /* what is on the stack can't be known any more */
        *out = MG_LIT("it took too long");
        return MG_GONE;
    }
    *out = keep_text(L);
    lua_settop(L, MG_VM_STACK);
    return failed ? MG_MALFORMED : MG_OK;
}

void mg_vm_check(struct mg_generation *g)
{
    mg_slice out;

    if (mg_vm_call(g, "moongate.check", "", MG_LIT(""), &out) != MG_OK)
        fprintf(stderr, "moongate: check: %.*s\n", (int)out.len, out.ptr);
}

double mg_vm_memory(const struct mg_generation *g)
{
    return (double)mg_vm_of(g)->heap.used;
}

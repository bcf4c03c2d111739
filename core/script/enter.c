/* enter.c - how the core gets into a Lua VM and out of it again. */
#include "enter.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include <lauxlib.h>
#include <lua.h>

#include "budget.h"
#include "log.h"
#include "script.h"

struct mg_vm_wake {
    int ticket, code;
};

enum { STEP = 1, WORKS = 2 }; /* where they lie on the stack */
enum { CLOSE_WORK = -1 };     /* of works: what closes an exchange */
enum { WORKS_OF_READY = 1 };  /* and the works on that of the ready coroutine, below the one that runs */

/* ---- Entering. ---- */

static bool know(struct mg_vm *vm, struct mg_view *x)
{
    if (x->slot >= vm->view_room) {
        uint32_t room = vm->view_room ? vm->view_room * 2 : 64;
        while (room <= x->slot)
            room *= 2;
        struct mg_view **more = realloc(vm->views, room * sizeof(*more));
        if (!more)
            return false;
        memset(more + vm->view_room, 0, (room - vm->view_room) * sizeof(*more));
        vm->views = more;
        vm->view_room = room;
    }
    vm->views[x->slot] = x;
    return true;
}

static void fail_hooks_at_work(struct mg_exchange *x)
{
    uint32_t at_work = x->at_work;

    if (x->in.at_work)
        at_work |= 1u << x->in.phase;
    if (x->out.at_work)
        at_work |= 1u << x->out.phase;
    for (int phase = 0; phase < MG_PHASE_COUNT; phase++) {
        if (!(at_work >> phase & 1))
            continue;
        mg_engine_phase_failed(x, (enum mg_phase)phase);
        mg_engine_phase_done(x, (enum mg_phase)phase);
    }
}

void mg_enter_no_more(struct mg_vm *vm)
{
    vm->lost = true;
    for (uint32_t slot = 0; slot < vm->view_room; slot++) {
        struct mg_view *v = vm->views[slot];
        if (!v)
            continue;
        struct mg_exchange *x = MG_EXCHANGE_OF(v);
        mg_outside_end(vm->generation, &x->task);
        mg_fetch_end(vm->generation, &x->task);
        mg_coding_end(&x->task);
        if (mg_file_watches)
            mg_file_watch_end(&x->task);
        mg_task_gone(&x->task);
        fail_hooks_at_work(x);
    }
}

/* Nothing of this VM may be touched again but its heap. */
static void lose(struct mg_vm *vm, const char *why)
{
    mg_log(MG_LOG_ERROR,
           "%s: the VM is thrown away and built anew; the exchanges that were in it are answered with 500", why);
    mg_meter_vm_lost();
    mg_enter_no_more(vm);
    mg_seam_end(vm->generation);
    mg_heap_free(&vm->heap);
    vm->L = NULL;
}

/* The hook at work has taken more than it may: once a run, however it goes on. */
static void note_overrun(struct mg_vm *vm)
{
    if (vm->overran)
        return;
    vm->overran = true;
    mg_hook_overran(vm->generation, vm->generation->lua.hook);
}

/* Its allocator has refused something: memory_limit is a budget, too. */
static inline void note_memory(struct mg_vm *vm)
{
    if (!vm->heap.refused)
        return;
    vm->heap.refused = false;
    note_overrun(vm);
}

static void lose_to_budget(struct mg_vm *vm)
{
    struct mg_generation *g = vm->generation;
    char why[512];

    vm->inside = false;
    snprintf(why, sizeof(why), "%s has taken %u ms of CPU, and cpu_budget allows %u ms; it did not stop when asked to",
             mg_hooks_who(&g->hooks, g->lua.hook), mg_budget_spent(), mg_budget_allowed());
    note_overrun(vm);
    lose(vm, why);
}

/* A run is asked to stop. One that catches the error and goes on is asked again; it counts once. */
static void on_trip(void *owner, unsigned ms)
{
    struct mg_generation *g = owner;

    if (g->lua.tripped)
        return;
    g->lua.tripped = (int32_t)ms;
    g->lua.settled = 1;
    note_overrun(mg_vm_of(g));
}

/* The hooks of a phase have ended well, but one of them was over the budget and caught the error that said so. */
static void fail_tripped(struct mg_vm *vm, struct mg_view *x, enum mg_phase phase)
{
    struct mg_generation *g = vm->generation;
    char id[16];

    mg_view_id(x, id);
    mg_log(MG_LOG_ERROR,
           "[%.16s] %s has taken %d ms of CPU, and cpu_budget allows %u ms; it caught the error that told it so, and "
           "fails all the same",
           id, mg_hooks_who(&g->hooks, g->lua.hook), (int)g->lua.tripped, mg_budget_allowed());
    mg_phase_failed(x, (int)phase);
    g->lua.tripped = 0;
}

struct collection {
    int step; /* KiB, roughly; 0: all of it */
    bool ended;
};

static int run_collection(lua_State *L)
{
    struct collection *c = lua_touserdata(L, 1);

    c->ended = lua_gc(L, c->step ? LUA_GCSTEP : LUA_GCCOLLECT, c->step) != 0;
    return 0;
}

bool mg_enter_collect(const struct mg_vm *vm, int step)
{
    struct collection c = { .step = step };

    if (lua_cpcall(vm->L, run_collection, &c))
        lua_pop(vm->L, 1);
    return c.ended;
}

/* LuaJIT does not collect when its allocator refuses: near the limit that is done here. A VM whose memory is still
 * nearly all in use is no good to anybody. */
static void relieve(struct mg_vm *vm)
{
    if (vm->heap.used < vm->crowded)
        return;
    mg_enter_collect(vm, 0);
    if (vm->heap.used < vm->crowded)
        return;
    lose(vm, "Lua holds nearly all of memory_limit, and a collection freed too little");
}

/* Calls a function of the runtime, on the stack with its arguments. What a policy throws is caught in Lua; an error
 * here is the runtime's own, or there was no memory to catch it. */
static int call(struct mg_vm *vm, int arguments)
{
    lua_State *L = vm->L;
    int failed = mg_budget_call(L, arguments, 1);

    if (failed == MG_BUDGET_LEFT) {
        lose_to_budget(vm);
        return -1;
    }
    note_memory(vm);
    int answer = -1;
    if (failed)
        mg_log(MG_LOG_ERROR, "%s: %s", mg_hooks_who(&vm->generation->hooks, vm->generation->lua.hook),
               lua_tostring(L, -1));
    else
        answer = (int)lua_tointeger(L, -1);
    lua_settop(L, MG_VM_STACK);
    vm->inside = false;
    if (failed)
        lose(vm, "the runtime of Lua failed and can't be trusted any more");
    else
        relieve(vm);
    return answer;
}

static const struct mg_policy watched_policy;

/* A run begins; false: it can't any more. */
static inline bool begin(struct mg_vm *vm)
{
    assert(!vm->inside);
    if (vm->lost)
        return false;
    vm->inside = true;
    vm->overran = false;
    return true;
}

int mg_enter(struct mg_vm *vm, int event, uint32_t a, int b, void *c)
{
    lua_State *L = vm->L;

    if (!begin(vm))
        return -1;
    lua_pushvalue(L, STEP);
    lua_pushinteger(L, event);
    lua_pushinteger(L, (lua_Integer)a);
    lua_pushinteger(L, b);
    lua_pushnumber(L, (lua_Number)(uintptr_t)c);
    if (vm->generation->watched)
        vm->policy = watched_policy;
    return call(vm, 4);
}

/* ---- Entering a phase. ---- */

static void learn_ready(struct mg_vm *vm)
{
    lua_rawgeti(vm->L, WORKS, 0);
    vm->ready = lua_tothread(vm->L, -1);
    lua_settop(vm->ready, 0);
    lua_pushvalue(vm->L, WORKS);
    lua_xmove(vm->L, vm->ready, 1);
    lua_settop(vm->L, MG_VM_STACK);
}

/* The work in the ready coroutine waits, or has failed with what is on top of its stack. */
static int part(struct mg_vm *vm, const struct mg_view *x, enum mg_phase phase, bool waits)
{
    lua_State *L = vm->L;

    lua_pushvalue(L, STEP);
    lua_pushinteger(L, waits ? MG_EVENT_WAITS : MG_EVENT_THREW);
    lua_pushinteger(L, (lua_Integer)x->slot);
    lua_pushinteger(L, (int)phase);
    if (waits) {
        lua_settop(vm->ready, 0);
        lua_pushnil(L);
    } else {
        lua_xmove(vm->ready, L, 1);
    }
    int answer = call(vm, 4);
    if (!vm->lost)
        learn_ready(vm);
    return answer;
}

enum { REQUEST_WORK = 1, ROUTE_WORKS = 2 };
enum { FIRST_ARGUMENTS = 3 };

/* works.first makes all of a route's at once, but for the request phase, which comes before routing. */
static inline uint8_t work_of(enum mg_phase phase)
{
    return phase == MG_PHASE_REQUEST ? REQUEST_WORK : ROUTE_WORKS;
}

/* The work that moongate.works numbers so, on the ready coroutine's stack. */
static int push_work(struct mg_vm *vm, const struct mg_view *x, enum mg_phase phase)
{
    lua_State *co = vm->ready;
    int arguments = 2;

    if (vm->prepared[x->route + 1] & work_of(phase)) {
        lua_rawgeti(co, WORKS_OF_READY, (x->route + 1) * 16 + (int)phase + 1);
    } else {
        lua_getfield(co, WORKS_OF_READY, "first");
        arguments = FIRST_ARGUMENTS;
    }
    lua_pushinteger(co, (lua_Integer)x->slot);
    lua_pushnumber(co, (lua_Number)(uintptr_t)x);
    if (arguments == FIRST_ARGUMENTS)
        lua_pushinteger(co, (int)phase);
    return arguments;
}

static int enter_phase(struct mg_vm *vm, struct mg_view *x, enum mg_phase phase)
{
    if (!begin(vm))
        return -1;
    int arguments = push_work(vm, x, phase);
    int status = mg_budget_resume(vm->ready, arguments);
    if (status == MG_BUDGET_LEFT) {
        lose_to_budget(vm);
        return -1;
    }
    note_memory(vm);
    if (arguments == FIRST_ARGUMENTS && (!status || status == LUA_YIELD))
        vm->prepared[x->route + 1] |= work_of(phase);
    if (status)
        return part(vm, x, phase, status == LUA_YIELD);
    if (lua_gettop(vm->ready) > WORKS_OF_READY) {
        if ((phase == MG_PHASE_LOG || phase == MG_PHASE_BALANCE) && lua_toboolean(vm->ready, -1))
            vm->views[x->slot] = NULL;
        lua_settop(vm->ready, WORKS_OF_READY);
    }
    vm->inside = false;
    if (!vm->generation->lua.settled) {
        relieve(vm);
        return 0;
    }
    if (vm->generation->lua.tripped)
        fail_tripped(vm, x, phase);
    vm->generation->lua.settled = 0; /* it may have been the core that set it */
    mg_enter(vm, MG_EVENT_SETTLE, 0, 0, NULL);
    return 0;
}

static void deliver_wakes(struct mg_vm *vm)
{
    for (unsigned i = 0; i < vm->wake_count; i++) {
        struct mg_vm_wake w = vm->wakes[i];
        mg_ticket_release(&vm->generation->tickets, w.ticket);
        mg_enter(vm, MG_EVENT_WAKE, (uint32_t)w.ticket, w.code, NULL);
    }
    vm->wake_count = 0;
}

void mg_enter_settle(struct mg_vm *vm)
{
    if (vm->inside)
        return;
    if (vm->wake_count)
        deliver_wakes(vm);
    mg_seam_settle();
    if (vm->lost && vm->generation->on_lost) {
        void (*on_lost)(struct mg_generation *) = vm->generation->on_lost;
        vm->generation->on_lost = NULL;
        on_lost(vm->generation);
    }
}

static enum mg_next vm_enter(struct mg_policy *p, struct mg_view *x, enum mg_phase phase)
{
    struct mg_vm *vm = (struct mg_vm *)p;

    MG_EXCHANGE_OF(x)->scripted = true;
    int answer = !know(vm, x) ? -1 : enter_phase(vm, x, phase);
    if (answer < 0)
        mg_phase_failed(x, (int)phase);
    /* The engine is on the stack; what else Lua set going is settled behind this event, as after all of them. */
    if (vm->wake_count || vm->lost)
        mg_enter_settle(vm);
    return answer > 0 ? MG_PARK : MG_MORE;
}

static enum mg_next vm_connect(struct mg_policy *p, struct mg_connection_view *c)
{
    struct mg_vm *vm = (struct mg_vm *)p;
    int answer = mg_enter(vm, MG_EVENT_CONNECT, c->slot, 0, c);

    if (answer < 0)
        c->refused = 1;
    mg_enter_settle(vm);
    return answer > 0 ? MG_PARK : MG_MORE;
}

static void vm_wake(struct mg_policy *p, int ticket, int code)
{
    struct mg_vm *vm = (struct mg_vm *)p;

    if (!vm->inside) {
        mg_ticket_release(&vm->generation->tickets, ticket);
        mg_enter(vm, MG_EVENT_WAKE, (uint32_t)ticket, code, NULL);
        mg_enter_settle(vm);
        return;
    }
    if (vm->wake_count == vm->wake_room) {
        unsigned room = vm->wake_room ? vm->wake_room * 2 : 64;
        struct mg_vm_wake *more = realloc(vm->wakes, room * sizeof(*more));
        if (!more)
            return; /* that fiber never runs again; its exchange ends by its timeouts */
        vm->wakes = more;
        vm->wake_room = room;
    }
    vm->wakes[vm->wake_count++] = (struct mg_vm_wake){ ticket, code };
}

static void vm_gone(struct mg_policy *p, uint32_t slot)
{
    mg_enter((struct mg_vm *)p, MG_EVENT_GONE, slot, 0, NULL);
    mg_enter_settle((struct mg_vm *)p);
}

/* The end of each exchange that Lua knows: not by step, which takes as long as all that is done here. */
static void close_exchange(struct mg_vm *vm, uint32_t slot)
{
    if (!begin(vm))
        return;
    lua_rawgeti(vm->L, WORKS, CLOSE_WORK);
    lua_pushinteger(vm->L, (lua_Integer)slot);
    if (call(vm, 1) > 0)
        mg_enter(vm, MG_EVENT_SETTLE, 0, 0, NULL);
}

static void vm_finish(struct mg_policy *p, struct mg_view *x)
{
    struct mg_vm *vm = (struct mg_vm *)p;

    mg_outside_end(vm->generation, x->task);
    mg_fetch_end(vm->generation, x->task);
    mg_coding_end(x->task);
    if (mg_file_watches)
        mg_file_watch_end(x->task);
    if (x->slot >= vm->view_room || !vm->views[x->slot])
        return;
    vm->views[x->slot] = NULL;
    close_exchange(vm, x->slot);
    mg_enter_settle(vm);
}

static void vm_closed(struct mg_policy *p, struct mg_connection_view *c)
{
    struct mg_vm *vm = (struct mg_vm *)p;

    mg_outside_end(vm->generation, c->task);
    mg_fetch_end(vm->generation, c->task);
    mg_coding_end(c->task);
    if (mg_file_watches)
        mg_file_watch_end(c->task);
    mg_enter(vm, MG_EVENT_CLOSED, c->slot, 0, NULL);
    mg_enter_settle(vm);
}

static const struct mg_policy vm_policy = { vm_enter, vm_connect, vm_wake, vm_gone, vm_finish, vm_closed };

/* ---- Entering a VM with code that nobody here knows: how long does it hold the worker? ---- */

struct watch {
    double began, computed;
};

static struct watch begin_watch(void)
{
    return (struct watch){ mg_clock_read(), mg_budget_clock() };
}

/* What computes is the budget's, even when others take the processor from it meanwhile. */
static void end_watch(const struct mg_vm *vm, const struct watch *w)
{
    struct mg_generation *g = vm->generation;
    double most = g->settings.blocking_threshold, held = mg_clock_read() - w->began;
    bool blocked = most > 0 && held > most && mg_budget_clock() - w->computed < held / 5, told = g->lua.told;

    g->lua.told = 0;
    if (!blocked || told || !mg_hooks_tell(&g->hooks, g->lua.hook))
        return;
    mg_log(MG_LOG_WARN,
           "%s held the worker for %.3f s, and with it all that it serves: a C function or a call by ffi that blocks",
           mg_hooks_who(&g->hooks, g->lua.hook), held);
}

static enum mg_next watched_enter(struct mg_policy *p, struct mg_view *x, enum mg_phase phase)
{
    struct watch w = begin_watch();
    enum mg_next next = vm_enter(p, x, phase);

    end_watch((struct mg_vm *)p, &w);
    return next;
}

static enum mg_next watched_connect(struct mg_policy *p, struct mg_connection_view *c)
{
    struct watch w = begin_watch();
    enum mg_next next = vm_connect(p, c);

    end_watch((struct mg_vm *)p, &w);
    return next;
}

static void watched_wake(struct mg_policy *p, int ticket, int code)
{
    struct watch w = begin_watch();

    vm_wake(p, ticket, code);
    end_watch((struct mg_vm *)p, &w);
}

static const struct mg_policy watched_policy = { watched_enter, watched_connect, watched_wake,
                                                 vm_gone,       vm_finish,       vm_closed };

void mg_enter_open(struct mg_vm *vm)
{
    assert(lua_gettop(vm->L) == MG_VM_STACK);
    vm->policy = vm_policy;
    mg_budget_tell(vm->L, on_trip, vm->generation);
    learn_ready(vm);
}

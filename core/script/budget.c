/* budget.c - ends runs of Lua that take too long, with the JIT on.
 *
 * One repeating tick of the loop's CPU clock, which knows nothing of the thread
 * that checks passwords; a run only notes the tick at which it began. Past the
 * budget the tick asks for a debug hook, which raises an error in interpreted
 * code. Compiled traces and C functions look at no hook: a little later the tick
 * leaves the VM with a long jump. That is done only while the code that runs is
 * LuaJIT's or a trace of its making. No function of the core ever calls LuaJIT
 * from inside a run (the seam's first rule), so no state of the core can be torn
 * then.
 */
#include "budget.h"

#include <link.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>

#include "clock.h"

enum { TICK_US = 10000, GRACE = 3, CODES_MOST = 128 };
enum { LOOK_EVERY = 1000 };         /* instructions of Lua, while a script is loaded: some 10 us */
static const double SLICE = 250e-6; /* of a load: what a request may have to wait for it, and some */

/* Where executable code was loaded, and whether it is LuaJIT's. What runs in none of these is a trace. */
struct code {
    uintptr_t from, to;
    bool luajit;
};

static struct code codes[CODES_MOST];
static volatile sig_atomic_t code_count;
static volatile sig_atomic_t ticks, began = -1;
static int allowed;                          /* ticks a run; 0: no bound */
static const struct mg_budget_load *loading; /* whose slice runs now */
static double slice_ends;                    /* as mg_clock_read() says */
static bool paused, ticking;
static timer_t timer;
static pid_t timer_of; /* the process that has it; 0: none was made */
static unsigned spent; /* ms of CPU, by the run that was stopped or left */
static void (*on_trip)(void *owner, unsigned ms);
static lua_State *running;
static void *way_out[5]; /* the compiler's own jump: it keeps what a function must, and no signal mask */

static int note_object(struct dl_phdr_info *info, size_t size, void *counter)
{
    int *n = counter;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum && *n < CODES_MOST; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
            continue;
        uintptr_t from = info->dlpi_addr + p->p_vaddr;
        codes[(*n)++] = (struct code){ from, from + p->p_memsz, strstr(info->dlpi_name, "libluajit") != NULL };
    }
    return 0;
}

void mg_budget_learn(void)
{
    int n = 0;

    code_count = 0;
    dl_iterate_phdr(note_object, &n);
    code_count = n;
}

static bool may_leave(const ucontext_t *c)
{
#if defined(__x86_64__)
    uintptr_t pc = (uintptr_t)c->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    uintptr_t pc = (uintptr_t)c->uc_mcontext.pc;
#else
#error "say where this processor's ucontext keeps the program counter"
#endif

    for (int i = 0; i < code_count; i++)
        if (pc >= codes[i].from && pc < codes[i].to)
            return codes[i].luajit;
    return code_count > 0;
}

static unsigned ms_of(int of_ticks)
{
    return (unsigned)of_ticks * TICK_US / 1000;
}

/* An address of ours as a key of the registry: looking it up takes no memory, of which there may be none. */
static void *owner_of(lua_State *L)
{
    lua_pushlightuserdata(L, &on_trip);
    lua_rawget(L, LUA_REGISTRYINDEX);
    void *owner = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return owner;
}

static void stop(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    spent = ms_of(ticks - began);
    on_trip(owner_of(L), spent);
    luaL_where(L, 0);
    lua_pushfstring(L, "%sthis run has taken %d ms of CPU, and cpu_budget allows %d ms", lua_tostring(L, -1),
                    (int)spent, (int)mg_budget_allowed());
    lua_error(L);
}

static void stop_loading(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    luaL_where(L, 0);
    lua_pushfstring(L,
                    "%sthe script's top level took longer than load_budget allows (%f seconds of CPU); it should only "
                    "declare",
                    lua_tostring(L, -1), *loading->seconds);
    lua_error(L);
}

static int ticks_of(double seconds)
{
    return seconds < 1e6 ? (int)ceil(seconds * 1e6 / TICK_US) : 0;
}

static void on_tick(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    ticks++;
    int most = loading ? ticks_of(*loading->seconds) : allowed;
    if (began < 0 || !most)
        return;
    int over = ticks - began - most + (loading ? loading->spent : 0);
    if (over > GRACE && may_leave(context)) {
        spent = ms_of(ticks - began);
        __builtin_longjmp(way_out, 1);
    }
    if (over > 0)
        lua_sethook(running, loading ? stop_loading : stop, LUA_MASKCOUNT, 1);
}

/* No process inherits it, so one that was forked makes its own. */
static bool find_timer(void)
{
    struct sigevent told = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF };

    if (timer_of == getpid())
        return true;
    told._sigev_un._tid = gettid();
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &told, &timer) != 0)
        return false;
    timer_of = getpid();
    return true;
}

static bool tick(bool on)
{
    struct itimerspec every = { 0 };
    struct sigaction action = { .sa_sigaction = on_tick, .sa_flags = SA_RESTART | SA_SIGINFO | SA_NODEFER };

    if (on)
        every = (struct itimerspec){ { 0, TICK_US * 1000 }, { 0, TICK_US * 1000 } };
    ticking = sigaction(SIGPROF, &action, NULL) == 0 && find_timer() && timer_settime(timer, 0, &every, NULL) == 0 &&
              on;
    return ticking || !on;
}

bool mg_budget_start(double seconds)
{
    allowed = ticks_of(seconds);
    return tick(allowed > 0);
}

void mg_budget_allow(double seconds)
{
    allowed = ticks_of(seconds);
}

unsigned mg_budget_allowed(void)
{
    return ms_of(allowed);
}

double mg_budget_clock(void)
{
    return ticks * (TICK_US / 1e6);
}

unsigned mg_budget_spent(void)
{
    return spent;
}

void mg_budget_tell(lua_State *L, void (*trip)(void *owner, unsigned ms), void *owner)
{
    on_trip = trip;
    lua_pushlightuserdata(L, &on_trip);
    lua_pushlightuserdata(L, owner);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

int mg_budget_call(lua_State *L, int arguments, int results)
{
    running = L;
    if (__builtin_setjmp(way_out)) {
        began = -1;
        return MG_BUDGET_LEFT;
    }
    began = ticks;
    int failed = lua_pcall(L, arguments, results, 0);
    began = -1;
    return failed;
}

/* Not inside a coroutine of the user's, nor below a C function: it could not be gone on with there. */
static void pause_load(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    if (L != running || mg_clock_read() < slice_ends || !lua_isyieldable(L))
        return;
    paused = true;
    lua_yield(L, 0);
}

static void end_slice(struct mg_budget_load *l)
{
    l->spent += ticks - began;
    began = -1;
    loading = NULL;
}

int mg_budget_slice(lua_State *co, int arguments, struct mg_budget_load *l)
{
    mg_budget_learn();
    running = co;
    loading = l;
    paused = false;
    slice_ends = mg_clock_read() + SLICE;
    luaJIT_setmode(co, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    if (!ticking)
        (void)tick(true); /* without a clock there is no bound */
    if (__builtin_setjmp(way_out)) {
        end_slice(l);
        return MG_BUDGET_LEFT;
    }
    began = ticks;
    lua_sethook(co, pause_load, LUA_MASKCOUNT, LOOK_EVERY);
    int status = lua_resume(co, arguments);
    lua_sethook(co, NULL, 0, 0);
    end_slice(l);
    if (status != LUA_YIELD || !paused)
        luaJIT_setmode(co, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_ON);
    return status == LUA_YIELD && paused ? MG_BUDGET_PAUSED : status;
}

int mg_budget_resume(lua_State *co, int arguments)
{
    running = co;
    if (__builtin_setjmp(way_out)) {
        began = -1;
        return MG_BUDGET_LEFT;
    }
    began = ticks;
    int status = lua_resume(co, arguments);
    began = -1;
    return status;
}

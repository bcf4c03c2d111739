/* budget.c - ends runs of Lua that take too long, with the JIT on.
 *
 * One repeating tick of the process's CPU clock; a run only notes the tick at
 * which it began. Past the budget the tick asks for a debug hook, which
 * raises an error in interpreted code. Compiled traces and C functions look at
 * no hook: a little later the tick leaves the VM with siglongjmp. That is done
 * only while the code that runs is LuaJIT's or a trace of its making and none
 * of ours is on the stack above the run, so that no state of the core is torn.
 */
#include "budget.h"

#include <link.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>

#include <lauxlib.h>
#include <lua.h>

enum { TICK_US = 10000, GRACE = 3, CODES_MOST = 128 };

/* Where executable code lies, and whose it is. What is in none of these is a trace. */
enum owner { OWNER_OTHER, OWNER_LUAJIT, OWNER_CORE };
struct code {
    uintptr_t from, to;
    enum owner owner;
};

static struct code codes[CODES_MOST];
static volatile sig_atomic_t code_count;
static volatile sig_atomic_t ticks, began = -1;
static int allowed;                 /* ticks a run */
static lua_State *running;
static uintptr_t base;              /* of the stack of the run: below the return address into mg_budget_call */
static sigjmp_buf way_out;

static int note_object(struct dl_phdr_info *info, size_t size, void *counter)
{
    int *n = counter;
    enum owner owner = info->dlpi_name[0] == '\0'             ? OWNER_CORE
                       : strstr(info->dlpi_name, "libluajit") ? OWNER_LUAJIT
                                                              : OWNER_OTHER;

    (void)size;
    for (int i = 0; i < info->dlpi_phnum && *n < CODES_MOST; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
            continue;
        uintptr_t from = info->dlpi_addr + p->p_vaddr;
        codes[(*n)++] = (struct code){ from, from + p->p_memsz, owner };
        if (strcmp(info->dlpi_name, "linux-vdso.so.1") == 0)
            codes[*n - 1].owner = OWNER_OTHER;
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

static bool is_in(uintptr_t address, enum owner owner)
{
    for (int i = 0; i < code_count; i++)
        if (address >= codes[i].from && address < codes[i].to)
            return codes[i].owner == owner;
    return false;
}

static bool is_trace(uintptr_t address)
{
    for (int i = 0; i < code_count; i++)
        if (address >= codes[i].from && address < codes[i].to)
            return false;
    return true;
}

#ifdef __x86_64__
/* Is it LuaJIT that runs, and no function of ours that it has called? A word that only looks like an address of
 * ours costs a tick, no more. */
__attribute__((no_sanitize("address"))) static bool may_leave(const ucontext_t *c)
{
    uintptr_t pc = (uintptr_t)c->uc_mcontext.gregs[REG_RIP];
    uintptr_t sp = (uintptr_t)c->uc_mcontext.gregs[REG_RSP];

    if (!code_count || sp > base || !(is_in(pc, OWNER_LUAJIT) || is_trace(pc)))
        return false;
    for (const uintptr_t *word = (const uintptr_t *)(sp & ~(uintptr_t)7); (uintptr_t)word < base; word++)
        if (is_in(*word, OWNER_CORE))
            return false;
    return true;
}

#define STACK_POINTER(to) __asm__ volatile("mov %%rsp, %0" : "=r"(to))
#else
/* Elsewhere a run is only asked to stop. */
static bool may_leave(const ucontext_t *c)
{
    (void)c;
    return false;
}

#define STACK_POINTER(to) ((to) = 0)
#endif

static void stop(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    luaL_error(L, "this run took longer than cpu_budget allows (%d ms of CPU)", (int)mg_budget_allowed());
}

static void on_tick(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    ticks++;
    if (began < 0 || !allowed)
        return;
    int over = ticks - began - allowed;
    if (over > GRACE && may_leave(context))
        siglongjmp(way_out, 1);
    if (over > 0)
        lua_sethook(running, stop, LUA_MASKCOUNT, 1);
}

bool mg_budget_start(double seconds)
{
    struct itimerval every = { { 0, TICK_US }, { 0, TICK_US } };
    struct sigaction action = { .sa_sigaction = on_tick, .sa_flags = SA_RESTART | SA_SIGINFO | SA_NODEFER };

    allowed = (int)ceil(seconds * 1e6 / TICK_US);
    if (allowed <= 0)
        return true;
    return sigaction(SIGPROF, &action, NULL) == 0 && setitimer(ITIMER_PROF, &every, NULL) == 0;
}

unsigned mg_budget_allowed(void)
{
    return (unsigned)allowed * TICK_US / 1000;
}

int mg_budget_call(lua_State *L, int arguments, int results)
{
    running = L;
    if (sigsetjmp(way_out, 0)) {
        began = -1;
        return MG_BUDGET_LEFT;
    }
    began = ticks;
    STACK_POINTER(base);
    base -= sizeof(void *);
    int failed = lua_pcall(L, arguments, results, 0);
    began = -1;
    return failed;
}

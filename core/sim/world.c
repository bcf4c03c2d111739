/* world.c - one simulated run.
 *
 * The engine is the real one: exchanges take their way through its steps, hooks are entered as they are for a client's
 * request, peers' counts lie in shared memory. Only what is around it is not: time (clock.c), the clients (crowd.c) and
 * the servers (backend.c, in dial.c's place). */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agenda.h"
#include "budget.h"
#include "chance.h"
#include "clock.h"
#include "crowd.h"
#include "engine.h"
#include "health.h"
#include "ledger.h"
#include "log.h"
#include "script.h"
#include "shared.h"
#include "text.h"
#include "vm.h"

static const double BEGIN = 1000;      /* the first time; what is 0 has a meaning elsewhere */
static const double WALL = 1767225600; /* 2026-01-01T00:00:00Z */
static const double INIT_MOST = 60;    /* seconds that init hooks may take */
enum { LOOK_EVERY = 4096 };            /* events between looks at the real time */

static struct world {
    struct mg_generation *generations[MG_WORKERS_MAX];
    unsigned spaces[MG_WORKERS_MAX];
    unsigned workers, turn;
    bool own_view;
    double zero; /* when the plan begins */
    struct mg_agenda agenda;
    mg_simulation *plan;
    struct mg_upstream *upstream; /* of the first worker: whose health is counted */
    uint8_t *healthy;             /* of its peers, as it was */
    uint32_t version;
} w;

static unsigned spaces; /* that were used by now */
static char problem_text[16384];

static double real_time(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const char *keep_problem(mg_slice text)
{
    snprintf(problem_text, sizeof(problem_text), "%.*s", (int)text.len, text.ptr);
    return problem_text;
}

/* ---- Loading. ---- */

static enum mg_status load(struct mg_generation *g, const struct mg_world_script *script, mg_slice *problem)
{
    static const struct mg_load_wants nothing;
    enum mg_status status = mg_vm_open(g, script->path, &nothing, problem);

    if (status == MG_OK)
        status = mg_vm_call(g, "moongate.simulated", "prepare", script->setup, problem);
    while (status == MG_OK && (status = mg_vm_load(g, problem)) == MG_BUSY)
        status = MG_OK;
    return status;
}

static void on_ready(struct mg_generation *g, enum mg_status status)
{
    (void)g, (void)status; /* start() looks at what it left in g */
}

static void settle(void)
{
    mg_seam_settle();
    mg_crowd_settle();
    mg_engine_reap();
}

/* Its init hooks, which may wait, and then its timers. */
static const char *start(struct mg_generation *g)
{
    double until = mg_clock_now() + INIT_MOST;

    g->on_ready = on_ready;
    mg_vm_init(g);
    settle();
    while (!g->ready_known && mg_clock_due() < until) {
        mg_clock_set(mg_clock_due());
        settle();
    }
    if (!g->ready_known)
        return "an init hook waits for something that is not in the simulation";
    if (g->ready_code != MG_OK)
        return keep_problem(mg_slice_of(g->fault ? g->fault : "an init hook failed"));
    g->state = MG_GENERATION_IN_FORCE;
    mg_vm_start(g);
    settle();
    return NULL;
}

/* It is this worker's turn: told by the clock. Each that is a gateway of its own is the first of its kind. */
static void on_turn(unsigned number)
{
    if (number != w.turn)
        mg_seam_settle(); /* what the one before has touched goes on as its own */
    w.turn = number;
    mg_shared_space(w.spaces[number]);
    mg_shared_worker(w.own_view ? 0 : (int)number, number);
    mg_generation_now = w.generations[number];
}

uint32_t mg_simulation_turn(void)
{
    return mg_clock_whom();
}

static const char *open_worker(const struct mg_world_script *script, unsigned number)
{
    mg_slice problem;
    struct mg_generation *g;

    mg_clock_enter(number);
    g = mg_generation_new(++*script->numbers);
    if (!g)
        return "out of memory";
    w.generations[number] = mg_generation_now = g;
    w.workers = number + 1;
    return load(g, script, &problem) == MG_OK ? NULL : keep_problem(problem);
}

const char *mg_world_open(const struct mg_world_script *script, unsigned workers, bool own_view, mg_slice *about)
{
    const char *problem = NULL;

    mg_clock_simulate(BEGIN, WALL, on_turn);
    w.own_view = own_view;
    spaces++;
    while (mg_shared_slots() < workers)
        if (mg_shared_slot_take(getpid()) < 0)
            return "no slot is left";
    for (unsigned i = 0; i < workers && !problem; i++) {
        w.spaces[i] = spaces;
        if (own_view && i + 1 < workers)
            spaces++;
        problem = open_worker(script, i);
    }
    if (!problem && mg_vm_call(w.generations[0], "moongate.simulated", "describe", MG_LIT(""), about) != MG_OK)
        problem = keep_problem(*about);
    return problem;
}

void mg_world_close(void)
{
    for (unsigned i = 0; i < w.workers; i++) {
        struct mg_generation *g = w.generations[i];
        mg_clock_enter(i);
        if (g->policy) {
            mg_vm_end(g);
            mg_vm_close(g);
        }
        mg_generation_free(g);
    }
    mg_generation_now = NULL;
    mg_backend_close();
    mg_agenda_free(&w.agenda);
    free(w.healthy);
    w = (struct world){ 0 };
}

/* ---- Health. ---- */

static bool watch_health(void)
{
    w.upstream = NULL;
    for (unsigned i = 0; i < w.generations[0]->upstream_count && !w.upstream; i++)
        if (mg_text_equal(mg_upstream_spec_of(w.generations[0]->upstreams[i])->name, w.plan->upstream))
            w.upstream = w.generations[0]->upstreams[i];
    w.healthy = calloc(MG_PEERS_MAX, 1);
    if (!w.healthy || !w.upstream)
        return false;
    memset(w.healthy, 1, MG_PEERS_MAX);
    w.version = mg_upstream_version(w.upstream);
    return true;
}

/* Whoever has found a peer not healthy, it is counted. */
static void look_at_health(void)
{
    uint32_t version = mg_upstream_version(w.upstream);

    if (version == w.version)
        return;
    w.version = version;
    for (int i = 0, n = mg_upstream_count(w.upstream); i < n; i++) {
        uint8_t healthy = mg_peer_look(mg_upstream_peer(w.upstream, i))->healthy;
        if (w.healthy[i] && !healthy)
            w.plan->ejections++;
        w.healthy[i] = healthy;
    }
}

/* A check of every gateway has found it. */
static void set_health(const mg_change *c)
{
    mg_slice address = w.plan->backends[c->backend].address;

    for (unsigned i = 0; i < w.workers; i++) {
        struct mg_generation *g = w.generations[i];
        mg_clock_enter(i);
        for (unsigned u = 0; u < g->upstream_count; u++)
            for (int n = mg_upstream_count(g->upstreams[u]) - 1; n >= 0; n--) {
                struct mg_peer *p = mg_upstream_peer(g->upstreams[u], n);
                if (!mg_text_equal(p->name, address))
                    continue;
                p->view->down = c->value == 0;
                mg_health_settle(p);
            }
    }
}

/* ---- The run. ---- */

struct progress {
    double began, told;
    bool shown;
};

static void tell(struct progress *p, uint32_t asked)
{
    double now = real_time();
    bool terminal = isatty(STDERR_FILENO);

    if (now - p->began < (terminal ? 2 : 10) || now - p->told < (terminal ? 0.5 : 10))
        return;
    p->told = now;
    p->shown = terminal;
    fprintf(stderr, "%s%.*s: %.0f %% of %u requests%s", terminal ? "\r" : "", (int)w.plan->name.len, w.plan->name.ptr,
            100.0 * asked / w.plan->count, w.plan->count, terminal ? "   " : "\n");
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

static void ask(uint32_t number)
{
    unsigned worker = (unsigned)(mg_chance(w.plan->seed, MG_CHANCE_WORKER, number) * w.workers);

    mg_clock_enter(worker);
    mg_crowd_ask(number);
}

static void change(const mg_change *c)
{
    if (c->what == MG_CHANGE_HEALTHY)
        set_health(c);
    else
        mg_backend_change(c);
}

/* All that happens, in its order, until each request has its answer or nobody waits for it any more. */
static void pass_time(struct progress *p)
{
    const mg_simulation *s = w.plan;
    uint32_t asked = 0, changed = 0;
    double end = w.zero + (s->count ? s->at[s->count - 1] : 0) + s->patience;

    while (asked < s->count || mg_crowd_open_count()) {
        double arrival = asked < s->count ? w.zero + s->at[asked] : INFINITY;
        double turn = changed < s->change_count ? w.zero + s->changes[changed].at : INFINITY;
        double work = mg_agenda_next(&w.agenda);
        double now = least(least(arrival, turn), least(work, mg_clock_due()));

        if (now > end)
            break;
        mg_clock_set(now);
        if (turn <= now)
            change(&s->changes[changed++]);
        else if (mg_agenda_next(&w.agenda) <= now)
            mg_backend_turn(mg_agenda_take(&w.agenda));
        else if (arrival <= now)
            ask(asked++);
        settle();
        look_at_health();
        if (++w.plan->events % LOOK_EVERY == 0)
            tell(p, asked);
    }
}

const char *mg_world_run(mg_simulation *s)
{
    struct progress p = { .began = real_time() };
    const char *problem = NULL;

    w.plan = s;
    mg_engine_seed(s->seed);
    for (unsigned i = 0; i < w.workers && !problem; i++) {
        mg_clock_enter(i);
        problem = start(w.generations[i]);
    }
    if (problem)
        return problem;
    if (!watch_health() || !mg_ledger_open(s))
        return "out of memory";
    w.zero = mg_clock_now();
    if (!mg_crowd_open(s, w.zero, &problem) || !mg_backend_open(s, &w.agenda, w.zero)) {
        mg_backend_stop();
        mg_crowd_close();
        return problem ? problem : "out of memory";
    }
    (void)mg_budget_start(w.generations[0]->settings.cpu_budget);
    pass_time(&p);
    mg_ledger_settle(mg_clock_now() - w.zero);
    mg_crowd_leave();
    settle();
    mg_backend_stop();
    settle();
    mg_crowd_close();
    mg_budget_allow(0);
    if (p.shown)
        fputs("\r\033[K", stderr);
    s->wall = real_time() - p.began;
    return NULL;
}

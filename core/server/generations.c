/* generations.c - the generations of a worker: loaded, in force, retired, rebuilt.
 *
 * One that another has replaced is closed when nothing refers to it any more;
 * its VM at the latest when drain_timeout is over. */
#include "generations.h"

#include <stdlib.h>

#include <ev.h>

#include "greeting.h"
#include "log.h"
#include "vm.h"

static const double REBUILD_AGAIN = 1.0; /* seconds until a script that fails to load is tried again */

static struct ev_loop *loop;
static const struct mg_worker_options *options;
static ev_timer rebuild_timer, overdue;
static ev_timer slices; /* the next ones of what is loading and closing */
static struct mg_generation *retired_list, *loading_list, *closing_list;
static struct mg_generation *rebuilt; /* loading, in the place of one whose VM was lost */
static struct mg_generation *former;  /* kept: it may be in force again */
static unsigned declared;             /* chunks of arenas that hold what scripts declared */

/* ---- What scripts keep. ---- */

static void drop_kept(struct mg_generation *g)
{
    free(g->kept);
    g->kept = NULL;
    g->kept_len = 0;
}

/* What the one in force keeps is there for g until drop_kept. */
static void lend_kept(struct mg_generation *g)
{
    struct mg_generation *now = mg_generation_now;

    if (!now)
        return;
    mg_vm_give(now);
    g->kept = now->kept;
    g->kept_len = now->kept_len;
    now->kept = NULL;
}

/* What was written since g was loaded comes along. */
static void take_kept(struct mg_generation *g)
{
    lend_kept(g);
    if (g->kept)
        mg_vm_take(g);
    drop_kept(g);
}

/* ---- Loading. ---- */

static void leave_loading(struct mg_generation *g)
{
    struct mg_generation **at = &loading_list;

    while (*at && *at != g)
        at = &(*at)->next;
    if (*at)
        *at = g->next;
}

static void load_slice(struct mg_generation *g)
{
    mg_slice problem = { "", 0 };
    unsigned before = mg_arena_live();
    enum mg_status status = mg_vm_load(g, &problem);

    g->declared += mg_arena_live() - before;
    declared += mg_arena_live() - before;
    if (status == MG_BUSY)
        return;
    leave_loading(g);
    drop_kept(g);
    g->on_loaded(g, status, problem);
}

/* NULL: it is loaded from the disk. */
static const struct mg_sources *text_of(unsigned number)
{
    if (number == options->generation)
        return options->sources;
    return number == options->beside ? options->beside_sources : NULL;
}

bool mg_generations_has_text(unsigned number)
{
    return text_of(number);
}

/* Worker 0 is asked first in a reload: it says what has changed. */
static struct mg_load_wants wanted(unsigned number)
{
    bool first = options->number == 0;

    return (struct mg_load_wants){
        .before = first && mg_generation_now ? mg_generation_now->outline : NULL,
        .outline = first,
        .files = first,
        .sources = text_of(number),
    };
}

struct mg_generation *mg_generations_load(unsigned number, mg_on_loaded *on_loaded, mg_on_ready *on_ready,
                                          mg_slice *problem)
{
    unsigned before = mg_arena_live();
    struct mg_generation *g = mg_generation_new(number);
    struct mg_load_wants wants = wanted(number);

    if (!g) {
        *problem = mg_slice_of("out of memory");
        return NULL;
    }
    g->on_loaded = on_loaded;
    g->on_ready = on_ready;
    lend_kept(g);
    if (mg_vm_open(g, options->script, &wants, problem) != MG_OK) {
        mg_generation_free(g);
        return NULL;
    }
    g->declared = mg_arena_live() - before;
    declared += g->declared;
    leave_loading(g);
    g->next = loading_list;
    loading_list = g;
    ev_timer_start(loop, &slices);
    return g;
}

/* ---- Retired. ---- */

static void free_generation(struct mg_generation *g)
{
    if (g->policy)
        mg_vm_close(g);
    declared -= g->declared;
    mg_generation_free(g);
}

static void shrink_slice(struct mg_generation *g)
{
    if (!mg_vm_shrink(g))
        return;
    closing_list = g->next;
    free_generation(g);
}

void mg_generations_close_retired(void)
{
    for (struct mg_generation **at = &retired_list; *at;) {
        struct mg_generation *g = *at;
        if (g->exchanges) {
            at = &g->next;
            continue;
        }
        *at = g->next;
        mg_vm_end(g);
        g->next = closing_list;
        closing_list = g;
        ev_timer_start(loop, &slices);
    }
}

/* One of each a turn of the loop, so that the worker serves in between. */
static void on_slices(struct ev_loop *l, ev_timer *t, int events)
{
    (void)l;
    (void)events;
    if (loading_list)
        load_slice(loading_list);
    if (closing_list)
        shrink_slice(closing_list);
    if (loading_list || closing_list)
        ev_timer_start(loop, t);
}

/* When the VM of a retired generation is closed, whoever is in it; 0: never. */
static double deadline_of(const struct mg_generation *g)
{
    double timeout = g->settings.drain_timeout;

    return g->state == MG_GENERATION_CUT || !(timeout > 0) ? 0 : g->retired + timeout;
}

static void await_overdue(void)
{
    double first = 0;

    for (const struct mg_generation *g = retired_list; g; g = g->next) {
        double deadline = deadline_of(g);
        if (deadline > 0 && (first == 0 || deadline < first))
            first = deadline;
    }
    ev_timer_stop(loop, &overdue);
    if (first == 0)
        return;
    double rest = first - mg_clock_now();
    ev_timer_set(&overdue, rest > 0 ? rest : 0, 0);
    ev_timer_start(loop, &overdue);
}

static void on_overdue(struct ev_loop *l, ev_timer *t, int events)
{
    (void)l;
    (void)t;
    (void)events;
    for (struct mg_generation *g = retired_list; g; g = g->next) {
        double deadline = deadline_of(g);
        if (deadline == 0 || deadline > mg_clock_now())
            continue;
        mg_log(MG_LOG_WARN,
               "generation %u: drain_timeout is over: its VM is closed; %u exchanges of it may go on only "
               "without hooks",
               g->number, g->exchanges);
        g->state = MG_GENERATION_CUT;
        mg_greeting_lost(g);
        mg_vm_cut(g);
    }
    await_overdue();
}

/* It goes when its exchanges have ended, and never at once: it may be on the stack. */
static void put_away(struct mg_generation *g)
{
    leave_loading(g);
    if (g->state != MG_GENERATION_KEPT)
        g->retired = mg_clock_now();
    g->state = MG_GENERATION_RETIRED;
    g->on_lost = NULL;
    g->next = retired_list;
    retired_list = g;
    await_overdue();
}

static void retire(struct mg_generation *g)
{
    put_away(g);
    mg_vm_retire(g);
}

/* ---- Tried out. ---- */

static void (*on_canary_gone)(void);

static void on_canary_lost(struct mg_generation *g)
{
    mg_greeting_lost(g);
    mg_generations_end_canary();
    on_canary_gone();
}

void mg_generations_try_out(struct mg_generation *g, const struct mg_canary_terms *t, void (*gone)(void))
{
    on_canary_gone = gone;
    g->state = MG_GENERATION_CANARY;
    g->on_lost = on_canary_lost;
    mg_canary_begin(g, t);
    mg_vm_start(g);
}

void mg_generations_end_canary(void)
{
    struct mg_generation *g = mg_canary;

    mg_canary_end();
    if (g)
        retire(g);
}

/* ---- Kept, for it may come back. ---- */

void mg_generations_let_kept_go(void)
{
    mg_generations_forget(&former);
}

static void on_kept_lost(struct mg_generation *g)
{
    mg_log(MG_LOG_WARN, "generation %u was kept, and has lost its VM: this worker can't go back to it", g->number);
    mg_greeting_lost(g);
    mg_generations_forget(&former);
}

void mg_generations_keep(struct mg_generation *g)
{
    mg_generations_let_kept_go();
    g->retired = mg_clock_now();
    g->state = MG_GENERATION_KEPT;
    g->on_lost = on_kept_lost;
    former = g;
}

struct mg_generation *mg_generations_kept(void)
{
    return former;
}

struct mg_generation *mg_generations_take_kept(void)
{
    struct mg_generation *g = former;

    former = NULL;
    return g;
}

/* ---- In force, and in place of one. ---- */

static void on_lost(struct mg_generation *g);

/* Connections to peers that both have outlive the generation before. */
static void adopt_connections(struct mg_generation *g)
{
    for (unsigned i = 0; i < g->upstream_count; i++)
        for (int n = 0; n < mg_upstream_count(g->upstreams[i]); n++)
            mg_origin_adopt(&mg_upstream_peer(g->upstreams[i], n)->origin);
}

void mg_generations_put_in_force(struct mg_generation *g, bool on_probation)
{
    struct mg_generation *before = mg_generation_now;

    if (before && on_probation) {
        mg_generations_keep(before);
        mg_vm_retire(before);
    } else if (before) {
        retire(before);
    }
    if (before)
        take_kept(g);
    bool begun = g == mg_canary;
    if (begun)
        mg_canary_end();
    g->state = MG_GENERATION_IN_FORCE;
    g->on_lost = on_lost;
    adopt_connections(g);
    mg_generation_now = g;
    g->in_force = mg_clock_now();
    if (!begun)
        mg_vm_start(g);
}

const char *mg_generations_fault(const struct mg_generation *g)
{
    return g->fault ? g->fault : "an init hook failed; the log says how";
}

static void on_rebuilt(struct mg_generation *g, enum mg_status status)
{
    rebuilt = NULL;
    if (status == MG_OK) {
        mg_generations_put_in_force(g, false);
        mg_log(MG_LOG_WARN, "the VM was built anew");
        return;
    }
    mg_log(MG_LOG_ERROR, "the VM could not be built anew: %s", mg_generations_fault(g));
    put_away(g);
    ev_timer_again(loop, &rebuild_timer);
}

static void on_reloaded(struct mg_generation *g, enum mg_status status, mg_slice why)
{
    if (status == MG_OK) {
        mg_vm_init(g);
        return;
    }
    mg_log(MG_LOG_ERROR, "the VM could not be built anew: %.*s", (int)why.len, why.ptr);
    mg_generations_forget(&rebuilt);
    ev_timer_again(loop, &rebuild_timer);
}

/* At once, since no hook can run meanwhile. */
static void rebuild(void)
{
    mg_slice problem;

    ev_timer_stop(loop, &rebuild_timer);
    rebuilt = mg_generations_load(mg_generation_now->number, on_reloaded, on_rebuilt, &problem);
    if (!rebuilt) {
        mg_log(MG_LOG_ERROR, "the VM could not be built anew: %.*s", (int)problem.len, problem.ptr);
        ev_timer_again(loop, &rebuild_timer);
        return;
    }
    mg_hooks_inherit(&rebuilt->hooks, &mg_generation_now->hooks);
    while (rebuilt && rebuilt->state == MG_GENERATION_LOADING)
        load_slice(rebuilt);
}

static void on_rebuild(struct ev_loop *l, ev_timer *t, int events)
{
    (void)l;
    (void)t;
    (void)events;
    rebuild();
}

static void on_lost(struct mg_generation *g)
{
    mg_greeting_lost(g);
    rebuild();
}

void mg_generations_forget(struct mg_generation **g)
{
    if (*g)
        put_away(*g);
    *g = NULL;
}

void mg_generations_keep_no_rebuilt(void)
{
    ev_timer_stop(loop, &rebuild_timer);
    mg_generations_forget(&rebuilt);
}

const struct mg_generation *mg_generations_retired(void)
{
    return retired_list;
}

static void add_level(struct mg_worker_level *l, const struct mg_generation *g, unsigned part)
{
    if (!g)
        return;
    l->exchanges[part] += g->exchanges;
    l->memory += mg_vm_memory(g);
}

struct mg_worker_level mg_generations_level(void)
{
    struct mg_worker_level l = { 0 };

    add_level(&l, mg_generation_now, MG_LEVEL_IN_FORCE);
    add_level(&l, mg_canary, MG_LEVEL_CANARY);
    add_level(&l, mg_generations_kept(), MG_LEVEL_OLD);
    for (const struct mg_generation *g = retired_list; g; g = g->next)
        add_level(&l, g, MG_LEVEL_OLD);
    return l;
}

unsigned mg_generations_declared(void)
{
    return declared;
}

void mg_generations_start(struct ev_loop *on, const struct mg_worker_options *of)
{
    loop = on;
    options = of;
    ev_init(&rebuild_timer, on_rebuild);
    rebuild_timer.repeat = REBUILD_AGAIN;
    ev_init(&overdue, on_overdue);
    ev_init(&slices, on_slices);
}

void mg_generations_end(void)
{
    if (mg_generation_now)
        put_away(mg_generation_now);
    mg_generations_forget(&rebuilt);
    mg_generations_let_kept_go();
    mg_generations_end_canary();
    mg_generations_close_retired();
    while (closing_list) {
        struct mg_generation *g = closing_list;
        closing_list = g->next;
        free_generation(g);
    }
}

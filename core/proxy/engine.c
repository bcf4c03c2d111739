/* engine.c - the loop that runs an exchange through its steps, and the hands that hold it. */
#include "engine.h"

#include <assert.h>
#include <time.h>
#include <unistd.h>

#include "cache.h"
#include "permit.h"
#include "tls.h"

enum { EXCHANGE_MAGIC = 0x6d677863 };

static const struct mg_step_entry *steps;
static struct mg_exchange *dead, *touched;
static unsigned live;
static uint64_t served, seed;

void mg_engine_start(const struct mg_step_entry *table)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    seed = (uint64_t)now.tv_sec << 32 ^ (uint64_t)now.tv_nsec << 8 ^ (uint64_t)getpid() << 44;
    steps = table;
}

void mg_engine_seed(uint64_t begin)
{
    seed = begin;
    served = 0;
}

const char *mg_engine_step_name(enum mg_step step)
{
    return steps[step].name;
}

/* splitmix64's finaliser: ids that do not repeat and do not tell how many there were. */
static uint64_t next_id(void)
{
    uint64_t z = seed + ++served * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

struct mg_exchange *mg_engine_new(struct mg_generation *g)
{
    struct mg_arena *arena = mg_arena_new();
    struct mg_exchange *x = arena ? mg_arena_zeroed(arena, sizeof(*x)) : NULL;

    if (!x) {
        mg_arena_free(arena);
        return NULL;
    }
    x->magic = EXCHANGE_MAGIC;
    x->arena = arena;
    x->generation = g;
    x->id = next_id();
    x->held = MG_HELD_ENGINE | MG_HELD_CLIENT;
    x->began = mg_clock_now();
    mg_task_init(&x->task, g);
    x->view.task = &x->task;
    x->view.slot = mg_slot_take(&g->exchange_slots);
    x->view.route = -1;
    x->view.started = mg_clock_wall();
    mg_flow_init(&x->in, &x->view, MG_PHASE_REQUEST_BODY);
    mg_flow_init(&x->out, &x->view, MG_PHASE_RESPONSE_BODY);
    g->exchanges++;
    live++;
    return x;
}

void mg_engine_drop(struct mg_exchange *x, enum mg_hand hand)
{
    assert(x->magic == EXCHANGE_MAGIC && (x->held & hand));
    x->held &= (uint8_t)~hand;
    if (x->held)
        return;
    x->next = dead;
    dead = x;
}

unsigned mg_engine_reap(void)
{
    unsigned count = 0;

    while (dead) {
        struct mg_exchange *x = dead;
        dead = x->next;
        assert(!x->touched);
        x->magic = 0;
        x->generation->exchanges--;
        mg_tls_session_drop(x->tls);
        mg_arena_free(x->arena);
        live--;
        count++;
    }
    return count;
}

unsigned mg_engine_live(void)
{
    return live;
}

uint64_t mg_engine_served(void)
{
    return served;
}

/* Bodies whose state Lua has changed go on. */
static void settle(struct mg_flow *f)
{
    if (f->view->gone)
        mg_flow_spoil(f); /* no hook sees any more of it */
    if (f->seen)
        mg_flow_filtered(f);
    else if (mg_flow_is_due(f))
        mg_flow_pump(f);
}

static void finish(struct mg_exchange *x)
{
    struct mg_policy *policy = x->generation->policy;
    struct mg_tally *tally = x->generation->tally;

    tally->exchanges++;
    tally->failures += x->view.status >= 500;
    tally->throws += x->threw;
    mg_task_end(&x->task);
    if (x->scripted)
        policy->finish(policy, &x->view);
    if (x->permits)
        mg_permits_give(&x->permits);
    if (x->cached)
        mg_cache_leave(x->cached);
    mg_flow_drop(&x->in);
    mg_flow_drop(&x->out);
    mg_slot_give(&x->generation->exchange_slots, x->view.slot);
    mg_engine_drop(x, MG_HELD_ENGINE);
}

void mg_engine_run(struct mg_exchange *x)
{
    enum mg_next next = MG_MORE;

    assert(x->magic == EXCHANGE_MAGIC);
    x->again = true;
    if (x->running || !(x->held & MG_HELD_ENGINE))
        return;

    x->running = true;
    while (next == MG_MORE || (next == MG_PARK && x->again)) {
        if (x->again) {
            x->again = false;
            settle(&x->in);
            settle(&x->out);
        }
        if (x->view.gone && x->view.step < MG_STEP_LOG)
            x->view.step = MG_STEP_LOG;
        next = steps[x->view.step].run(x);
    }
    if (next == MG_DONE)
        finish(x);
    x->running = false;
}

void mg_engine_touch(struct mg_exchange *x)
{
    if (x->running) {
        x->again = true;
        return;
    }
    if (x->touched)
        return;
    x->touched = true;
    x->next_touched = touched;
    touched = x;
}

void mg_engine_run_touched(void)
{
    static bool running;

    if (running) /* the outer call goes on with the list: no depth */
        return;
    running = true;
    while (touched) {
        struct mg_exchange *x = touched;
        touched = x->next_touched;
        x->touched = false;
        mg_engine_run(x);
    }
    running = false;
}

enum mg_next mg_engine_enter(struct mg_exchange *x, enum mg_phase phase)
{
    struct mg_policy *policy = x->generation->policy;
    uint32_t bit = 1u << phase;

    if (x->at_work & bit)
        return MG_PARK;
    if (x->entered & bit)
        return MG_MORE;
    x->entered |= bit;
    x->at_work |= bit;
    if (policy->enter(policy, &x->view, phase) == MG_PARK)
        return MG_PARK;
    x->at_work &= ~bit;
    return MG_MORE;
}

enum mg_next mg_engine_fail(struct mg_exchange *x, unsigned status, const char *text)
{
    x->failed = true;
    x->error_status = status;
    x->error_text = mg_slice_of(text);
    return mg_go(x, MG_STEP_ERROR);
}

enum mg_next mg_engine_after_hooks(struct mg_exchange *x, enum mg_step next)
{
    if (x->failed)
        return mg_go(x, MG_STEP_ERROR);
    return mg_go(x, x->answered ? MG_STEP_RESPONSE : next);
}

void mg_engine_phase_done(struct mg_exchange *x, enum mg_phase phase)
{
    if (phase == MG_PHASE_REQUEST_BODY || phase == MG_PHASE_CLIENT_MESSAGE)
        x->in.seen = true;
    else if (phase == MG_PHASE_RESPONSE_BODY || phase == MG_PHASE_ORIGIN_MESSAGE)
        x->out.seen = true;
    x->at_work &= ~(1u << phase);
    mg_engine_touch(x);
}

void mg_engine_phase_failed(struct mg_exchange *x, enum mg_phase phase)
{
    x->threw = true;
    if (phase == MG_PHASE_LOG || x->view.gone)
        return;
    if (phase == MG_PHASE_CLIENT_MESSAGE || phase == MG_PHASE_ORIGIN_MESSAGE) {
        mg_messages_close(x->in.messages, MG_CLOSE_INTERNAL, "", 0);
        mg_engine_touch(x);
        return;
    }
    x->failed = true;
    x->error_status = 500;
    x->error_text = MG_LIT("a hook failed");
    if (phase == MG_PHASE_HANDLE)
        x->hook_failed = true;
    else if (phase == MG_PHASE_REQUEST_BODY)
        mg_flow_spoil(&x->in);
    else if (phase == MG_PHASE_RESPONSE_BODY)
        mg_flow_spoil(&x->out);
    mg_engine_touch(x);
}

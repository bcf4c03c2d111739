/* worker.c - loads a generation, serves with it, lets it go.
 *
 * Loading (prepare) and serving (commit) are two steps: between them stands
 * the master's word. */
#include "worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ev.h>

#include "access.h"
#include "channel.h"
#include "engine.h"
#include "generations.h"
#include "h2.h"
#include "leader.h"
#include "listeners.h"
#include "log.h"
#include "mirror.h"
#include "peers.h"
#include "ready.h"
#include "report.h"
#include "script.h"
#include "services.h"
#include "sink.h"
#include "tcp.h"
#include "transport.h"
#include "vm.h"

static const double MEASURED = 1; /* seconds, at least, from one look at its memory to the next */
static const double RELAX = 10;   /* seconds after which memory that nobody has needed meanwhile is given back */

static struct worker {
    const struct mg_worker_options *options;
    struct ev_loop *loop;
    ev_io channel;
    ev_prepare before_sleep;
    ev_timer drain, relax;
    ev_signal term;
    struct mg_generation *candidate; /* loading or waiting for the master's word */
    bool draining, ended;
    bool alone; /* none is wanted beside the one in force, whatever the options say */
    int status;
} w;

/* ---- Prepare. ---- */

static void finish(int status)
{
    w.status = status;
    w.ended = true;
    ev_break(w.loop, EVBREAK_ALL);
}

/* Nothing has changed, and nothing will; at the start there is nothing to go on with. */
static void refuse(mg_slice problem)
{
    mg_channel_send(w.options->channel, MG_WORD_FAILED, problem.ptr, problem.len, NULL, 0);
    mg_generations_forget(&w.candidate);
    if (!mg_generation_now)
        finish(1);
}

static void on_prepared(struct mg_generation *g, enum mg_status status)
{
    if (status != MG_OK)
        refuse(mg_slice_of(mg_generations_fault(g)));
    else if (g->listen_count > MG_BINDS_MOST)
        refuse(MG_LIT("more listeners than can be handed over"));
    else if (!mg_ready_send(w.options->channel, g))
        refuse(MG_LIT("the worker is out of memory"));
}

/* Its VM was lost to an init hook that did not stop. */
static void on_candidate_lost(struct mg_generation *g)
{
    if (!g->ready_known)
        refuse(MG_LIT("an init hook took longer than cpu_budget and did not stop; the log says more"));
}

static void on_loaded(struct mg_generation *g, enum mg_status status, mg_slice problem)
{
    const char *wrong = NULL;

    if (status == MG_OK)
        wrong = mg_generation_now ? mg_access_check(&g->settings) : mg_services_open(&g->settings);
    if (status != MG_OK)
        refuse(problem);
    else if (wrong)
        refuse(mg_slice_of(wrong));
    else
        mg_vm_init(g);
}

static void prepare(unsigned number)
{
    mg_slice problem;

    mg_generations_forget(&w.candidate);
    w.candidate = mg_generations_load(number, on_loaded, on_prepared, &problem);
    if (w.candidate)
        w.candidate->on_lost = on_candidate_lost;
    else
        refuse(problem);
}

/* ---- Commit. ---- */

static void on_text_lost(struct mg_generation *g)
{
    mg_log(MG_LOG_ERROR,
           "generation %u has lost its VM, and the disk may hold another script: another worker takes the place",
           g->number);
    finish(1);
}

/* Another script than that of g may lie on the disk by now: g is built anew only of a text that the master has kept. */
static void distrust_disk(struct mg_generation *g)
{
    if (!mg_generations_has_text(g->number))
        g->on_lost = on_text_lost;
}

/* Its VM was lost: here it is tried out no more, and the master must hear of it. */
static void on_canary_lost(void)
{
    static const char why[] = "a run of it overran cpu_budget or memory_limit and did not stop; the log says more";

    mg_channel_send(w.options->channel, MG_WORD_FAILED, why, sizeof(why) - 1, NULL, 0);
}

/* The one beside: in the other workers it is kept, or tried out, already. */
static void on_beside_ready(struct mg_generation *g, enum mg_status status)
{
    if (status != MG_OK) {
        mg_generations_forget(&w.candidate);
        return;
    }
    w.candidate = NULL;
    if (w.options->canary.share > 0)
        mg_generations_try_out(g, &w.options->canary, on_canary_lost);
    else
        mg_generations_keep(g);
}

static void on_beside_loaded(struct mg_generation *g, enum mg_status status, mg_slice problem)
{
    if (status == MG_OK) {
        mg_vm_init(g);
        return;
    }
    mg_log(MG_LOG_WARN, "generation %u can't be loaded beside the one in force: %.*s", g->number, (int)problem.len,
           problem.ptr);
    mg_generations_forget(&w.candidate);
}

static void load_beside(void)
{
    mg_slice problem;

    if (!w.options->beside || w.alone)
        return;
    w.candidate = mg_generations_load(w.options->beside, on_beside_loaded, on_beside_ready, &problem);
}

/* What is kept or tried out is so no more, and this worker may not have it yet. */
static void want_none_beside(void)
{
    w.alone = true;
    if (w.candidate && w.candidate->number == w.options->beside)
        mg_generations_forget(&w.candidate);
}

/* What is to be in force: a canary that is promoted, or what was prepared. NULL: a canary that is not ready here. */
static struct mg_generation *choose(void)
{
    if (mg_canary)
        return mg_canary;
    return w.candidate && w.candidate->number == w.options->beside ? NULL : w.candidate;
}

static void commit(const struct mg_letter *l)
{
    struct mg_generation *g = choose();
    bool begins = !mg_generation_now, tried_out = mg_canary;

    if (!g) {
        mg_log(MG_LOG_WARN, "what is promoted is not ready here: another worker takes the place");
        finish(1);
        return;
    }
    if (!mg_listeners_take(g, l)) {
        mg_log(MG_LOG_ERROR, "generation %u can't be put in force: no memory or no descriptor is left", g->number);
        finish(1);
        return;
    }
    w.candidate = NULL;
    mg_generations_keep_no_rebuilt();
    if (mg_generation_now)
        mg_services_take(&g->settings, &mg_generation_now->settings);
    mg_generations_let_kept_go();
    mg_generations_put_in_force(g, g->settings.probation > 0);
    if (tried_out)
        distrust_disk(g);
    mg_channel_send(w.options->channel, MG_WORD_IN_FORCE, NULL, 0, NULL, 0);
    if (begins)
        load_beside();
}

static void try_out(const struct mg_letter *l)
{
    struct mg_canary_terms terms;

    if (l->len != sizeof(terms) || !w.candidate)
        return;
    memcpy(&terms, l->body, sizeof(terms));
    struct mg_generation *g = w.candidate;
    w.candidate = NULL;
    mg_generations_try_out(g, &terms, on_canary_lost);
    distrust_disk(mg_generation_now);
    mg_channel_send(w.options->channel, MG_WORD_IN_FORCE, NULL, 0, NULL, 0);
}

/* ---- Back. ---- */

static void go_back(const struct mg_letter *l)
{
    struct mg_generation *g = mg_generations_kept();

    if (!g || !mg_listeners_take(g, l)) {
        mg_log(MG_LOG_WARN, "the generation of before is not here: another worker takes the place");
        finish(1);
        return;
    }
    mg_generations_take_kept();
    mg_generations_forget(&w.candidate);
    mg_generations_keep_no_rebuilt();
    mg_services_take(&g->settings, &mg_generation_now->settings);
    mg_generations_put_in_force(g, false);
    distrust_disk(g);
    mg_channel_send(w.options->channel, MG_WORD_IN_FORCE, NULL, 0, NULL, 0);
}

/* ---- Words from the master. ---- */

static void report(void)
{
    const struct mg_generation *now = mg_generation_now ? mg_generation_now : w.candidate;
    char text[MG_REPORT_MOST];

    if (now)
        mg_channel_send(w.options->channel, MG_WORD_STATUS, text, mg_report(text, sizeof(text), w.options->number, now),
                        NULL, 0);
}

static void answer_peers(const struct mg_letter *l)
{
    static char text[MG_PEERS_ANSWER_MOST];

    if (mg_generation_now)
        mg_channel_send(w.options->channel, MG_WORD_PEERS, text,
                        mg_peers_obey(mg_generation_now, l->body, l->len, text), NULL, 0);
}

static void on_drained(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    mg_log(MG_LOG_WARN, "drain_timeout is over: %u connections are cut", mg_listener_connections());
    finish(0);
}

static void drain(void)
{
    if (!mg_generation_now)
        finish(0); /* still loading */
    if (!mg_generation_now || w.draining)
        return;
    double timeout = mg_generation_now->settings.drain_timeout;
    w.draining = true;
    mg_leader_leave();
    mg_listeners_stop();
    mg_listener_drain();
    mg_exchange_drain();
    ev_timer_init(&w.drain, on_drained, timeout > 0 ? timeout : 1e9, 0);
    ev_timer_start(w.loop, &w.drain);
}

static void hear(const struct mg_letter *l)
{
    struct mg_level level;
    uint32_t number;

    switch (l->word) {
    case MG_WORD_PREPARE:
        if (l->len == sizeof(number)) {
            memcpy(&number, l->body, sizeof(number));
            prepare(number);
        }
        return;
    case MG_WORD_COMMIT:
        commit(l);
        return;
    case MG_WORD_CANARY:
        try_out(l);
        return;
    case MG_WORD_BACK:
        go_back(l);
        return;
    case MG_WORD_PROMOTE:
        mg_generations_let_kept_go();
        want_none_beside();
        return;
    case MG_WORD_ABANDON:
        if (mg_generation_now)
            mg_generations_forget(&w.candidate);
        mg_generations_end_canary();
        want_none_beside();
        return;
    case MG_WORD_STATUS:
        report();
        return;
    case MG_WORD_DRAIN:
        drain();
        return;
    case MG_WORD_STOP:
        finish(0);
        return;
    case MG_WORD_REOPEN:
        mg_log_reopen();
        mg_sink_reopen();
        return;
    case MG_WORD_PEERS:
        answer_peers(l);
        return;
    case MG_WORD_LEVEL:
        if (l->len == sizeof(level)) {
            memcpy(&level, l->body, sizeof(level));
            mg_services_tell_level(&level);
        }
        return;
    case MG_WORD_READY:
    case MG_WORD_FAILED:
    case MG_WORD_IN_FORCE:
        break;
    }
}

static void on_channel(struct ev_loop *loop, ev_io *io, int events)
{
    struct mg_letter l;
    int got;

    (void)loop;
    (void)events;
    while ((got = mg_channel_receive(io->fd, &l)) > 0)
        hear(&l);
    if (got < 0)
        finish(0); /* the master is gone */
}

/* ---- The loop. ---- */

static void flush(void)
{
    mg_h1_flush();
    if (mg_tcp_at_work)
        mg_tcp_flush();
    mg_outside_flush();
}

static void after_event(void)
{
    mg_seam_settle();
    flush();
    mg_engine_reap();
}

static void on_relax(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    mg_block_relax();
}

/* What a scrape shows of this worker. */
static void measure(void)
{
    static double measured;
    double now = mg_clock_now();

    if (now - measured < MEASURED)
        return;
    measured = now;
    struct mg_worker_level level = mg_generations_level();
    mg_meter_worker(&level);
}

static void on_before_sleep(struct ev_loop *loop, ev_prepare *p, int events)
{
    (void)loop;
    (void)p;
    (void)events;
    /* All that this turn has brought to a connection of HTTP/2 leaves in one write. It may bring more for others. */
    do
        after_event();
    while (mg_h2_flush());
    mg_generations_close_retired();
    measure();
    if (w.draining && !mg_listener_connections() && !mg_engine_live())
        finish(0);
}

/* Whoever stops a group of processes sends it to all of them: what the logs hold is written then too. */
static void on_term(struct ev_loop *loop, ev_signal *s, int events)
{
    (void)loop;
    (void)s;
    (void)events;
    finish(0);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void say_who(int number)
{
    static char who[32];

    snprintf(who, sizeof(who), "worker %d", number);
    mg_log_who(who);
}

static void end(void)
{
    ev_signal_stop(w.loop, &w.term);
    signal(SIGTERM, SIG_IGN); /* it is ending */
    mg_listeners_stop();
    mg_listener_close();
    mg_h2_flush();
    flush();
    mg_engine_run_touched();
    mg_engine_reap();
    mg_mirror_stop();
    mg_dial_stop();
    mg_h2_flush();
    flush();
    mg_generations_forget(&w.candidate);
    mg_generations_end();
    mg_listeners_remove();
    mg_services_close();
    mg_transport_stop();
    mg_clock_stop();
    mg_h2_trim();
    mg_block_trim();
    mg_arena_trim();
    ev_loop_destroy(w.loop);
}

int mg_worker_run(const struct mg_worker_options *options)
{
    w.options = options;
    w.loop = ev_loop_new(EVBACKEND_EPOLL);
    if (!w.loop)
        return 1;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* a terminal sends it to all; the master says what it means */
    say_who(options->number);
    raise_descriptor_limit();
    mg_clock_start(w.loop);
    if (!mg_transport_start(w.loop, after_event))
        return 1;
    mg_exchange_start();
    ev_prepare_init(&w.before_sleep, on_before_sleep);
    ev_prepare_start(w.loop, &w.before_sleep);
    ev_timer_init(&w.relax, on_relax, RELAX, RELAX);
    ev_timer_start(w.loop, &w.relax);
    mg_peers_start_keeping_up(w.loop);
    ev_io_init(&w.channel, on_channel, options->channel, EV_READ);
    ev_io_start(w.loop, &w.channel);
    ev_signal_init(&w.term, on_term, SIGTERM);
    ev_signal_start(w.loop, &w.term);
    mg_listeners_start(w.loop);
    mg_services_start(w.loop, options);
    mg_generations_start(w.loop, options);
    prepare(options->generation);
    if (!w.ended)
        ev_run(w.loop, 0);
    end();
    return w.status;
}

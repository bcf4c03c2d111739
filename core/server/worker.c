/* worker.c - loads a generation, serves with it, lets it go.
 *
 * Loading (prepare) and serving (commit) are two steps: between them stands
 * the master's word. A generation that another one has replaced is closed
 * when nothing refers to it any more. */
#include "worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ev.h>

#include "access.h"
#include "attempt.h"
#include "budget.h"
#include "channel.h"
#include "engine.h"
#include "greeting.h"
#include "h2.h"
#include "listener.h"
#include "log.h"
#include "resolve.h"
#include "script.h"
#include "sink.h"
#include "tcp.h"
#include "tls.h"
#include "transport.h"
#include "vm.h"

enum { GENERATIONS_MOST = 16 };
static const double REBUILD_AGAIN = 1.0; /* seconds until a script that fails to load is tried again */

static struct worker {
    const struct mg_worker_options *options;
    struct ev_loop *loop;
    ev_io channel;
    ev_prepare before_sleep;
    ev_timer drain, rebuild;
    ev_signal term;
    struct mg_listen listens[MG_BINDS_MOST]; /* the worker's own copy: connections outlive generations */
    struct mg_listener *listeners[MG_BINDS_MOST];
    unsigned listener_count;
    struct mg_generation *retired[GENERATIONS_MOST];
    struct mg_generation *loading; /* the first one, while its init hooks run */
    unsigned generations;          /* loaded so far */
    unsigned declared;             /* chunks of arenas that hold what scripts declared */
    bool draining, ended, resolving;
    int status;
} w;

/* ---- Generations. ---- */

static void drop_generation(struct mg_generation *g)
{
    if (g->policy)
        mg_vm_close(g);
    w.declared -= g->declared;
    mg_generation_free(g);
}

static void close_retired(void)
{
    for (unsigned i = 0; i < GENERATIONS_MOST; i++) {
        struct mg_generation *g = w.retired[i];
        if (!g || g->exchanges)
            continue;
        w.retired[i] = NULL;
        drop_generation(g);
    }
}

/* Its exchanges end with it; it goes when they have. With no place left it stays for good. */
static void retire(struct mg_generation *g)
{
    g->state = MG_GENERATION_RETIRED;
    for (unsigned i = 0; i < GENERATIONS_MOST; i++) {
        if (!w.retired[i]) {
            w.retired[i] = g;
            return;
        }
    }
}

/* Runs the script in a fresh VM. NULL with the text for the user. */
static struct mg_generation *prepare(void (*on_ready)(struct mg_generation *, enum mg_status), mg_slice *problem)
{
    struct mg_generation *g = mg_generation_new(++w.generations);

    if (!g) {
        *problem = mg_slice_of("out of memory");
        return NULL;
    }
    unsigned before = mg_arena_live() - 1; /* its first chunk is there already */
    g->on_ready = on_ready;
    if (mg_vm_load(g, w.options->script, problem) == MG_OK) {
        g->declared = mg_arena_live() - before;
        w.declared += g->declared;
        return g;
    }
    mg_generation_free(g);
    return NULL;
}

static void on_lost(struct mg_generation *g);

static void put_in_force(struct mg_generation *g)
{
    if (mg_generation_now)
        retire(mg_generation_now);
    g->state = MG_GENERATION_IN_FORCE;
    g->on_lost = on_lost;
    mg_generation_now = g;
    mg_vm_start(g);
}

static void on_rebuilt(struct mg_generation *g, enum mg_status status)
{
    if (status == MG_OK) {
        put_in_force(g);
        mg_log(MG_LOG_WARN, "the VM was built anew");
        return;
    }
    mg_log(MG_LOG_ERROR, "the VM could not be built anew: an init hook failed");
    retire(g);
    ev_timer_again(w.loop, &w.rebuild);
}

static void rebuild(void)
{
    mg_slice problem;
    struct mg_generation *g = prepare(on_rebuilt, &problem);

    if (g) {
        ev_timer_stop(w.loop, &w.rebuild);
        mg_vm_init(g);
        return;
    }
    mg_log(MG_LOG_ERROR, "the VM could not be built anew: %.*s", (int)problem.len, problem.ptr);
    ev_timer_again(w.loop, &w.rebuild);
}

static void on_rebuild(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    rebuild();
}

static void on_lost(struct mg_generation *g)
{
    mg_greeting_lost(g);
    rebuild();
}

/* ---- Words to and from the master. ---- */

static void finish(int status)
{
    w.status = status;
    w.ended = true;
    ev_break(w.loop, EVBREAK_ALL);
}

static void fail(mg_slice problem)
{
    mg_channel_send(w.options->channel, MG_WORD_FAILED, problem.ptr, problem.len, NULL, 0);
    finish(1);
}

static void describe_bind(struct mg_bind *b, const struct mg_listen *l)
{
    b->address = l->address;
    b->backlog = l->backlog;
    snprintf(b->text, sizeof(b->text), "%.*s", (int)l->text.len, l->text.ptr);
    snprintf(b->where, sizeof(b->where), "%.*s", (int)l->where.len, l->where.ptr);
}

static void on_prepared(struct mg_generation *g, enum mg_status status)
{
    if (status != MG_OK) {
        fail(MG_LIT("an init hook failed; the log says how"));
        return;
    }
    if (g->listen_count > MG_BINDS_MOST) {
        fail(MG_LIT("more listeners than can be handed over"));
        return;
    }
    size_t size = sizeof(struct mg_ready) + g->listen_count * sizeof(struct mg_bind);
    struct mg_ready *r = calloc(1, size);
    if (!r) {
        fail(MG_LIT("out of memory"));
        return;
    }
    r->drain_timeout = g->settings.drain_timeout;
    r->workers = g->settings.workers;
    if (!mg_text_equal(g->settings.error_log, MG_LIT("stderr")))
        snprintf(r->error_log, sizeof(r->error_log), "%.*s", (int)g->settings.error_log.len, g->settings.error_log.ptr);
    r->count = g->listen_count;
    for (unsigned i = 0; i < r->count; i++)
        describe_bind(&r->binds[i], &g->listens[i]);
    w.loading = NULL;
    mg_generation_now = g; /* not in force yet, but the one to commit */
    if (!mg_channel_send(w.options->channel, MG_WORD_READY, r, size, NULL, 0))
        finish(1);
    free(r);
}

/* The networks are copied too: the generation may go before the listener does. */
static void keep_listen(struct mg_listen *to, const struct mg_listen *from)
{
    *to = *from;
    if (to->tls)
        mg_tls_hold(to->tls);
    to->text = to->where = (mg_slice){ "", 0 };
    to->trusted = NULL;
    if (!from->trusted_count)
        return;
    to->trusted = malloc(from->trusted_count * sizeof(*to->trusted));
    if (to->trusted)
        memcpy(to->trusted, from->trusted, from->trusted_count * sizeof(*to->trusted));
    else
        to->trusted_count = 0;
}

static void commit(const struct mg_letter *l)
{
    struct mg_generation *g = mg_generation_now;
    const uint32_t *numbers = (const uint32_t *)l->body;

    for (unsigned i = 0; i < l->fd_count; i++) {
        keep_listen(&w.listens[i], &g->listens[numbers[i]]);
        w.listeners[i] = mg_listener_new(w.loop, l->fds[i], &w.listens[i]);
        if (!w.listeners[i]) {
            finish(1);
            return;
        }
        w.listener_count++;
    }
    mg_generation_now = NULL;
    put_in_force(g);
    for (unsigned i = 0; i < w.listener_count; i++)
        mg_listener_start(w.listeners[i]);
}

static void report(void)
{
    const struct mg_generation *g = mg_generation_now ? mg_generation_now : w.loading;
    char text[1024];
    int n = snprintf(
        text, sizeof(text),
        "{\"number\":%d,\"pid\":%d,\"generation\":%u,\"served\":%llu,\"connections\":%u,\"exchanges\":%u,"
        "\"streams\":%u,\"blocks\":%u,\"arenas\":%u,\"tickets\":%d,\"tasks\":%u,\"fibers\":%d,\"requests\":%d,"
        "\"sockets\":%u,\"fetches\":%u,\"coders\":%u,\"dials\":%u,\"idle\":%u,\"lookups\":%u,\"queued\":%u,"
        "\"memory\":%.0f,\"log_dropped\":%lu}",
        w.options->number, (int)getpid(), g->number, (unsigned long long)mg_engine_served(), mg_listener_connections(),
        mg_engine_live(), mg_h1_streams() + mg_h2_streams() + mg_tcp_streams(), mg_block_live(),
        mg_arena_live() - w.declared, g->tickets.used, g->tasks, g->lua.fibers, g->lua.requests, mg_outside_live(),
        mg_fetch_live(), mg_coding_live(), mg_dial_live(), mg_dial_idle(), mg_resolve_live(), mg_attempt_queued(),
        mg_vm_memory(g), mg_sink_dropped());

    mg_channel_send(w.options->channel, MG_WORD_STATUS, text, (size_t)n, NULL, 0);
}

static void stop_listening(void)
{
    for (unsigned i = 0; i < w.listener_count; i++)
        mg_listener_stop(w.listeners[i]);
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
    stop_listening();
    mg_listener_drain();
    ev_timer_init(&w.drain, on_drained, timeout > 0 ? timeout : 1e9, 0);
    ev_timer_start(w.loop, &w.drain);
}

static void hear(const struct mg_letter *l)
{
    switch (l->word) {
    case MG_WORD_COMMIT:
        commit(l);
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
    case MG_WORD_READY:
    case MG_WORD_FAILED:
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

static void on_before_sleep(struct ev_loop *loop, ev_prepare *p, int events)
{
    (void)loop;
    (void)p;
    (void)events;
    /* All that this turn has brought to a connection of HTTP/2 leaves in one write. It may bring more for others. */
    do
        after_event();
    while (mg_h2_flush());
    close_retired();
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

static void open_error_log(const mg_settings *s)
{
    char path[MG_WHERE_TEXT];

    if (w.options->error_log_given || mg_text_equal(s->error_log, MG_LIT("stderr")))
        return;
    snprintf(path, sizeof(path), "%.*s", (int)s->error_log.len, s->error_log.ptr);
    (void)mg_log_open(path); /* the master says what is wrong with it */
}

static bool open_services(const mg_settings *s)
{
    static char servers[256];
    enum mg_log_level level;

    open_error_log(s);

    snprintf(servers, sizeof(servers), "%.*s", (int)s->resolver.len, s->resolver.len ? s->resolver.ptr : "");
    if (!w.options->log_level_given && mg_log_level_named(s->log_level, &level))
        mg_log_level = level;
    if (!mg_resolve_start(w.loop, s->resolver.len ? servers : NULL)) {
        fail(MG_LIT("the resolver can't be started; look at gate.set{ resolver = ... } and /etc/resolv.conf"));
        return false;
    }
    w.resolving = true;
    if (!mg_budget_start(s->cpu_budget)) {
        fail(MG_LIT("the CPU clock for cpu_budget can't be started"));
        return false;
    }
    const char *problem = mg_access_open(s);
    if (problem)
        fail(mg_slice_of(problem));
    return !problem;
}

static bool start(void)
{
    mg_slice problem;
    struct mg_generation *g = prepare(on_prepared, &problem);

    if (!g) {
        fail(problem);
        return false;
    }
    w.loading = g; /* until on_prepared */
    if (!open_services(&g->settings))
        return false;
    mg_vm_init(g);
    return true;
}

static void end(void)
{
    ev_signal_stop(w.loop, &w.term);
    signal(SIGTERM, SIG_IGN); /* it is ending */
    stop_listening();
    mg_listener_close();
    mg_h2_flush();
    flush();
    mg_engine_run_touched();
    mg_engine_reap();
    mg_dial_stop();
    mg_h2_flush();
    flush();
    if (mg_generation_now)
        drop_generation(mg_generation_now);
    if (w.loading)
        drop_generation(w.loading);
    close_retired();
    for (unsigned i = 0; i < w.listener_count; i++) {
        mg_listener_free(w.listeners[i]);
        free(w.listens[i].trusted);
        mg_tls_drop(w.listens[i].tls);
    }
    mg_sink_close();
    if (w.resolving)
        mg_resolve_stop();
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
    ev_io_init(&w.channel, on_channel, options->channel, EV_READ);
    ev_io_start(w.loop, &w.channel);
    ev_signal_init(&w.term, on_term, SIGTERM);
    ev_signal_start(w.loop, &w.term);
    ev_init(&w.rebuild, on_rebuild);
    w.rebuild.repeat = REBUILD_AGAIN;
    if (start() && !w.ended)
        ev_run(w.loop, 0);
    end();
    return w.status;
}

/* master.c - starts with one worker, keeps all of them running, stops them.
 *
 * The first worker is asked alone: if its script is bad, nothing has been
 * bound and nothing else was started. Then the sockets are bound, the other
 * workers load, and when all are ready all of them begin. */
#include "master.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ev.h>

#include "children.h"
#include "commands.h"
#include "control.h"
#include "declared.h"
#include "inherited.h"
#include "level.h"
#include "log.h"
#include "notify.h"
#include "peers_command.h"
#include "probation.h"
#include "reload.h"
#include "sockets.h"
#include "status_report.h"
#include "tally.h"
#include "tls.h"
#include "upgrade.h"
#include "watch.h"

enum { SIGNALS = 7 };
static const double FAREWELL = 2.0; /* seconds for a question on its way to a process that was replaced */

enum stage { ASKING, STARTING, RUNNING, STOPPING };

static struct {
    struct ev_loop *loop;
    enum stage stage;
    ev_signal signals[SIGNALS];
    ev_timer kill, tickets, farewell;
    bool announced; /* all workers serve, and it was told */
    bool succeeded; /* another process serves in our place */
    int exit_status;
} m;

/* ---- Stopping. ---- */

/* Who had connected to the control socket before another process took it over does not know that. */
static bool awaits_question(void)
{
    if (!m.succeeded || !mg_control_askers())
        return false;
    if (m.farewell.data)
        return ev_is_active(&m.farewell);
    m.farewell.data = &m; /* once */
    ev_timer_start(m.loop, &m.farewell);
    return true;
}

static void end_if_done(void)
{
    if (m.stage == STOPPING && !mg_children_alive() && !awaits_question())
        ev_break(m.loop, EVBREAK_ALL);
}

static void on_farewell(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    end_if_done();
}

static void on_kill(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    mg_children_kill();
}

/* For workers that don't end by themselves. */
static void set_deadline(bool drain)
{
    const struct mg_ready *now = mg_declared_now();
    double timeout = drain && now ? now->drain_timeout : 0;

    ev_timer_stop(m.loop, &m.kill);
    if (drain && !(timeout > 0))
        return;
    ev_timer_set(&m.kill, timeout + MG_STOP_PATIENCE, 0);
    ev_timer_start(m.loop, &m.kill);
}

static void stop(bool drain)
{
    mg_reload_no_more();
    mg_upgrade_give_up("moongate is told to stop");
    mg_upgrade_tell_failed("the new process was told to stop before it served");
    mg_watch_stop();
    m.stage = STOPPING;
    if (!m.succeeded)
        mg_notify_stopping(drain ? "Exchanges in progress are finished" : "Stopping");
    mg_children_start_no_more();
    mg_children_tell(drain ? MG_WORD_DRAIN : MG_WORD_STOP);
    mg_sockets_keep(NULL, 0);
    set_deadline(drain);
    end_if_done();
}

static void fail(const char *why)
{
    mg_upgrade_tell_failed(why);
    m.exit_status = 1;
    stop(false);
}

/* ---- Starting. ---- */

/* Who serves is told of by this process alone from now on. */
static void tell_ready(void)
{
    unsigned workers = mg_children_serving();

    mg_notify_ready("Generation %u serves in %u workers", mg_declared_generation(), workers);
}

/* Another process of an upgrade, or the service manager, may hold what we hold. */
static void announce_if_all_serve(void)
{
    if (m.announced || m.stage != RUNNING || !mg_children_all_in_force())
        return;
    m.announced = true;
    const struct mg_ready *now = mg_declared_now();
    unsigned workers = mg_children.count;
    char list[1024] = "";
    size_t n = 0;

    for (unsigned i = 0; i < now->count && n < sizeof(list) - MG_ADDRESS_TEXT - 3; i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "", now->binds[i].text);
    mg_log(MG_LOG_INFO, "ready: %u worker%s, listening on %s", workers, workers == 1 ? "" : "s", list);
    mg_inherited_drop();
    mg_sockets_settle();
    mg_control_begin();
    if (mg_upgrade_is_awaited())
        mg_upgrade_tell_ready();
    else
        tell_ready();
}

static void commit_if_all_ready(void)
{
    for (unsigned i = 0; i < mg_children.count; i++)
        if (!mg_children.all[i].ready)
            return;
    for (unsigned i = 0; i < mg_children.count; i++)
        mg_child_commit(&mg_children.all[i]);
    m.stage = RUNNING;
}

/* The first worker has loaded the script: bind, and start the others. */
static void begin(const struct mg_ready *r)
{
    const char *why;

    if (!mg_declared_take(r, &why)) {
        mg_log(MG_LOG_ERROR, "%s", why);
        fail(why);
        return;
    }
    m.stage = STARTING;
    mg_level_follow();
    mg_children_recount();
    if (m.stage == STARTING)
        commit_if_all_ready();
}

/* ---- What a worker says. ---- */

static void on_ready(struct mg_child *c, const struct mg_letter *l)
{
    if (m.stage == STOPPING || !c->pid || (c->serves && !c->prepares))
        return; /* nobody waits for it any more */
    free(c->ready);
    c->ready = mg_declared_read(l);
    if (!c->ready)
        kill(c->pid, SIGKILL); /* its end is told, and what follows from it */
    else if (m.stage == ASKING)
        begin(c->ready);
    else if (m.stage == STARTING)
        commit_if_all_ready();
    else if (c->prepares)
        mg_reload_on_prepared(c);
    else
        mg_child_commit(c);
}

static void on_failed(struct mg_child *c, const struct mg_letter *l)
{
    if (c->serves) {
        if (c->prepares)
            mg_reload_give_up(l->body);
        else if (mg_declared_canary())
            (void)mg_reload_end_canary(l->body);
        return;
    }
    c->told = true;
    if (m.stage == RUNNING) {
        mg_log(MG_LOG_ERROR, "a new worker can't load the script: %s", l->body);
        return;
    }
    fprintf(stderr, "%s\n", l->body);
    fail(l->body);
}

static void on_letter(struct mg_child *c, const struct mg_letter *l)
{
    if (l->word == MG_WORD_READY) {
        on_ready(c, l);
    } else if (l->word == MG_WORD_FAILED) {
        on_failed(c, l);
    } else if (l->word == MG_WORD_STATUS) {
        mg_status_on_report(c, l);
    } else if (l->word == MG_WORD_PEERS) {
        mg_peers_on_answer(l);
    } else if (l->word == MG_WORD_IN_FORCE) {
        mg_child_on_in_force(c);
        announce_if_all_serve();
        mg_reload_on_in_force();
    }
}

/* A machine that is short of processes for a moment does not cost those that run. */
static void on_not_started(struct mg_child *c)
{
    mg_log(MG_LOG_ERROR, "worker %d can't be started: %s", c->number, strerror(errno));
    if (m.stage == RUNNING)
        mg_child_start_later(c);
    else
        fail("a worker can't be started; the log says why");
}

static void on_end(struct mg_child *c, const struct mg_child_end *end)
{
    int pid = (int)end->pid;

    if (end->left && m.stage == RUNNING) {
        mg_child_return(c);
    } else if (m.stage == STOPPING) {
        if (end->status && !c->told)
            mg_log(MG_LOG_WARN, "worker %d (pid %d) died while stopping: %s", c->number, pid, end->how);
        end_if_done();
    } else if (m.stage == RUNNING) {
        if (!c->told)
            mg_log(MG_LOG_WARN, "worker %d (pid %d) died: %s; a new one takes its place", c->number, pid, end->how);
        mg_child_replace(c);
    } else {
        char why[160];
        snprintf(why, sizeof(why), "worker %d (pid %d) died while starting: %s", c->number, pid, end->how);
        mg_log(MG_LOG_ERROR, "%s", why);
        fail(why);
    }
    mg_reload_on_end(c, end);
    mg_status_on_end();
    mg_peers_on_end(c);
}

static void on_forked(void)
{
    mg_sockets_forget();
    mg_watch_forget();
    mg_control_forget();
    mg_inherited_forget();
    mg_upgrade_forget();
    mg_notify_stop();
    for (unsigned i = 0; i < SIGNALS; i++) {
        ev_signal_stop(m.loop, &m.signals[i]);
        signal(m.signals[i].signum, m.signals[i].signum == SIGTERM ? SIG_DFL : SIG_IGN);
    }
    mg_reload_end();
}

static const struct mg_children_events children_events = { on_letter, on_end, on_not_started, on_forked };

/* ---- Signals and the control socket. ---- */

static void reload_unasked(void)
{
    if (mg_upgrade_under_way())
        mg_upgrade_keep_signal(SIGHUP);
    else if (m.stage == RUNNING)
        mg_reload_unasked();
    else
        mg_log(MG_LOG_WARN, "nothing is reloaded while moongate starts or stops");
}

static const char *on_upgrade(unsigned ticket)
{
    if (m.stage != RUNNING || !m.announced)
        return "moongate is starting or stopping; it can't be upgraded now";
    if (mg_declared_canary())
        return "a generation is tried out; promote it or roll it back first";
    return mg_upgrade_begin(ticket);
}

static void upgrade_unasked(void)
{
    const char *why = on_upgrade(0);

    if (why)
        mg_log(MG_LOG_WARN, "upgrade: %s", why);
}

static void on_successor(pid_t pid)
{
    m.succeeded = true;
    mg_notify_successor(pid);
    mg_control_hand_over();
    mg_sockets_hand_over();
    stop(true);
}

static const struct mg_upgrade_events upgrade_events = { on_successor, tell_ready };

static void on_signal(struct ev_loop *loop, ev_signal *s, int events)
{
    (void)loop;
    (void)events;
    switch (s->signum) {
    case SIGTERM:
    case SIGINT:
        stop(false);
        break;
    case SIGQUIT:
        stop(true);
        break;
    case SIGUSR1:
        mg_log_reopen();
        mg_children_tell(MG_WORD_REOPEN);
        mg_upgrade_keep_signal(SIGUSR1);
        break;
    case SIGHUP:
        reload_unasked();
        break;
    case SIGUSR2:
        upgrade_unasked();
        break;
    }
}

static void catch_signals(void)
{
    static const int caught[SIGNALS] = { SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGHUP, SIGUSR2, SIGPIPE };

    for (unsigned i = 0; i < SIGNALS; i++) {
        ev_signal_init(&m.signals[i], on_signal, caught[i]);
        /* Before the ends of workers: what stops a whole group stops the master too. */
        ev_set_priority(&m.signals[i], EV_MAXPRI);
        ev_signal_start(m.loop, &m.signals[i]);
    }
}

/* NULL: it may be. */
static const char *why_no_change(void)
{
    if (m.stage != RUNNING)
        return "moongate is starting or stopping; nothing is reloaded, promoted or taken back now";
    return mg_upgrade_under_way() ? "an upgrade is under way; ask again when it has ended" : NULL;
}

static const struct mg_commands_events commands_events = { why_no_change, on_upgrade, stop };

/* The keys of tickets are turned here too, so that a worker that is started later has the others' ones, and what is
 * over is forgotten here as well. */
static void on_tickets(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)events;
    ev_timer_set(t, mg_tls_turn(), 0);
    ev_timer_start(loop, t);
}

static void release(void)
{
    mg_control_close();
    mg_watch_stop();
    mg_notify_stop();
    mg_sockets_keep(NULL, 0);
    mg_declared_end();
    mg_children_end();
    mg_reload_end();
    mg_upgrade_end();
}

/* What the process before an upgrade had, if it is of use. */
static bool start_shared(size_t size)
{
    int fd = mg_inherited_take(MG_INHERITED_SHARED);
    const char *why;

    if (fd >= 0 && mg_shared_inherit(fd, &why))
        return true;
    if (fd >= 0)
        mg_log(MG_LOG_WARN, "upgrade: the memory that workers share begins anew: %s", why);
    return mg_shared_start(size);
}

int mg_master_run(const struct mg_master_options *options)
{
    const char *problem;

    mg_log_who("master");
    mg_inherited_read();
    m.loop = ev_default_loop(EVBACKEND_EPOLL);
    if (!m.loop || !start_shared(options->shared) || !mg_tally_start() || !mg_tls_start()) {
        mg_log(MG_LOG_ERROR, "the master can't start: %s", strerror(errno));
        return 1;
    }
    mg_upgrade_start(m.loop, &upgrade_events);
    mg_notify_start(m.loop);
    catch_signals();
    mg_status_start(m.loop);
    mg_peers_start(m.loop);
    ev_init(&m.kill, on_kill);
    ev_timer_init(&m.farewell, on_farewell, FAREWELL, 0);
    ev_timer_init(&m.tickets, on_tickets, mg_tls_turn(), 0);
    ev_timer_start(m.loop, &m.tickets);
    mg_declared_start(options);
    mg_children_start(m.loop, options, &children_events);
    mg_level_start(options->log_level_given);
    mg_reload_start(m.loop);
    mg_probation_start(m.loop, mg_commands_on_worse);
    if (options->watch)
        mg_watch_start(m.loop, reload_unasked);
    int control = mg_inherited_take(MG_INHERITED_CONTROL);
    if (options->control &&
        (problem = mg_control_open(m.loop, options->control, control, mg_commands(&commands_events), end_if_done))) {
        fprintf(stderr, "moongate: %s\n", problem);
        mg_upgrade_tell_failed(problem);
        return 1;
    }
    mg_children.count = 1;
    mg_child_start(&mg_children.all[0]);
    ev_run(m.loop, 0);
    release();
    return m.exit_status;
}

/* children.c - the workers as the master holds them.
 *
 * Whatever kills one, another takes its place: at once if it has served, with a
 * growing delay if it dies again before it has. */
#include "children.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "breaker.h"
#include "declared.h"
#include "leader.h"
#include "log.h"
#include "metric.h"
#include "peer.h"
#include "sockets.h"
#include "worker.h"

static const double DELAY_FIRST = 0.1, DELAY_MOST = 5.0;
static const double SERVED =
    0.05; /* seconds; a script that kills its workers as soon as they serve must not fork without end */

struct mg_children mg_children;

static struct ev_loop *loop;
static const struct mg_master_options *options;
static const struct mg_children_events *events;
static bool no_more; /* are started */

/* ---- All of them. ---- */

void mg_children_tell_with(enum mg_word word, const void *body, size_t len)
{
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (mg_children.all[i].pid)
            mg_channel_send(mg_children.all[i].channel, word, body, len, NULL, 0);
}

void mg_children_tell(enum mg_word word)
{
    mg_children_tell_with(word, NULL, 0);
}

void mg_children_kill(void)
{
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (mg_children.all[i].pid)
            kill(mg_children.all[i].pid, SIGKILL);
}

unsigned mg_children_alive(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        n += mg_children.all[i].pid != 0;
    return n;
}

unsigned mg_children_serving(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < mg_children.count; i++)
        n += mg_children.all[i].pid && mg_children.all[i].serves;
    return n;
}

/* ---- One of them begins. ---- */

/* Sockets go by address: the script may have been edited before this worker loaded it. */
static void hand_over(struct mg_child *c, enum mg_word word, const struct mg_ready *r)
{
    int fds[MG_BINDS_MOST];
    uint32_t numbers[MG_BINDS_MOST];
    unsigned n = 0;

    for (uint32_t i = 0; i < r->count; i++) {
        fds[n] = mg_sockets_find(&r->binds[i].address);
        numbers[n] = i;
        n += fds[n] >= 0;
    }
    if (n != r->count || n != mg_declared_now()->count)
        mg_log(MG_LOG_WARN,
               "worker %d: the script has been edited and listens elsewhere now; that is in force after a reload",
               c->number);
    c->commits = mg_channel_send(c->channel, word, numbers, n * sizeof(*numbers), fds, n);
    if (!c->commits) {
        mg_log(MG_LOG_ERROR, "worker %d can't be told to begin: %s", c->number, strerror(errno));
        kill(c->pid, SIGKILL); /* another takes its place */
    }
}

void mg_child_put_in_force(struct mg_child *c, enum mg_word word)
{
    if (c->serves)
        hand_over(c, word, mg_declared_now());
    else
        kill(c->pid, SIGKILL);
}

void mg_child_try_out(struct mg_child *c, const struct mg_canary_terms *t)
{
    c->commits = mg_channel_send(c->channel, MG_WORD_CANARY, t, sizeof(*t), NULL, 0);
    if (!c->commits)
        kill(c->pid, SIGKILL); /* another takes its place, and tries it out, too */
    free(c->ready);
    c->ready = NULL;
}

void mg_child_commit(struct mg_child *c)
{
    hand_over(c, MG_WORD_COMMIT, c->ready);
    c->serves = true;
    free(c->ready);
    c->ready = NULL;
}

void mg_child_on_in_force(struct mg_child *c)
{
    c->commits = false;
    if (!c->in_force)
        c->in_force = ev_now(loop);
}

bool mg_children_all_in_force(void)
{
    for (unsigned i = 0; i < mg_children.count; i++)
        if (!mg_children.all[i].pid || !mg_children.all[i].in_force)
            return false;
    return true;
}

static void on_channel(struct ev_loop *l, ev_io *io, int revents)
{
    struct mg_letter letter;
    int got;

    (void)revents;
    while ((got = mg_channel_receive(io->fd, &letter)) > 0)
        events->on_letter(io->data, &letter);
    if (got < 0)
        ev_io_stop(l, io); /* its end is told by the signal */
}

static void describe_end(char *to, size_t size, int status)
{
    if (WIFSIGNALED(status))
        snprintf(to, size, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(to, size, "exit status %d", WEXITSTATUS(status));
}

void mg_child_forget_slot(unsigned slot)
{
    mg_peer_forget_slot(slot);
    mg_breaker_forget_slot(slot);
    mg_leader_forget_slot(slot);
    mg_shared_slot_give(slot);
}

static void on_child(struct ev_loop *l, ev_child *watch, int revents)
{
    struct mg_child *c = watch->data;
    char how[64];
    struct mg_child_end end = {
        .pid = c->pid,
        .status = watch->rstatus,
        .how = how,
        .left = c->leaves,
    };

    (void)revents;
    ev_child_stop(l, watch);
    c->pid = 0;
    on_channel(l, &c->io, EV_READ); /* its last words may still lie there */
    ev_io_stop(l, &c->io);
    close(c->channel);
    end.prepared = c->prepares || (c->serves && c->ready);
    c->reported = c->serves = c->prepares = c->commits = c->leaves = false;
    free(c->ready);
    free(c->report);
    c->ready = NULL;
    c->report = NULL;
    mg_child_forget_slot(c->slot);
    describe_end(how, sizeof(how), end.status);
    events->on_end(c, &end);
}

/* In the child: nothing of the master's may stay but the channel. */
__attribute__((noreturn)) static void become_worker(int number, unsigned slot, int channel)
{
    struct mg_worker_options worker = {
        .number = number,
        .channel = channel,
        .generation = mg_declared_generation(),
        .script = options->script,
        .sources = mg_declared_sources(),
        .watch = options->watch,
        .log_level_stands = mg_children.log_level_stands,
        .error_log_given = options->error_log_given,
    };
    sigset_t none;

    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (mg_children.all[i].pid)
            close(mg_children.all[i].channel);
    worker.beside = mg_declared_beside(&worker.beside_sources);
    if (mg_declared_canary())
        worker.canary = *mg_declared_terms();
    events->on_forked();
    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    ev_loop_destroy(EV_DEFAULT);
    mg_children_end();
    mg_shared_worker(number, slot);
    mg_metric_begin();
    exit(mg_worker_run(&worker));
}

void mg_child_start(struct mg_child *c)
{
    int pair[2];

    if (no_more)
        return;
    int slot = mg_shared_slot_take(getpid());
    if (slot < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) {
        if (slot >= 0)
            mg_shared_slot_give((unsigned)slot);
        else
            errno = EUSERS; /* workers of before an upgrade have them all */
        events->on_not_started(c);
        return;
    }
    c->slot = (unsigned)slot;
    int room = 256 * 1024;
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        mg_shared_slot_give(c->slot);
        events->on_not_started(c);
        close(pair[0]);
        close(pair[1]);
        return;
    }
    if (pid == 0) {
        close(pair[0]);
        become_worker(c->number, c->slot, pair[1]);
    }
    close(pair[1]);
    c->pid = pid;
    c->channel = pair[0];
    c->in_force = 0;
    c->told = false;
    c->reported = true; /* a question under way was not put to it */
    ev_io_init(&c->io, on_channel, c->channel, EV_READ);
    ev_child_init(&c->watch, on_child, pid, 0);
    c->io.data = c->watch.data = c;
    ev_io_start(loop, &c->io);
    ev_child_start(loop, &c->watch);
}

/* ---- One begins again. ---- */

static void on_again(struct ev_loop *l, ev_timer *t, int revents)
{
    (void)l;
    (void)revents;
    mg_child_start(t->data);
}

void mg_child_start_later(struct mg_child *c)
{
    ev_set_cb(&c->again, on_again);
    c->delay = c->delay <= 0 ? DELAY_FIRST : c->delay * 2 > DELAY_MOST ? DELAY_MOST : c->delay * 2;
    ev_timer_set(&c->again, c->delay, 0);
    ev_timer_start(loop, &c->again);
}

void mg_child_replace(struct mg_child *c)
{
    bool served = c->in_force && ev_now(loop) - c->in_force > SERVED;

    if (!served && c->delay >= 0) {
        mg_child_start_later(c);
        return;
    }
    c->delay = 0;
    mg_child_start(c);
}

void mg_children_start_no_more(void)
{
    no_more = true;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        ev_timer_stop(loop, &mg_children.all[i].again);
}

/* ---- More of them, or fewer. ---- */

static void on_overstayed(struct ev_loop *l, ev_timer *t, int revents)
{
    struct mg_child *c = t->data;

    (void)l;
    (void)revents;
    if (c->pid)
        kill(c->pid, SIGKILL);
}

static void send_away(struct mg_child *c)
{
    double timeout = mg_declared_now()->drain_timeout;

    ev_timer_stop(loop, &c->again);
    if (!c->pid || c->leaves)
        return;
    c->leaves = true;
    mg_channel_send(c->channel, MG_WORD_DRAIN, NULL, 0, NULL, 0);
    if (!(timeout > 0))
        return;
    ev_set_cb(&c->again, on_overstayed);
    ev_timer_set(&c->again, timeout + MG_STOP_PATIENCE, 0);
    ev_timer_start(loop, &c->again);
}

void mg_children_recount(void)
{
    unsigned before = mg_children.count;

    mg_children.count = mg_declared_workers();
    for (unsigned i = mg_children.count; i < before; i++)
        send_away(&mg_children.all[i]);
    for (unsigned i = before; i < mg_children.count; i++) {
        mg_children.all[i].delay = -1;
        if (!mg_children.all[i].pid)
            mg_child_start(&mg_children.all[i]);
    }
}

void mg_child_return(struct mg_child *c)
{
    ev_timer_stop(loop, &c->again);
    if ((unsigned)c->number < mg_children.count)
        mg_child_start(c);
}

/* ---- Life. ---- */

void mg_children_start(struct ev_loop *on, const struct mg_master_options *given,
                       const struct mg_children_events *given_events)
{
    loop = on;
    options = given;
    events = given_events;
    for (int i = 0; i < MG_WORKERS_MAX; i++) {
        struct mg_child *c = &mg_children.all[i];
        c->number = i;
        c->delay = -1;
        ev_init(&c->again, on_again);
        c->again.data = c;
    }
}

void mg_children_end(void)
{
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++) {
        free(mg_children.all[i].report);
        free(mg_children.all[i].ready);
    }
}

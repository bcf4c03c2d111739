/* master.c - starts the workers, tells them what to do, replaces those that died.
 *
 * The first worker is asked alone: if its script is bad, nothing has been
 * bound and nothing else was started. Then the sockets are bound, the other
 * workers load, and when all are ready all of them begin.
 *
 * A reload asks one worker after another to prepare, so that compiling never
 * stops all loops at once; when all are ready it binds what is new and tells
 * all of them to commit. Until then whatever goes wrong changes nothing. */
#include "master.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ev.h>

#include "channel.h"
#include "control.h"
#include "log.h"
#include "peer.h"
#include "shared.h"
#include "sockets.h"
#include "text.h"
#include "tls.h"
#include "watch.h"
#include "worker.h"

enum { SIGNALS = 7, ANSWER_ROOM = 256 * 1024 };
static const double STATUS_PATIENCE = 1.0, STOP_PATIENCE = 3.0;
static const double PREPARE_PATIENCE = 60.0; /* for one worker's init hooks */
static const double DELAY_FIRST = 0.1, DELAY_MOST = 5.0, STEADY = 5.0;

enum stage { ASKING, STARTING, RUNNING, STOPPING };

struct child {
    int number;
    pid_t pid; /* 0: not running */
    int channel;
    ev_io io;
    ev_child watch;
    ev_timer again;         /* when it is started anew; of one that leaves: when it is killed */
    double started, delay;  /* when it was started; how long until it is started anew */
    char *report;           /* the last status */
    struct mg_ready *ready; /* what it declared, until it is told to begin */
    bool reported, told;    /* told: why it ends has been said */
    bool serves;            /* it has a generation in force */
    bool prepares;          /* it was asked to, and has not answered */
    bool commits;           /* it was told to, and has not answered */
    bool leaves;            /* there are fewer workers now */
};

/* A reload under way. */
struct reload {
    bool active, committed;
    bool again;      /* HUP has come meanwhile */
    unsigned ticket; /* of the control socket's question; 0: a signal */
    double began;
    struct mg_ready *ready;  /* what the first worker said that was ready */
    ev_timer soon, patience; /* soon: to begin, from the loop */
};

static struct {
    const struct mg_master_options *options;
    struct ev_loop *loop;
    enum stage stage;
    struct child children[MG_WORKERS_MAX];
    unsigned count;
    unsigned generation;    /* the number of the one in force */
    struct mg_ready *ready; /* what is in force, as the first worker said it */
    struct reload reload;
    ev_signal signals[SIGNALS];
    ev_timer status, kill, tickets;
    unsigned asked; /* the control socket's question under way; 0: none */
    double began;
    int exit_status;
    bool announced;
} m;

static void start_child(struct child *c);
static void begin_reload(unsigned ticket);

/* ---- All workers. ---- */

static void tell_all(enum mg_word word)
{
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (m.children[i].pid)
            mg_channel_send(m.children[i].channel, word, NULL, 0, NULL, 0);
}

static unsigned alive(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        n += m.children[i].pid != 0;
    return n;
}

static void end_if_done(void)
{
    if (m.stage == STOPPING && !alive())
        ev_break(m.loop, EVBREAK_ALL);
}

static void on_kill(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (m.children[i].pid)
            kill(m.children[i].pid, SIGKILL);
}

/* For workers that don't end by themselves. */
static void set_deadline(bool drain)
{
    double timeout = drain && m.ready ? m.ready->drain_timeout : 0;

    ev_timer_stop(m.loop, &m.kill);
    if (drain && !(timeout > 0))
        return;
    ev_timer_set(&m.kill, timeout + STOP_PATIENCE, 0);
    ev_timer_start(m.loop, &m.kill);
}

static void give_up(const char *why);

static void stop(bool drain)
{
    m.reload.again = false;
    give_up("moongate is told to stop");
    m.stage = STOPPING;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        ev_timer_stop(m.loop, &m.children[i].again);
    tell_all(drain ? MG_WORD_DRAIN : MG_WORD_STOP);
    mg_sockets_keep(NULL, 0);
    set_deadline(drain);
    end_if_done();
}

static void fail(void)
{
    m.exit_status = 1;
    stop(false);
}

static void announce(void)
{
    char list[1024] = "";
    size_t n = 0;

    for (unsigned i = 0; i < m.ready->count && n < sizeof(list) - MG_ADDRESS_TEXT - 3; i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "", m.ready->binds[i].text);
    mg_log(MG_LOG_INFO, "ready: %u worker%s, listening on %s", m.count, m.count == 1 ? "" : "s", list);
    m.announced = true;
}

/* Sockets go by address: the script may have been edited before this worker loaded it. */
static void commit(struct child *c)
{
    int fds[MG_BINDS_MOST];
    uint32_t numbers[MG_BINDS_MOST];
    unsigned n = 0;

    for (uint32_t i = 0; i < c->ready->count; i++) {
        fds[n] = mg_sockets_find(&c->ready->binds[i].address);
        numbers[n] = i;
        n += fds[n] >= 0;
    }
    if (n != c->ready->count || n != m.ready->count)
        mg_log(MG_LOG_WARN,
               "worker %d: the script has been edited and listens elsewhere now; that is in force after a reload",
               c->number);
    c->commits = mg_channel_send(c->channel, MG_WORD_COMMIT, numbers, n * sizeof(*numbers), fds, n);
    if (!c->commits) {
        mg_log(MG_LOG_ERROR, "worker %d can't be told to begin: %s", c->number, strerror(errno));
        kill(c->pid, SIGKILL); /* another takes its place */
    }
    c->serves = true;
    free(c->ready);
    c->ready = NULL;
}

static void commit_if_all_ready(void)
{
    for (unsigned i = 0; i < m.count; i++)
        if (!m.children[i].ready)
            return;
    for (unsigned i = 0; i < m.count; i++)
        commit(&m.children[i]);
    m.stage = RUNNING;
    if (!m.announced)
        announce();
}

/* What the script in force was loaded from. After a failure its mend may be in a file that was not read yet. */
static void watch(const struct mg_ready *r, bool failed)
{
    const char *list = r->files ? (const char *)&r->binds[r->count] + r->changes : NULL;

    mg_watch_files(list, failed);
}

static unsigned count_workers(void)
{
    cpu_set_t processors;
    int wanted = m.options->workers ? m.options->workers : m.ready->workers;

    if (!wanted)
        wanted = sched_getaffinity(0, sizeof(processors), &processors) == 0 ? CPU_COUNT(&processors) : 1;
    return (unsigned)(wanted < 1 ? 1 : wanted > MG_WORKERS_MAX ? MG_WORKERS_MAX : wanted);
}

/* The first worker has loaded the script: bind, and start the others. */
static void begin(void)
{
    const char *why;

    if (m.ready->error_log[0] && !m.options->error_log_given && !mg_log_open(m.ready->error_log)) {
        mg_log(MG_LOG_ERROR, "error_log %s: %s", m.ready->error_log, strerror(errno));
        fail();
        return;
    }
    if (!mg_sockets_open(m.ready->binds, m.ready->count, &why)) {
        mg_log(MG_LOG_ERROR, "%s", why);
        fail();
        return;
    }
    m.stage = STARTING;
    watch(m.ready, false);
    m.count = count_workers();
    for (unsigned i = 1; i < m.count && m.stage == STARTING; i++)
        start_child(&m.children[i]);
    if (m.stage == STARTING)
        commit_if_all_ready();
}

static size_t size_of(const struct mg_ready *r)
{
    return sizeof(*r) + r->count * sizeof(r->binds[0]) + r->changes + r->files;
}

static struct mg_ready *copy_ready(const struct mg_ready *r)
{
    struct mg_ready *copy = malloc(size_of(r));

    return copy ? memcpy(copy, r, size_of(r)) : NULL;
}

/* ---- Reload. ---- */

static void log_lines(enum mg_log_level level, const char *what, const char *text)
{
    char line[2048];
    size_t n = 0;

    for (; *text && n < sizeof(line) - 3; text++) {
        line[n++] = *text == '\n' ? ';' : *text;
        if (*text == '\n')
            line[n++] = ' ';
    }
    line[n] = '\0';
    mg_log(level, "%s: %s", what, line);
}

static void end_reload(const char *answer)
{
    unsigned ticket = m.reload.ticket;
    bool again = m.reload.again && m.stage == RUNNING;

    ev_timer_stop(m.loop, &m.reload.soon);
    ev_timer_stop(m.loop, &m.reload.patience);
    free(m.reload.ready);
    m.reload.ready = NULL;
    m.reload.active = m.reload.committed = m.reload.again = false;
    m.reload.ticket = 0;
    if (ticket)
        mg_control_answer(ticket, answer);
    if (again)
        begin_reload(0);
}

static void end_badly(const char *why)
{
    static char answer[6 * 9000];
    char copy[8192];

    snprintf(copy, sizeof(copy), "%s", why);
    size_t n = (size_t)snprintf(answer, sizeof(answer), "{\"error\":\"");
    n += mg_text_put_json(answer + n, mg_slice_of(copy));
    snprintf(answer + n, sizeof(answer) - n, "\"}");
    end_reload(answer);
}

/* Nothing has changed. Once the workers were told to commit nothing is taken back. */
static void give_up(const char *why)
{
    if (!m.reload.active || m.reload.committed)
        return;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++) {
        struct child *c = &m.children[i];
        if (c->pid && c->serves && (c->prepares || c->ready))
            mg_channel_send(c->channel, MG_WORD_ABANDON, NULL, 0, NULL, 0);
        c->prepares = false;
        if (c->serves) {
            free(c->ready);
            c->ready = NULL;
        }
    }
    log_lines(MG_LOG_ERROR, "reload: nothing has changed", why);
    watch(m.ready, true);
    end_badly(why);
}

static void on_patience(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    give_up("a worker's init hooks have not ended within 60 seconds");
}

static unsigned serving(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < m.count; i++)
        n += m.children[i].pid && m.children[i].serves;
    return n;
}

/* What has changed, as a line to read and as members of a JSON object; they lie behind the binds. */
static void tell_reload(void)
{
    static char answer[MG_LETTER_MOST + 256];
    const struct mg_ready *r = m.reload.ready;
    const char *text = "what has changed is not known, since worker 0 was not there", *members = NULL;
    double took = ev_now(m.loop) - m.reload.began;
    char what[128];

    if (r->changes) {
        text = (const char *)&r->binds[r->count];
        members = text + strlen(text) + 1;
    }
    snprintf(what, sizeof(what), "generation %u is in force in %u worker%s after %.0f ms", m.generation, serving(),
             serving() == 1 ? "" : "s", took * 1000);
    log_lines(MG_LOG_INFO, what, text);
    size_t n = (size_t)snprintf(answer, sizeof(answer),
                                "{\"generation\":%u,\"workers\":%u,\"seconds\":%.4f,\"summary\":\"%s\",", m.generation,
                                serving(), took, what);
    if (members)
        snprintf(answer + n, sizeof(answer) - n, "%s}", members);
    else
        snprintf(answer + n, sizeof(answer) - n, "\"text\":\"%s\"}", text);
    end_reload(answer);
}

static void tell_if_all_committed(void)
{
    if (!m.reload.active || !m.reload.committed)
        return;
    for (unsigned i = 0; i < m.count; i++)
        if (m.children[i].pid && m.children[i].commits)
            return;
    tell_reload();
}

/* All workers load the same files, but somebody may write them in between. */
static bool all_declare_the_same(void)
{
    const struct mg_ready *first = m.reload.ready;

    for (unsigned i = 0; i < m.count; i++) {
        const struct mg_ready *r = m.children[i].ready;
        if (!r)
            continue;
        if (r->count != first->count)
            return false;
        for (unsigned n = 0; n < r->count; n++)
            if (!mg_address_equal(&r->binds[n].address, &first->binds[n].address))
                return false;
    }
    return true;
}

static void on_overstayed(struct ev_loop *loop, ev_timer *t, int events)
{
    struct child *c = t->data;

    (void)loop;
    (void)events;
    if (c->pid)
        kill(c->pid, SIGKILL);
}

static void send_away(struct child *c)
{
    ev_timer_stop(m.loop, &c->again);
    if (!c->pid || c->leaves)
        return;
    c->leaves = true;
    mg_channel_send(c->channel, MG_WORD_DRAIN, NULL, 0, NULL, 0);
    if (!(m.ready->drain_timeout > 0))
        return;
    ev_set_cb(&c->again, on_overstayed);
    ev_timer_set(&c->again, m.ready->drain_timeout + STOP_PATIENCE, 0);
    ev_timer_start(m.loop, &c->again);
}

/* More workers, or fewer. */
static void set_count(void)
{
    unsigned before = m.count;

    m.count = count_workers();
    for (unsigned i = m.count; i < before; i++)
        send_away(&m.children[i]);
    for (unsigned i = before; i < m.count; i++) {
        m.children[i].delay = -1;
        if (!m.children[i].pid)
            start_child(&m.children[i]);
    }
}

static void commit_reload(void)
{
    const char *why;

    if (!m.reload.ready) {
        give_up("no worker runs; the log says why");
        return;
    }
    if (!all_declare_the_same()) {
        give_up("the script was edited while the workers loaded it; reload once more");
        return;
    }
    if (!mg_sockets_open(m.reload.ready->binds, m.reload.ready->count, &why)) {
        give_up(why);
        return;
    }
    ev_timer_stop(m.loop, &m.reload.patience);
    free(m.ready);
    m.ready = copy_ready(m.reload.ready);
    m.generation++;
    watch(m.ready, false);
    m.reload.committed = true;
    for (unsigned i = 0; i < m.count; i++)
        if (m.children[i].pid && m.children[i].ready)
            commit(&m.children[i]);
    mg_sockets_keep(m.ready->binds, m.ready->count);
    if (m.ready->error_log[0] && !m.options->error_log_given && !mg_log_open(m.ready->error_log))
        mg_log(MG_LOG_ERROR, "error_log %s: %s", m.ready->error_log, strerror(errno));
    set_count();
    tell_if_all_committed();
}

/* The next worker in turn; when all are ready, commit. One that is just being started is waited for. */
static void go_on_reload(void)
{
    if (!m.reload.active || m.reload.committed)
        return;
    for (unsigned i = 0; i < m.count; i++) {
        struct child *c = &m.children[i];
        uint32_t number = m.generation + 1;
        if (!c->pid || (c->serves && c->ready))
            continue;
        if (!c->serves || c->prepares)
            return;
        c->prepares = true;
        ev_timer_stop(m.loop, &m.reload.patience);
        ev_timer_set(&m.reload.patience, PREPARE_PATIENCE, 0);
        ev_timer_start(m.loop, &m.reload.patience);
        if (!mg_channel_send(c->channel, MG_WORD_PREPARE, &number, sizeof(number), NULL, 0))
            give_up("a worker can't be asked to prepare");
        return;
    }
    commit_reload();
}

static void begin_reload(unsigned ticket)
{
    m.reload.active = true;
    m.reload.ticket = ticket;
    m.reload.began = ev_now(m.loop);
    ev_timer_set(&m.reload.soon, 0, 0);
    ev_timer_start(m.loop, &m.reload.soon);
}

static void on_soon(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    go_on_reload();
}

static void on_prepared(struct child *c)
{
    c->prepares = false;
    if (!m.reload.ready)
        m.reload.ready = copy_ready(c->ready);
    go_on_reload();
}

/* A worker has died. What it had prepared is gone with it; what it was told to put in force, the next one will load. */
static void lose_prepared(struct child *c, const char *how)
{
    char why[160];
    bool had = c->prepares || (c->serves && c->ready);

    c->prepares = c->commits = c->serves = false;
    free(c->ready);
    c->ready = NULL;
    if (had) {
        snprintf(why, sizeof(why), "worker %d died while it was preparing: %s", c->number, how);
        give_up(why);
    }
    tell_if_all_committed();
}

/* ---- What a worker says. ---- */

static struct mg_ready *read_ready(const struct mg_letter *l)
{
    const struct mg_ready *r = (const struct mg_ready *)l->body;
    bool whole = l->len >= sizeof(*r) && r->count <= MG_BINDS_MOST && r->changes <= MG_LETTER_MOST &&
                 r->files <= MG_LETTER_MOST && l->len == size_of(r) &&
                 ((!r->changes && !r->files) || !l->body[l->len - 1]);

    return whole ? copy_ready(r) : NULL;
}

static void on_ready(struct child *c, const struct mg_letter *l)
{
    if (m.stage == STOPPING || !c->pid || (c->serves && !c->prepares))
        return; /* nobody waits for it any more */
    free(c->ready);
    c->ready = read_ready(l);
    if (m.stage == ASKING)
        m.ready = read_ready(l);
    if (!c->ready || !m.ready)
        kill(c->pid, SIGKILL); /* its end is told, and what follows from it */
    else if (m.stage == ASKING)
        begin();
    else if (m.stage == STARTING)
        commit_if_all_ready();
    else if (c->prepares)
        on_prepared(c);
    else
        commit(c);
}

static void on_failed(struct child *c, const struct mg_letter *l)
{
    if (c->serves) {
        if (c->prepares)
            give_up(l->body);
        return;
    }
    c->told = true;
    if (m.stage == RUNNING) {
        mg_log(MG_LOG_ERROR, "a new worker can't load the script: %s", l->body);
        return;
    }
    fprintf(stderr, "%s\n", l->body);
    fail();
}

static void on_in_force(struct child *c)
{
    c->commits = false;
    tell_if_all_committed();
    go_on_reload();
}

static void answer_status(void)
{
    static char answer[ANSWER_ROOM];
    size_t n = (size_t)snprintf(answer, sizeof(answer),
                                "{\"version\":\"" MG_VERSION
                                "\",\"pid\":%d,\"uptime\":%.0f,\"generation\":%u,\"workers\":[",
                                (int)getpid(), ev_now(m.loop) - m.began, m.generation);
    bool first = true;

    for (unsigned i = 0; i < MG_WORKERS_MAX; i++) {
        const char *report = m.children[i].report;
        if (!m.children[i].reported || !report || n + strlen(report) + 4 > sizeof(answer))
            continue;
        n += (size_t)snprintf(answer + n, sizeof(answer) - n, "%s%s", first ? "" : ",", report);
        first = false;
    }
    snprintf(answer + n, sizeof(answer) - n, "]}");
    ev_timer_stop(m.loop, &m.status);
    unsigned asked = m.asked;
    m.asked = 0;
    mg_control_answer(asked, answer);
}

static void on_status_late(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    answer_status();
}

static void on_report(struct child *c, const struct mg_letter *l)
{
    free(c->report);
    c->report = strdup(l->body);
    c->reported = true;
    if (!m.asked)
        return;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (m.children[i].pid && !m.children[i].reported)
            return;
    answer_status();
}

static void on_channel(struct ev_loop *loop, ev_io *io, int events)
{
    struct child *c = io->data;
    struct mg_letter l;
    int got;

    (void)events;
    while ((got = mg_channel_receive(io->fd, &l)) > 0) {
        if (l.word == MG_WORD_READY)
            on_ready(c, &l);
        else if (l.word == MG_WORD_FAILED)
            on_failed(c, &l);
        else if (l.word == MG_WORD_STATUS)
            on_report(c, &l);
        else if (l.word == MG_WORD_IN_FORCE)
            on_in_force(c);
    }
    if (got < 0)
        ev_io_stop(loop, io); /* its end is told by the signal */
}

/* ---- Starting and burying workers. ---- */

static void describe_end(char *to, size_t size, int status)
{
    if (WIFSIGNALED(status))
        snprintf(to, size, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(to, size, "exit status %d", WEXITSTATUS(status));
}

static void on_again(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)events;
    start_child(t->data);
}

static void start_later(struct child *c)
{
    ev_set_cb(&c->again, on_again);
    c->delay = c->delay <= 0 ? DELAY_FIRST : c->delay * 2 > DELAY_MOST ? DELAY_MOST : c->delay * 2;
    ev_timer_set(&c->again, c->delay, 0);
    ev_timer_start(m.loop, &c->again);
}

/* At once the first time; with a growing delay if it does not live long. */
static void replace(struct child *c)
{
    bool steady = ev_now(m.loop) - c->started > STEADY;

    if (!steady && c->delay >= 0) {
        start_later(c);
        return;
    }
    c->delay = 0;
    start_child(c);
}

/* A machine that is short of processes for a moment does not cost those that run. */
static void on_not_started(struct child *c)
{
    mg_log(MG_LOG_ERROR, "worker %d can't be started: %s", c->number, strerror(errno));
    if (m.stage == RUNNING)
        start_later(c);
    else
        fail();
}

static void on_child(struct ev_loop *loop, ev_child *watch, int events)
{
    struct child *c = watch->data;
    char how[64];

    (void)events;
    ev_child_stop(loop, watch);
    pid_t pid = c->pid;
    c->pid = 0;
    on_channel(loop, &c->io, EV_READ); /* its last words may still lie there */
    ev_io_stop(loop, &c->io);
    close(c->channel);
    describe_end(how, sizeof(how), watch->rstatus);
    c->reported = false;
    bool left = c->leaves;
    c->leaves = false;
    lose_prepared(c, how);
    mg_peer_forget_worker(c->number);
    if (left && m.stage == RUNNING) {
        ev_timer_stop(m.loop, &c->again);
        if ((unsigned)c->number < m.count)
            start_child(c);
    } else if (m.stage == STOPPING) {
        if (watch->rstatus && !c->told)
            mg_log(MG_LOG_WARN, "worker %d (pid %d) died while stopping: %s", c->number, (int)pid, how);
        end_if_done();
    } else if (m.stage == RUNNING) {
        if (!c->told)
            mg_log(MG_LOG_WARN, "worker %d (pid %d) died: %s; a new one takes its place", c->number, (int)pid, how);
        replace(c);
    } else {
        mg_log(MG_LOG_ERROR, "worker %d (pid %d) died while starting: %s", c->number, (int)pid, how);
        fail();
    }
    go_on_reload();
}

/* In the child: nothing of the master's may stay but the channel. */
__attribute__((noreturn)) static void become_worker(int number, int channel)
{
    struct mg_worker_options options = {
        .number = number,
        .channel = channel,
        .generation = m.generation,
        .script = m.options->script,
        .watch = m.options->watch,
        .log_level_given = m.options->log_level_given,
        .error_log_given = m.options->error_log_given,
    };
    sigset_t none;

    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (m.children[i].pid)
            close(m.children[i].channel);
    mg_sockets_forget();
    mg_watch_forget();
    mg_control_forget();
    for (unsigned i = 0; i < SIGNALS; i++) {
        ev_signal_stop(m.loop, &m.signals[i]);
        signal(m.signals[i].signum, m.signals[i].signum == SIGTERM ? SIG_DFL : SIG_IGN);
    }
    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    ev_loop_destroy(EV_DEFAULT);
    free(m.ready);
    free(m.reload.ready);
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++) {
        free(m.children[i].report);
        free(m.children[i].ready);
    }
    mg_shared_worker(number);
    exit(mg_worker_run(&options));
}

static void start_child(struct child *c)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) {
        on_not_started(c);
        return;
    }
    int room = 256 * 1024;
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        on_not_started(c);
        close(pair[0]);
        close(pair[1]);
        return;
    }
    if (pid == 0) {
        close(pair[0]);
        become_worker(c->number, pair[1]);
    }
    close(pair[1]);
    c->pid = pid;
    c->channel = pair[0];
    c->started = ev_now(m.loop);
    c->told = false;
    ev_io_init(&c->io, on_channel, c->channel, EV_READ);
    ev_child_init(&c->watch, on_child, pid, 0);
    c->io.data = c->watch.data = c;
    ev_io_start(m.loop, &c->io);
    ev_child_start(m.loop, &c->watch);
}

/* ---- Signals and the control socket. ---- */

/* A second one during a reload may be about a later edit. */
static void reload_unasked(void)
{
    if (m.stage != RUNNING)
        mg_log(MG_LOG_WARN, "nothing is reloaded while moongate starts or stops");
    else if (m.reload.active)
        m.reload.again = true;
    else
        begin_reload(0);
}

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
        tell_all(MG_WORD_REOPEN);
        break;
    case SIGHUP:
        reload_unasked();
        break;
    case SIGUSR2:
        mg_log(MG_LOG_WARN, "USR2: upgrade is not available in this version");
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

static bool on_status(unsigned ticket)
{
    if (m.asked)
        return false;
    m.asked = ticket;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        m.children[i].reported = false;
    tell_all(MG_WORD_STATUS);
    ev_timer_set(&m.status, STATUS_PATIENCE, 0);
    ev_timer_start(m.loop, &m.status);
    return true;
}

static const char *on_reload(unsigned ticket)
{
    if (m.stage != RUNNING)
        return "moongate is starting or stopping; nothing is reloaded now";
    if (m.reload.active)
        return "another reload is under way; ask again when it has ended";
    begin_reload(ticket);
    return NULL;
}

static const struct mg_control_events control_events = { on_status, on_reload, stop };

/* The keys of tickets are turned here too, so that a worker that is started later has the others' ones, and what is
 * over is forgotten here as well. */
static void on_tickets(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)events;
    ev_timer_set(t, mg_tls_turn(), 0);
    ev_timer_start(loop, t);
}

static void prepare_children(void)
{
    for (int i = 0; i < MG_WORKERS_MAX; i++) {
        m.children[i].number = i;
        m.children[i].delay = -1;
        ev_init(&m.children[i].again, on_again);
        m.children[i].again.data = &m.children[i];
    }
}

static void release(void)
{
    mg_control_close();
    mg_watch_stop();
    mg_sockets_keep(NULL, 0);
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++) {
        free(m.children[i].report);
        free(m.children[i].ready);
    }
    free(m.ready);
    free(m.reload.ready);
}

int mg_master_run(const struct mg_master_options *options)
{
    const char *problem;

    m.options = options;
    m.loop = ev_default_loop(EVBACKEND_EPOLL);
    if (!m.loop || !mg_shared_start(options->shared) || !mg_tls_start()) {
        mg_log(MG_LOG_ERROR, "the master can't start: %s", strerror(errno));
        return 1;
    }
    mg_log_who("master");
    m.began = ev_now(m.loop);
    m.generation = 1;
    catch_signals();
    ev_init(&m.status, on_status_late);
    ev_init(&m.kill, on_kill);
    ev_init(&m.reload.soon, on_soon);
    ev_init(&m.reload.patience, on_patience);
    ev_timer_init(&m.tickets, on_tickets, mg_tls_turn(), 0);
    ev_timer_start(m.loop, &m.tickets);
    prepare_children();
    if (options->watch && !mg_watch_start(m.loop, reload_unasked)) {
        fprintf(stderr, "moongate: --watch: %s\n", strerror(errno));
        return 1;
    }
    if (options->control && (problem = mg_control_open(m.loop, options->control, &control_events))) {
        fprintf(stderr, "moongate: %s\n", problem);
        return 1;
    }
    m.count = 1;
    start_child(&m.children[0]);
    ev_run(m.loop, 0);
    release();
    return m.exit_status;
}

/* upgrade.c - another process takes the place of this one.
 *
 * The two talk over a SOCK_SEQPACKET pair, and may be of different versions:
 * a message is a letter and what belongs to it. From the old one: T the keys
 * of tickets (tls_tickets.c), G it has let go. From the new one: R it serves,
 * with its version, F it has failed, with the reason. Other letters are
 * nothing to either. */
#include "upgrade.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ev.h>

#include "children.h"
#include "control.h"
#include "inherited.h"
#include "launch.h"
#include "log.h"
#include "notify.h"
#include "reload.h"
#include "shared.h"
#include "sockets.h"
#include "tls.h"

enum { MESSAGE_MOST = 8192, TICKETS_MOST = 512, HANDED_MOST = 2 * MG_BINDS_MOST + 3 };
static const double PATIENCE = 60.0; /* seconds until the new process must serve */

static struct ev_loop *loop;
static const struct mg_upgrade_events *events;

/* The process that is to take our place. */
static struct {
    pid_t pid; /* 0: none */
    ev_io io;
    ev_child watch;
    ev_timer patience;
    unsigned ticket; /* of the control socket's question; 0: nobody waits */
    double began;
    bool reload, reopen;    /* signals that came meanwhile */
    char why[MESSAGE_MOST]; /* it has failed; empty: not told */
} successor;

/* The process whose place we are to take. */
static struct {
    pid_t pid;
    ev_io io;
    bool there, awaits; /* awaits: to hear that we serve, or that we don't */
    bool lets_go;       /* it has been told that we serve */
} predecessor;

/* ---- Messages. ---- */

static void say(int fd, char letter, const void *body, size_t len)
{
    struct iovec v[2] = { { &letter, 1 }, { (void *)(uintptr_t)body, len < MESSAGE_MOST ? len : MESSAGE_MOST - 1 } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };

    (void)!sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* The letter, 0 for none now, -1 when the other one is gone. The text is ended by a zero byte. */
static int hear(int fd, char *body, size_t *len)
{
    char letter = 0;
    struct iovec v[2] = { { &letter, 1 }, { body, MESSAGE_MOST - 1 } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };
    ssize_t n;

    /* One that has ended without reading all of ours is told of first, and once; its last words come behind that. */
    do
        n = recvmsg(fd, &m, MSG_DONTWAIT);
    while (n < 0 && (errno == EINTR || errno == ECONNRESET));
    if (n <= 0)
        return n < 0 && errno == EAGAIN ? 0 : -1;
    *len = (size_t)n - 1;
    body[*len] = '\0';
    return (unsigned char)letter;
}

/* What its workers had in flight is not in flight any more. */
static void forget_slots(pid_t master)
{
    int slot;

    while ((slot = mg_shared_slot_of(master)) >= 0) {
        mg_child_forget_slot((unsigned)slot);
    }
}

/* ---- The old process. ---- */

static void let_go_of_successor(void)
{
    ev_io_stop(loop, &successor.io);
    ev_child_stop(loop, &successor.watch);
    ev_timer_stop(loop, &successor.patience);
    close(successor.io.fd);
    successor.pid = 0;
}

/* Everything goes on as before. */
static void fail(const char *why)
{
    char text[MESSAGE_MOST + 64];
    int n = snprintf(text, sizeof(text), "upgrade: nothing has changed: %s", why);
    pid_t pid = successor.pid;

    let_go_of_successor();
    forget_slots(pid);
    mg_log_text(MG_LOG_ERROR, (mg_slice){ text, (uint32_t)(n < (int)sizeof(text) ? n : (int)sizeof(text) - 1) });
    mg_control_refuse(successor.ticket, why);
    if (successor.reload)
        mg_reload_unasked();
}

static void succeed(const char *version)
{
    char answer[512], what[256];
    double took = ev_now(loop) - successor.began;
    pid_t pid = successor.pid;
    int channel = successor.io.fd;

    snprintf(what, sizeof(what),
             "process %d serves with version %.32s after %.0f ms; process %d finishes what it has "
             "in progress",
             (int)pid, version, took * 1000, (int)getpid());
    mg_log(MG_LOG_INFO, "upgrade: %s", what);
    snprintf(answer, sizeof(answer), "{\"pid\":%d,\"seconds\":%.4f,\"summary\":\"%s\"}", (int)pid, took, what);
    mg_control_answer(successor.ticket, answer);
    if (successor.reload)
        kill(pid, SIGHUP);
    if (successor.reopen)
        kill(pid, SIGUSR1);
    ev_io_stop(loop, &successor.io);
    ev_child_stop(loop, &successor.watch);
    ev_timer_stop(loop, &successor.patience);
    successor.pid = 0;
    events->on_successor(pid);
    say(channel, 'G', "", 0); /* the channel stays open: its end is ours */
}

static bool is_version(const char *text)
{
    return text[0] && strspn(text, "0123456789abcdefghijklmnopqrstuvwxyz.-+~") == strlen(text);
}

/* False once it has taken our place. */
static bool listen_to_successor(void)
{
    char body[MESSAGE_MOST];
    size_t len;
    int letter;

    while ((letter = hear(successor.io.fd, body, &len)) > 0) {
        if (letter == 'F') {
            memcpy(successor.why, body, len + 1);
        } else if (letter == 'R') {
            succeed(is_version(body) ? body : "?");
            return false;
        }
    }
    if (letter < 0)
        ev_io_stop(loop, &successor.io); /* its end is told by the signal */
    return true;
}

static void on_successor_says(struct ev_loop *l, ev_io *io, int revents)
{
    (void)l;
    (void)io;
    (void)revents;
    (void)listen_to_successor();
}

static void on_successor_ended(struct ev_loop *l, ev_child *watch, int revents)
{
    char why[128];
    int status = watch->rstatus;

    (void)l;
    (void)revents;
    char body[MESSAGE_MOST];
    size_t len;
    for (int letter; (letter = hear(successor.io.fd, body, &len)) > 0;)
        if (letter == 'F') /* an R is of no use any more */
            memcpy(successor.why, body, len + 1);
    if (WIFSIGNALED(status))
        snprintf(why, sizeof(why), "the new process was killed by signal %d (%s) before it served", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(why, sizeof(why), "the new process ended with status %d before it served", WEXITSTATUS(status));
    fail(successor.why[0] ? successor.why : why);
}

static void on_patience(struct ev_loop *l, ev_timer *t, int revents)
{
    (void)l;
    (void)t;
    (void)revents;
    if (!listen_to_successor())
        return;
    kill(successor.pid, SIGKILL);
    fail("the new process did not serve within 60 seconds");
}

static void send_tickets(int channel)
{
    unsigned char tickets[TICKETS_MOST];
    size_t n = mg_tls_tickets_save(tickets, sizeof(tickets));

    say(channel, 'T', tickets, n);
    explicit_bzero(tickets, sizeof(tickets));
}

__attribute__((noreturn)) static void become_successor(int channel)
{
    int fds[HANDED_MOST] = { channel };
    const char *names[HANDED_MOST] = { MG_INHERITED_UPGRADE };
    unsigned n = 1;

    if (mg_control_descriptor() >= 0) {
        fds[n] = mg_control_descriptor();
        names[n++] = MG_INHERITED_CONTROL;
    }
    if (mg_shared_descriptor() >= 0) {
        fds[n] = mg_shared_descriptor();
        names[n++] = MG_INHERITED_SHARED;
    }
    n += mg_sockets_list(fds + n, names + n, HANDED_MOST - n);
    mg_notify_restore();
    const char *why = mg_launch(fds, names, n);
    say(fds[0], 'F', why, strlen(why));
    _exit(127);
}

const char *mg_upgrade_begin(unsigned ticket)
{
    static char problem[128];
    int pair[2], room = 64 * 1024;

    if (successor.pid)
        return "another upgrade is under way; ask again when it has ended";
    if (predecessor.there && predecessor.awaits)
        return "moongate is starting; ask again when it serves";
    if (mg_reload_is_under_way())
        return "a reload is under way; ask again when it has ended";
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        snprintf(problem, sizeof(problem), "no process can be started: %s", strerror(errno));
        return problem;
    }
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    send_tickets(pair[0]);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        become_successor(pair[1]);
    close(pair[1]);
    if (pid < 0) {
        snprintf(problem, sizeof(problem), "no process can be started: %s", strerror(errno));
        close(pair[0]);
        return problem;
    }
    successor.pid = pid;
    successor.ticket = ticket;
    successor.began = ev_now(loop);
    successor.reload = successor.reopen = false;
    successor.why[0] = '\0';
    ev_io_init(&successor.io, on_successor_says, pair[0], EV_READ);
    ev_child_init(&successor.watch, on_successor_ended, pid, 0);
    ev_timer_init(&successor.patience, on_patience, PATIENCE, 0);
    ev_io_start(loop, &successor.io);
    ev_child_start(loop, &successor.watch);
    ev_timer_start(loop, &successor.patience);
    mg_log(MG_LOG_INFO, "upgrade: process %d is started from %s", (int)pid, mg_launch_path());
    return NULL;
}

bool mg_upgrade_under_way(void)
{
    return successor.pid;
}

/* Until it has caught them, signals would end it. */
void mg_upgrade_keep_signal(int number)
{
    successor.reload |= number == SIGHUP;
    successor.reopen |= number == SIGUSR1;
}

void mg_upgrade_give_up(const char *why)
{
    if (!successor.pid)
        return;
    successor.reload = false;
    kill(successor.pid, SIGKILL);
    fail(why);
}

/* ---- The new process. ---- */

static void on_predecessor_gone(void)
{
    bool served = predecessor.lets_go;

    ev_io_stop(loop, &predecessor.io);
    close(predecessor.io.fd);
    predecessor.there = predecessor.lets_go = false;
    forget_slots(predecessor.pid);
    if (served)
        events->on_alone();
}

static void on_predecessor_says(struct ev_loop *l, ev_io *io, int revents)
{
    char body[MESSAGE_MOST];
    size_t len;
    int letter;

    (void)l;
    (void)revents;
    while ((letter = hear(io->fd, body, &len)) > 0) {
        if (letter == 'T') {
            mg_tls_tickets_restore(body, len);
            explicit_bzero(body, sizeof(body));
        } else if (letter == 'G' && predecessor.lets_go) {
            predecessor.lets_go = false;
            events->on_alone();
        }
    }
    if (letter < 0)
        on_predecessor_gone();
}

static pid_t other_end(int fd)
{
    struct ucred who = { 0 };
    socklen_t len = sizeof(who);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 ? who.pid : 0;
}

void mg_upgrade_start(struct ev_loop *on, const struct mg_upgrade_events *given)
{
    int fd = mg_inherited_take(MG_INHERITED_UPGRADE);

    loop = on;
    events = given;
    if (fd < 0)
        return;
    predecessor.there = predecessor.awaits = true;
    predecessor.pid = other_end(fd);
    ev_io_init(&predecessor.io, on_predecessor_says, fd, EV_READ);
    ev_io_start(loop, &predecessor.io);
    on_predecessor_says(loop, &predecessor.io, EV_READ); /* the keys, before any worker is there */
}

bool mg_upgrade_is_awaited(void)
{
    return predecessor.awaits;
}

void mg_upgrade_tell_ready(void)
{
    if (!predecessor.awaits)
        return;
    predecessor.awaits = false;
    if (!predecessor.there) { /* it has died meanwhile */
        events->on_alone();
        return;
    }
    predecessor.lets_go = true;
    say(predecessor.io.fd, 'R', MG_VERSION, strlen(MG_VERSION));
}

void mg_upgrade_tell_failed(const char *why)
{
    if (predecessor.there && predecessor.awaits)
        say(predecessor.io.fd, 'F', why, strlen(why));
    predecessor.awaits = false;
}

/* ---- Both. ---- */

void mg_upgrade_forget(void)
{
    if (successor.pid)
        close(successor.io.fd);
    if (predecessor.there)
        close(predecessor.io.fd);
}

void mg_upgrade_end(void)
{
    if (predecessor.there) {
        ev_io_stop(loop, &predecessor.io);
        close(predecessor.io.fd);
        predecessor.there = false;
    }
}

/* transport.c - the plain socket.
 *
 * A handler may close its transport, so nothing here touches one after it was
 * handed up.
 *
 * Reading is stopped lazily: want_read(false) only clears a mark, and the
 * watcher stops when the socket turns readable while the mark is clear. So
 * turning reading off and on again between two requests costs no system call.
 */
#include "transport.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <ev.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

enum {
    SOCKET_MAGIC = 0x6d677472, /* "mgtr" */
    IOVECS = 64,
};

struct mg_socket_transport {
    struct mg_transport base;
    ev_io io;          /* one watcher for both: every idle connection holds it */
    int connect_error; /* what connect() itself said, if not "in progress" */
    bool reading;      /* what want_read asked for */
    bool connecting;
    bool dialled; /* we opened it */
};

/* With many clients ready at once, answers that come meanwhile must not wait behind all of them: few exchanges are open
 * at a time then, and the memory and the connections that they use are still in the cache when the next ones use them.
 * So the sockets that we opened are in a second epoll set, too, which is looked at after every few clients' events. */
enum { ACCEPTED_AT_ONCE = 32, ANSWERS_AT_ONCE = 64 };

static struct ev_loop *loop;
static int answers = -1;         /* the second set */
static unsigned accepted_events; /* since there was one of a socket that we opened */
static void (*after_event)(void);
static unsigned live;
static struct mg_socket_transport *handed_up; /* whose event is being handed up; NULL once it was closed */

static struct mg_socket_transport *socket_of(struct mg_transport *t)
{
    assert(t->magic == SOCKET_MAGIC);
    return (struct mg_socket_transport *)t;
}

/* What a failed or empty call means; the call is made again for EINTR. */
static enum mg_io outcome_of_error(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK ? MG_IO_AGAIN : MG_IO_ERROR;
}

static enum mg_io socket_read(struct mg_transport *t, void *to, size_t cap, size_t *n)
{
    struct mg_socket_transport *s = socket_of(t);
    ssize_t got;
    do
        got = recv(s->io.fd, to, cap, 0);
    while (got < 0 && errno == EINTR);

    *n = got > 0 ? (size_t)got : 0;
    if (got > 0)
        return MG_IO_DONE;
    return got == 0 ? MG_IO_CLOSED : outcome_of_error();
}

static enum mg_io socket_write(struct mg_transport *t, const struct iovec *v, int count, size_t *n)
{
    struct mg_socket_transport *s = socket_of(t);
    ssize_t sent;
    do {
        if (count == 1) {
            sent = send(s->io.fd, v->iov_base, v->iov_len, MSG_NOSIGNAL);
        } else {
            struct msghdr m = { .msg_iov = (struct iovec *)(uintptr_t)v, .msg_iovlen = (size_t)count };
            sent = sendmsg(s->io.fd, &m, MSG_NOSIGNAL);
        }
    } while (sent < 0 && errno == EINTR);

    *n = sent > 0 ? (size_t)sent : 0;
    return sent >= 0 ? MG_IO_DONE : outcome_of_error();
}

static void socket_shutdown(struct mg_transport *t)
{
    shutdown(socket_of(t)->io.fd, SHUT_WR);
}

static void socket_close(struct mg_transport *t, bool abort)
{
    struct mg_socket_transport *s = socket_of(t);
    if (handed_up == s)
        handed_up = NULL;
    ev_io_stop(loop, &s->io);
    if (abort) {
        struct linger reset = { .l_onoff = 1, .l_linger = 0 };
        setsockopt(s->io.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    }
    close(s->io.fd);
    s->base.magic = 0;
    free(s);
    live--;
}

static int watched(const struct mg_socket_transport *s)
{
    return ev_is_active(&s->io) ? s->io.events : 0;
}

static void watch(struct mg_socket_transport *s, int events)
{
    if (events == watched(s))
        return;
    ev_io_stop(loop, &s->io);
    if (!events)
        return;
    ev_io_set(&s->io, s->io.fd, events);
    ev_io_start(loop, &s->io);
}

static void socket_want_read(struct mg_transport *t, bool on)
{
    struct mg_socket_transport *s = socket_of(t);
    s->reading = on;
    if (on)
        watch(s, watched(s) | EV_READ);
}

static void socket_want_write(struct mg_transport *t)
{
    struct mg_socket_transport *s = socket_of(t);
    watch(s, watched(s) | EV_WRITE);
}

static void socket_again(struct mg_transport *t)
{
    ev_feed_event(loop, &socket_of(t)->io, EV_READ);
}

static bool socket_ended(struct mg_transport *t)
{
    struct pollfd p = { .fd = socket_of(t)->io.fd, .events = POLLRDHUP };
    return poll(&p, 1, 0) > 0;
}

static bool socket_stirred(struct mg_transport *t)
{
    char byte;
    ssize_t n = recv(socket_of(t)->io.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

static const struct mg_transport_ops socket_ops = {
    .read = socket_read,
    .write = socket_write,
    .shutdown = socket_shutdown,
    .close = socket_close,
    .want_read = socket_want_read,
    .want_write = socket_want_write,
    .again = socket_again,
    .ended = socket_ended,
    .stirred = socket_stirred,
};

static int error_of(const struct mg_socket_transport *s)
{
    int error = s->connect_error;
    socklen_t len = sizeof(error);
    if (error == 0 && getsockopt(s->io.fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    return error;
}

static void on_writable(struct mg_socket_transport *s)
{
    watch(s, watched(s) & ~EV_WRITE);
    if (s->connecting) {
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = s };
        int error = error_of(s);
        s->connecting = false;
        if (error == 0) /* without it, its answers may wait longer, which is all */
            epoll_ctl(answers, EPOLL_CTL_ADD, s->io.fd, &e);
        s->base.events->on_connected(&s->base, error);
    } else {
        s->base.events->on_writable(&s->base);
    }
}

static void on_readable(struct mg_socket_transport *s)
{
    if (s->reading)
        s->base.events->on_readable(&s->base);
    else
        watch(s, watched(s) & ~EV_READ);
}

/* Events of sockets that we opened are of a higher priority: fed here, they come before the clients' that are left. */
static void look_for_answers(void)
{
    struct epoll_event found[ANSWERS_AT_ONCE];
    int count = epoll_wait(answers, found, ANSWERS_AT_ONCE, 0);

    for (int i = 0; i < count; i++) {
        struct mg_socket_transport *s = found[i].data.ptr;
        if (s->reading && watched(s) & EV_READ)
            ev_feed_event(loop, &s->io, EV_READ);
    }
}

static void on_event(struct ev_loop *l, ev_io *w, int events)
{
    (void)l;
    struct mg_socket_transport *s = handed_up = w->data;
    bool dialled = s->dialled;
    if (events & EV_WRITE)
        on_writable(s);
    if (handed_up && (events & EV_READ))
        on_readable(s);
    after_event();
    if (dialled) {
        accepted_events = 0;
    } else if (++accepted_events >= ACCEPTED_AT_ONCE) {
        accepted_events = 0;
        look_for_answers();
    }
}

bool mg_transport_start(struct ev_loop *on, void (*after)(void))
{
    loop = on;
    after_event = after;
    answers = epoll_create1(EPOLL_CLOEXEC);
    return answers >= 0;
}

void mg_transport_stop(void)
{
    close(answers);
}

/* Owns fd from now on: it is closed if there is no memory. */
static struct mg_socket_transport *socket_new(int fd, bool tcp)
{
    struct mg_socket_transport *s = calloc(1, sizeof(*s));
    if (!s) {
        close(fd);
        errno = ENOMEM;
        return NULL;
    }
    if (tcp) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    s->base.magic = SOCKET_MAGIC;
    s->base.ops = &socket_ops;
    ev_io_init(&s->io, on_event, fd, EV_READ);
    s->io.data = s;
    live++;
    return s;
}

struct mg_transport *mg_transport_accepted(int fd, bool tcp)
{
    struct mg_socket_transport *s = socket_new(fd, tcp);
    return s ? &s->base : NULL;
}

struct mg_transport *mg_transport_connect(const struct mg_address *to, const struct mg_transport_events *events,
                                          void *owner)
{
    int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return NULL;
    struct mg_socket_transport *s = socket_new(fd, to->any.sa_family != AF_UNIX);
    if (!s)
        return NULL;

    s->base.events = events;
    s->base.owner = owner;
    s->connecting = s->dialled = true;
    /* News of an origin comes before a client's in the same turn of the loop: a kept connection that has just ended, or
     * has said something unasked, must not be borrowed first. */
    ev_set_priority(&s->io, EV_MAXPRI);
    watch(s, EV_WRITE);
    /* An interrupted connect goes on in the background, as one in progress does. */
    if (connect(fd, &to->any, to->len) < 0 && errno != EINPROGRESS && errno != EINTR) {
        s->connect_error = errno;
        ev_feed_event(loop, &s->io, EV_WRITE);
    }
    return &s->base;
}

static size_t offered(const struct iovec *v, int count)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        bytes += v[i].iov_len;
    return bytes;
}

enum mg_io mg_transport_send(struct mg_transport *t, struct mg_chain *out)
{
    struct iovec v[IOVECS];

    while (out->bytes) {
        size_t n = 0, before = out->bytes;
        int count = mg_chain_iovec(out, v, IOVECS);
        enum mg_io io = t->ops->write(t, v, count, &n);
        if (io == MG_IO_ERROR || io == MG_IO_CLOSED)
            return MG_IO_ERROR;
        if (io == MG_IO_DONE)
            mg_chain_drop(out, n);
        if (n < before && (count < IOVECS || n < offered(v, count))) {
            t->ops->want_write(t);
            return MG_IO_AGAIN;
        }
    }
    return MG_IO_DONE;
}

unsigned mg_transport_live(void)
{
    return live;
}

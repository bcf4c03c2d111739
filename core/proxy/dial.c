/* dial.c - a stream to an origin: borrowed from the pool or newly opened.
 *
 * A dial that can't borrow connects to one address of the origin after the
 * other. Where connections are shared, one is made at a time, and other dials
 * wait in line for room in it.
 */
#include "pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "h2.h"
#include "proxy_header.h"
#include "resolve.h"
#include "tcp.h"
#include "text.h"
#include "tls.h"

enum {
    TRIES_MOST = 3,      /* addresses of a name that are tried */
    ADDRESSES_MOST = 16, /* of a name that are looked at */
};
static const double SOON = 1e-6; /* the next turn of the loop */

struct mg_dial_work {
    struct mg_dial *dial;
    struct mg_origin *origin;
    struct mg_lookup *lookup;         /* while the name is looked up */
    struct mg_connection *connection; /* while one connects */
    struct mg_timeout timeout;        /* the connect timeout, or SOON to tell a failure */
    struct mg_dial_work *next_free, *next_waiting;
    struct mg_pool *waits_in; /* for room in a connection of this pool */
    bool called;              /* its turn has come, or what it waited for is gone */
    const char *text;         /* of the last failure */
    unsigned at, count;
    struct mg_address addresses[TRIES_MOST];
};

static struct mg_dial_work *free_works;
static unsigned live;
static const struct mg_dial_stand_in *stand_in;

/* ---- A dial at work. ---- */

static void on_timeout(struct mg_timeout *t);

static struct mg_dial_work *work_new(struct mg_dial *d, struct mg_origin *o)
{
    struct mg_dial_work *w = free_works;

    if (w)
        free_works = w->next_free;
    else
        w = malloc(sizeof(*w));
    if (!w)
        return NULL;
    memset(w, 0, offsetof(struct mg_dial_work, addresses));
    w->dial = d;
    w->origin = o;
    w->timeout.fire = on_timeout;
    d->work = w;
    live++;
    return w;
}

/* The first in line looks again, at the next turn of the loop. */
static void call_waiting(struct mg_pool *p)
{
    struct mg_dial_work *w = p->waiting;

    if (!w || w->called)
        return;
    w->called = true;
    mg_timeout_set(&w->timeout, mg_clock_queue(SOON));
}

static void stop_waiting(struct mg_dial_work *w)
{
    struct mg_pool *p = w->waits_in;
    struct mg_dial_work **link = &p->waiting, *before = NULL;

    while (*link != w) {
        before = *link;
        link = &(*link)->next_waiting;
    }
    *link = w->next_waiting;
    if (p->last_waiting == w)
        p->last_waiting = before;
    w->waits_in = NULL;
    if (w->called)
        call_waiting(p);
    w->called = false;
    mg_pool_drop(p);
}

static void work_free(struct mg_dial_work *w)
{
    if (w->waits_in)
        stop_waiting(w);
    w->dial->work = NULL;
    mg_timeout_clear(&w->timeout);
    if (w->lookup)
        mg_lookup_cancel(w->lookup);
    if (w->connection) {
        struct mg_transport *t = w->connection->transport;
        t->ops->close(t, true);
        mg_connection_free(w->connection);
    }
    w->next_free = free_works;
    free_works = w;
    live--;
}

static void fail(struct mg_dial_work *w, enum mg_failure failure, const char *text)
{
    struct mg_dial *d = w->dial;

    work_free(w);
    d->done(d, NULL, failure, text);
}

static const char *text_of(int error)
{
    switch (error) {
    case ECONNREFUSED:
        return "connection refused";
    case ETIMEDOUT:
        return "connection timed out";
    case EHOSTUNREACH:
        return "host unreachable";
    case ENETUNREACH:
        return "network unreachable";
    case ECONNRESET:
        return "connection reset";
    case ENOENT:
        return "no such socket";
    case EACCES:
    case EPERM:
        return "permission denied";
    case EAGAIN:
        return "the queue of the socket is full";
    case EADDRNOTAVAIL:
        return "no local port is left";
    case EMFILE:
    case ENFILE:
        return "no file descriptor is left";
    case ENOMEM:
    case ENOBUFS:
        return "out of memory";
    default:
        return "the connection could not be made";
    }
}

static void look_again(struct mg_dial_work *w);

static void on_timeout(struct mg_timeout *t)
{
    struct mg_dial_work *w = MG_HOLDER(t, struct mg_dial_work, timeout);

    if (w->called)
        look_again(w);
    else if (w->waits_in)
        fail(w, MG_FAIL_CONNECT_TIMEOUT, "no stream of a connection was free in time");
    else if (w->connection)
        fail(w, MG_FAIL_CONNECT_TIMEOUT, "the connection was not made in time");
    else if (w->lookup)
        fail(w, MG_FAIL_CONNECT_TIMEOUT, "the name was not resolved in time");
    else
        fail(w, MG_FAIL_CONNECT, w->text);
}

static void on_connected(struct mg_transport *t, int error);
static const struct mg_transport_events connecting_events = { .on_connected = on_connected };
static void serve_waiting(struct mg_pool *p);
static const struct mg_connection_events connection_events = { .on_room = serve_waiting, .on_gone = call_waiting };

/* Begins to connect to the next address; false with w->text when none is left. */
static bool connect_next(struct mg_dial_work *w)
{
    while (w->at < w->count) {
        struct mg_connection *c = mg_connection_open(&w->addresses[w->at++], w->origin, &connecting_events,
                                                     &connection_events);
        if (c) {
            c->work = w;
            w->connection = c;
            return true;
        }
        w->text = text_of(errno);
    }
    return false;
}

static struct mg_carrier *carrier_on(struct mg_connection *c, bool bytes)
{
    const struct mg_carrier_events *events = &mg_connection_carrier_events;
    struct mg_transport *t = c->transport;

    if (bytes)
        return mg_tcp_dialled(t, &c->settings.times, events, c);
    if (c->pool->h2)
        return mg_h2_dialled(t, &c->settings, c->pool->tls ? mg_tls_session_of(t) : NULL, events, c);
    return mg_h1_dialled(t, &c->settings, events, c);
}

/* The transport is ready: a carrier on it, and its first stream. */
static void carry(struct mg_connection *c)
{
    struct mg_dial_work *w = c->work;
    struct mg_dial *d = w->dial;

    w->connection = NULL;
    c->work = NULL;
    c->pool->connecting = false;
    mg_connection_serve(c, w->origin);
    struct mg_carrier *carrier = carrier_on(c, d->bytes);
    if (!carrier) {
        mg_connection_free(c);
        fail(w, MG_FAIL_CONNECT, text_of(ENOMEM));
        return;
    }
    struct mg_stream *s = carrier->ops->open(carrier, d->events, d->owner);
    if (!s) {
        carrier->ops->close(carrier);
        fail(w, MG_FAIL_CONNECT, text_of(ENOMEM));
        return;
    }
    work_free(w);
    mg_connection_share(c, carrier);
    d->done(d, s, MG_FAIL_NONE, NULL);
    if (c->pool->h2)
        serve_waiting(c->pool);
}

/* The connection is no good; the dial goes on without it. */
static void drop_connection(struct mg_connection *c)
{
    struct mg_transport *t = c->transport;

    c->work->connection = NULL;
    t->ops->close(t, true);
    mg_connection_free(c);
}

/* The peer is told whom the connection is for, before anything else. A new connection takes so few bytes at once. */
static bool announce(struct mg_connection *c)
{
    const struct mg_peer_info *client = c->work->dial->client;
    char header[MG_PROXY_HEADER_ROOM];
    size_t len = mg_proxy_header_write(c->pool->proxy_protocol, client ? &client->client : NULL,
                                       client ? &client->local : NULL, header);
    struct iovec v = { header, len };
    size_t n = 0;

    return c->transport->ops->write(c->transport, &v, 1, &n) == MG_IO_DONE && n == len;
}

/* What the handshake has settled on; false if it is not what must be spoken. Those that wait for room in a connection
 * of HTTP/2 make their own if there is none. */
static bool settle_protocol(struct mg_pool *p, bool h2)
{
    if (p->protocol == MG_PROTOCOL_HTTP2)
        return h2;
    if (p->h2 && !h2) {
        p->h2 = p->connecting = false;
        call_waiting(p);
    }
    p->h2 = h2;
    return true;
}

static void on_shaken(struct mg_transport *t, int error)
{
    struct mg_connection *c = t->owner;
    struct mg_dial_work *w = c->work;

    if (!error && settle_protocol(c->pool, mg_tls_protocol(t) == MG_TLS_HTTP2)) {
        carry(c);
        return;
    }
    drop_connection(c);
    fail(w, MG_FAIL_TLS, error ? mg_tls_problem() : "the origin does not take HTTP/2: it has not chosen it by ALPN");
}

static const struct mg_transport_events shaking_events = { .on_connected = on_shaken };

static void on_connected(struct mg_transport *t, int error)
{
    struct mg_connection *c = t->owner;
    struct mg_dial_work *w = c->work;
    struct mg_pool *p = c->pool;

    if (error || (p->proxy_protocol && !announce(c))) {
        drop_connection(c);
        w->text = text_of(error ? error : ECONNRESET);
        if (!connect_next(w))
            fail(w, MG_FAIL_CONNECT, w->text);
        return;
    }
    if (!p->tls) {
        carry(c);
        return;
    }
    c->transport = mg_tls_dial(t, p->tls, p->name, &p->memory, &shaking_events, c);
    if (c->transport)
        return;
    w->connection = NULL;
    mg_connection_free(c);
    fail(w, MG_FAIL_CONNECT, text_of(ENOMEM));
}

/* ---- Waiting for room in a connection of HTTP/2. ---- */

/* Begins to connect, or gets in line: one connection is made at a time, so that many requests at once share it. False
 * with w->text when there is nobody to connect to. */
static bool connect_or_wait(struct mg_dial_work *w)
{
    bool shared = w->origin->protocol != MG_PROTOCOL_HTTP1;
    struct mg_pool *p = shared ? mg_pool_of(&w->addresses[w->at < w->count ? w->at : 0], w->origin) : NULL;

    if (!p)
        return connect_next(w);
    if (!p->h2 || (!p->connecting && p->connections < w->origin->connections)) {
        bool begun = connect_next(w);
        mg_pool_drop(p);
        return begun;
    }
    w->waits_in = p;
    w->next_waiting = NULL;
    if (p->waiting)
        p->last_waiting->next_waiting = w;
    else
        p->waiting = w;
    p->last_waiting = w;
    return true;
}

static void serve_waiting(struct mg_pool *p)
{
    p->refs++;
    while (p->waiting) {
        struct mg_dial_work *w = p->waiting;
        struct mg_dial *d = w->dial;
        struct mg_stream *s = mg_pool_borrow(p, d, w->origin, MG_DIAL_FRESH);

        if (!s)
            break;
        w->called = false;
        work_free(w);
        d->done(d, s, MG_FAIL_NONE, NULL);
    }
    if (p->waiting && !p->connecting)
        call_waiting(p);
    mg_pool_drop(p);
}

/* First in line, and something has changed: a stream, a connection of its own, or a place at the end again. */
static void look_again(struct mg_dial_work *w)
{
    struct mg_dial *d = w->dial;
    struct mg_pool *p = w->waits_in;
    struct mg_stream *s = mg_pool_borrow(p, d, w->origin, MG_DIAL_FRESH);

    w->called = false;
    if (s) {
        work_free(w);
        d->done(d, s, MG_FAIL_NONE, NULL);
        return;
    }
    mg_timeout_set(&w->timeout, w->origin->connect);
    if (p->h2 && (p->connecting || p->connections >= w->origin->connections))
        return;
    p->refs++;
    stop_waiting(w);
    if (!p->h2)
        call_waiting(p); /* nobody else will have a place to give */
    mg_pool_drop(p);
    if (!connect_next(w))
        fail(w, MG_FAIL_CONNECT, w->text);
}

/* ---- Names. ---- */

/* The addresses of a name, beginning with the one whose turn it is. */
static void set_addresses(struct mg_dial_work *w, const struct mg_address *list, unsigned count)
{
    unsigned turn = w->origin->turn++;

    w->count = count < TRIES_MOST ? count : TRIES_MOST;
    for (unsigned i = 0; i < w->count; i++) {
        struct mg_address *a = &w->addresses[i];
        *a = list[(turn + i) % count];
        mg_origin_put_port(w->origin, a);
    }
}

static void on_lookup(void *owner, const struct mg_address *list, unsigned count, const char *problem)
{
    struct mg_dial_work *w = owner;

    w->lookup = NULL;
    if (problem) {
        fail(w, MG_FAIL_CONNECT, problem);
        return;
    }
    set_addresses(w, list, count);
    if (!connect_or_wait(w))
        fail(w, MG_FAIL_CONNECT, w->text);
}

/* True when the addresses are known or asked for. */
static bool look_up(struct mg_dial_work *w)
{
    struct mg_address list[ADDRESSES_MOST];
    unsigned count = ADDRESSES_MOST;

    w->lookup = mg_resolve(w->origin->host, list, &count, on_lookup, w);
    if (count)
        set_addresses(w, list, count);
    return w->lookup || count;
}

/* done() may not come before mg_dial_begin() has returned. */
static void fail_soon(struct mg_dial_work *w)
{
    mg_timeout_set(&w->timeout, mg_clock_queue(SOON));
}

static struct mg_stream *dial_name(struct mg_dial *d, struct mg_origin *o, enum mg_dial_how how)
{
    struct mg_dial_work *w = work_new(d, o);
    struct mg_stream *s = NULL;

    if (!w)
        return NULL;
    w->text = text_of(ENOMEM);
    if (!look_up(w)) {
        fail_soon(w);
        return NULL;
    }
    if (w->count && !d->bytes) {
        struct mg_pool *pool = mg_pool_of(&w->addresses[0], o);
        if (pool) {
            s = mg_pool_borrow(pool, d, o, how);
            mg_pool_drop(pool);
        }
        if (s) {
            work_free(w);
            return s;
        }
    }
    if (w->lookup || connect_or_wait(w))
        mg_timeout_set(&w->timeout, o->connect);
    else
        fail_soon(w);
    return NULL;
}

/* ---- The way in. ---- */

struct mg_stream *mg_dial_begin(struct mg_dial *d, struct mg_origin *o, enum mg_dial_how how)
{
    d->work = NULL;
    if (__builtin_expect(stand_in != NULL, 0))
        return stand_in->begin(d, o);
    if (!o->address.len)
        return dial_name(d, o, how);
    if (!o->pool)
        o->pool = mg_pool_of(&o->address, o);
    if (o->pool && !d->bytes) {
        struct mg_stream *s = mg_pool_borrow(o->pool, d, o, how);
        if (s)
            return s;
    }

    struct mg_dial_work *w = work_new(d, o);
    if (!w)
        return NULL;
    w->addresses[0] = o->address;
    w->count = 1;
    if (connect_or_wait(w))
        mg_timeout_set(&w->timeout, o->connect);
    else
        fail_soon(w);
    return NULL;
}

void mg_dial_cancel(struct mg_dial *d)
{
    if (!d->work)
        return;
    if (stand_in)
        stand_in->cancel(d);
    else
        work_free(d->work);
}

void mg_dial_stand_in(const struct mg_dial_stand_in *who)
{
    stand_in = who;
}

void mg_dial_stop(void)
{
    mg_pool_stop();
    while (free_works) {
        struct mg_dial_work *w = free_works;
        free_works = w->next_free;
        free(w);
    }
}

unsigned mg_dial_live(void)
{
    return live;
}

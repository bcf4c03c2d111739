/* dial.c - a stream to an origin: borrowed from the idle pool or newly opened.
 *
 * A pool is all connections to one address; origins and connections hold it.
 * A connection is one struct from its first packet on: first it belongs to the
 * dial that connects it, then to its carrier, whose `owner` it is. A connection
 * of HTTP/2 is in its pool's list while it has room for another stream.
 */
#include "dial.h"

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
    BUCKETS = 256,       /* of the table of pools; a power of two */
    TRIES_MOST = 3,      /* addresses of a name that are tried */
    ADDRESSES_MOST = 16, /* of a name that are looked at */
};
static const double SOON = 1e-6; /* the next turn of the loop */

struct mg_pool {
    struct mg_pool *next;                        /* in its bucket */
    struct mg_carrier *newest, *oldest;          /* idle connections; `next` is the older one */
    struct mg_dial_work *waiting, *last_waiting; /* of HTTP/2: for room in a connection */
    unsigned idle, refs, bucket;
    unsigned connections; /* open, and those that connect */
    enum mg_protocol protocol;
    bool h2; /* it speaks HTTP/2, as far as is known: connections are shared */
    bool connecting;
    uint8_t proxy_protocol;
    struct mg_tls *tls; /* held; NULL: clear text */
    struct mg_tls_memory memory;
    struct mg_address address;
    mg_slice name; /* with TLS: whom the certificate must be of */
};

struct connection {
    struct mg_pool *pool;
    struct mg_dial_work *work; /* while it connects */
    struct mg_transport *transport;
    struct mg_h1_settings settings; /* of the origin that used it last; */
    struct mg_limits limits;        /* copies, since it may outlive that one */
    unsigned keepalive;
    bool idle;
};

struct mg_dial_work {
    struct mg_dial *dial;
    struct mg_origin *origin;
    struct mg_lookup *lookup;      /* while the name is looked up */
    struct connection *connection; /* while one connects */
    struct mg_timeout timeout;     /* the connect timeout, or SOON to tell a failure */
    struct mg_dial_work *next_free, *next_waiting;
    struct mg_pool *waits_in; /* for room in a connection of this pool */
    bool called;              /* its turn has come, or what it waited for is gone */
    const char *text;         /* of the last failure */
    unsigned at, count;
    struct mg_address addresses[TRIES_MOST];
};

static struct mg_pool *buckets[BUCKETS];
static struct mg_dial_work *free_works;
static unsigned idle, live;
static bool stopped;

/* ---- Pools. ---- */

static unsigned bucket_of(const struct mg_address *a)
{
    const unsigned char *bytes = (const unsigned char *)&a->any;
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (socklen_t i = 0; i < a->len; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return (hash ^ hash >> 16) & (BUCKETS - 1);
}

static mg_slice tls_name(const struct mg_origin *o)
{
    mg_slice sni = mg_tls_sni(o->tls);

    return sni.len ? sni : o->host;
}

/* All that makes two connections differ must be the same. */
static bool is_for(const struct mg_pool *p, const struct mg_address *a, const struct mg_origin *o)
{
    if (p->protocol != o->protocol || p->proxy_protocol != o->proxy_protocol || !mg_address_equal(&p->address, a))
        return false;
    if (!p->tls || !o->tls)
        return p->tls == o->tls;
    return mg_tls_same(p->tls, o->tls) && mg_text_equal(p->name, tls_name(o));
}

static struct mg_pool *pool_new(const struct mg_address *a, const struct mg_origin *o)
{
    mg_slice name = o->tls ? tls_name(o) : (mg_slice){ "", 0 };
    struct mg_pool *p = calloc(1, sizeof(*p) + name.len);

    if (!p)
        return NULL;
    p->address = *a;
    p->protocol = o->protocol;
    p->h2 = o->protocol != MG_PROTOCOL_HTTP1;
    p->proxy_protocol = o->proxy_protocol;
    if (o->tls) {
        p->tls = mg_tls_hold(o->tls);
        memcpy(p + 1, name.ptr, name.len);
        p->name = (mg_slice){ (const char *)(p + 1), name.len };
    }
    return p;
}

/* With a reference for the caller; NULL without memory. */
static struct mg_pool *pool_of(const struct mg_address *a, const struct mg_origin *o)
{
    unsigned bucket = bucket_of(a);
    struct mg_pool *p = buckets[bucket];

    while (p && !is_for(p, a, o))
        p = p->next;
    if (!p) {
        p = pool_new(a, o);
        if (!p)
            return NULL;
        p->bucket = bucket;
        p->next = buckets[bucket];
        buckets[bucket] = p;
    }
    p->refs++;
    return p;
}

static void pool_drop(struct mg_pool *p)
{
    struct mg_pool **at = &buckets[p->bucket];

    if (--p->refs)
        return;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    mg_tls_forget(&p->memory);
    mg_tls_drop(p->tls);
    free(p);
}

static void put_idle(struct connection *c, struct mg_carrier *carrier)
{
    struct mg_pool *p = c->pool;

    carrier->previous = NULL;
    carrier->next = p->newest;
    if (p->newest)
        p->newest->previous = carrier;
    else
        p->oldest = carrier;
    p->newest = carrier;
    c->idle = true;
    p->idle++;
    idle++;
}

static void take_idle(struct connection *c, struct mg_carrier *carrier)
{
    struct mg_pool *p = c->pool;

    if (carrier->previous)
        carrier->previous->next = carrier->next;
    else
        p->newest = carrier->next;
    if (carrier->next)
        carrier->next->previous = carrier->previous;
    else
        p->oldest = carrier->previous;
    carrier->next = carrier->previous = NULL;
    c->idle = false;
    p->idle--;
    idle--;
}

static void close_idle(struct mg_carrier *carrier)
{
    take_idle(carrier->owner, carrier);
    carrier->ops->close(carrier);
}

/* ---- Connections. ---- */

/* The first in line looks again, at the next turn of the loop. */
static void call_waiting(struct mg_pool *p)
{
    struct mg_dial_work *w = p->waiting;

    if (!w || w->called)
        return;
    w->called = true;
    mg_timeout_set(&w->timeout, mg_clock_queue(SOON));
}

static void connection_free(struct connection *c)
{
    struct mg_pool *p = c->pool;

    p->connections--;
    if (p->h2) {
        p->connecting &= !c->work;
        call_waiting(p);
    }
    pool_drop(p);
    free(c);
}

static void serve_waiting(struct mg_pool *p);

static void on_idle(struct mg_carrier *carrier)
{
    struct connection *c = carrier->owner;

    if (c->pool->h2) {
        if (!c->idle)
            put_idle(c, carrier);
        serve_waiting(c->pool);
        return;
    }
    put_idle(c, carrier);
    while (c->pool->idle > (stopped ? 0 : c->keepalive))
        close_idle(c->pool->oldest);
}

static void on_closed(struct mg_carrier *carrier)
{
    struct connection *c = carrier->owner;

    if (c->idle)
        take_idle(c, carrier);
    connection_free(c);
}

static const struct mg_carrier_events carrier_events = { .on_idle = on_idle, .on_closed = on_closed };

/* The origin's bounds and timeouts are the connection's from now on. */
static void serve_origin(struct connection *c, const struct mg_origin *o)
{
    c->limits = o->limits;
    c->settings.limits = &c->limits;
    c->settings.times = o->times;
    c->settings.times.head = o->response;
    c->keepalive = o->keepalive;
}

static bool has_room(struct mg_carrier *carrier)
{
    return carrier->ops->room && carrier->ops->room(carrier);
}

/* A stream of a connection that has room: one that has none, or is going, leaves the list. */
static struct mg_stream *share(struct mg_pool *p, const struct mg_dial *d, const struct mg_origin *o)
{
    while (p->newest) {
        struct mg_carrier *carrier = p->newest;
        struct connection *c = carrier->owner;
        struct mg_stream *s = carrier->ops->open(carrier, d->events, d->owner);

        if (!s || !has_room(carrier))
            take_idle(c, carrier);
        if (s) {
            serve_origin(c, o);
            return s;
        }
    }
    return NULL;
}

static struct mg_stream *borrow(struct mg_pool *p, const struct mg_dial *d, const struct mg_origin *o,
                                enum mg_dial_how how)
{
    if (p->h2)
        return share(p, d, o);
    if (how == MG_DIAL_FRESH)
        return NULL;
    while (p->newest) {
        struct mg_carrier *carrier = p->newest;
        struct connection *c = carrier->owner;

        take_idle(c, carrier);
        if (how != MG_DIAL_CHECKED || !c->transport->ops->stirred(c->transport)) {
            struct mg_stream *s = carrier->ops->open(carrier, d->events, d->owner);
            if (s) {
                serve_origin(c, o);
                return s;
            }
        }
        carrier->ops->close(carrier);
    }
    return NULL;
}

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
    pool_drop(p);
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
        connection_free(w->connection);
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

static struct connection *connection_open(const struct mg_address *a, const struct mg_origin *o)
{
    struct mg_pool *pool = pool_of(a, o);
    struct connection *c = pool ? calloc(1, sizeof(*c)) : NULL;

    errno = ENOMEM;
    if (c) {
        c->pool = pool;
        c->transport = mg_transport_connect(a, &connecting_events, c);
        if (c->transport) {
            pool->connections++;
            pool->connecting = pool->h2;
            return c;
        }
    }
    int error = errno;
    free(c);
    if (pool)
        pool_drop(pool);
    errno = error;
    return NULL;
}

/* Begins to connect to the next address; false with w->text when none is left. */
static bool connect_next(struct mg_dial_work *w)
{
    while (w->at < w->count) {
        struct connection *c = connection_open(&w->addresses[w->at++], w->origin);
        if (c) {
            c->work = w;
            w->connection = c;
            return true;
        }
        w->text = text_of(errno);
    }
    return false;
}

/* The transport is ready: a carrier on it, and its first stream. */
static void carry(struct connection *c)
{
    struct mg_transport *t = c->transport;
    struct mg_dial_work *w = c->work;
    struct mg_dial *d = w->dial;
    struct mg_tls_session *session = c->pool->tls ? mg_tls_session_of(t) : NULL;

    w->connection = NULL;
    c->work = NULL;
    c->pool->connecting = false;
    serve_origin(c, w->origin);
    struct mg_carrier *carrier = d->bytes      ? mg_tcp_dialled(t, &c->settings.times, &carrier_events, c)
                                 : c->pool->h2 ? mg_h2_dialled(t, &c->settings, session, &carrier_events, c)
                                               : mg_h1_dialled(t, &c->settings, &carrier_events, c);
    if (!carrier) {
        connection_free(c);
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
    if (c->pool->h2 && has_room(carrier))
        put_idle(c, carrier);
    d->done(d, s, MG_FAIL_NONE, NULL);
    if (c->pool->h2)
        serve_waiting(c->pool);
}

/* The connection is no good; the dial goes on without it. */
static void drop_connection(struct connection *c)
{
    struct mg_transport *t = c->transport;

    c->work->connection = NULL;
    t->ops->close(t, true);
    connection_free(c);
}

/* The peer is told whom the connection is for, before anything else. A new connection takes so few bytes at once. */
static bool announce(struct connection *c)
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
    struct connection *c = t->owner;
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
    struct connection *c = t->owner;
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
    connection_free(c);
    fail(w, MG_FAIL_CONNECT, text_of(ENOMEM));
}

/* ---- Waiting for room in a connection of HTTP/2. ---- */

/* Begins to connect, or gets in line: one connection is made at a time, so that many requests at once share it. False
 * with w->text when there is nobody to connect to. */
static bool connect_or_wait(struct mg_dial_work *w)
{
    bool shared = w->origin->protocol != MG_PROTOCOL_HTTP1;
    struct mg_pool *p = shared ? pool_of(&w->addresses[w->at < w->count ? w->at : 0], w->origin) : NULL;

    if (!p)
        return connect_next(w);
    if (!p->h2 || (!p->connecting && p->connections < w->origin->connections)) {
        bool begun = connect_next(w);
        pool_drop(p);
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
        struct mg_stream *s = share(p, d, w->origin);

        if (!s)
            break;
        w->called = false;
        work_free(w);
        d->done(d, s, MG_FAIL_NONE, NULL);
    }
    if (p->waiting && !p->connecting)
        call_waiting(p);
    pool_drop(p);
}

/* First in line, and something has changed: a stream, a connection of its own, or a place at the end again. */
static void look_again(struct mg_dial_work *w)
{
    struct mg_dial *d = w->dial;
    struct mg_pool *p = w->waits_in;
    struct mg_stream *s = share(p, d, w->origin);

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
    pool_drop(p);
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
        if (a->any.sa_family == AF_INET6)
            a->ip6.sin6_port = htons(w->origin->port);
        else
            a->ip4.sin_port = htons(w->origin->port);
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
        struct mg_pool *pool = pool_of(&w->addresses[0], o);
        if (pool) {
            s = borrow(pool, d, o, how);
            pool_drop(pool);
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
    if (!o->address.len)
        return dial_name(d, o, how);
    if (!o->pool)
        o->pool = pool_of(&o->address, o);
    if (o->pool && !d->bytes) {
        struct mg_stream *s = borrow(o->pool, d, o, how);
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
    if (d->work)
        work_free(d->work);
}

void mg_origin_open(struct mg_origin *o, mg_slice host, uint16_t port)
{
    *o = (struct mg_origin){ .host = host, .port = port };
    /* What safety asks for where an upstream says nothing. */
    o->limits = (struct mg_limits){
        .max_head_size = 64 * 1024,
        .max_fields = 256,
        .max_chunk_line = 4 * 1024,
        .max_chunk_extensions = 16 * 1024,
        .max_trailer_size = 8 * 1024,
        .max_concurrent_streams = 100,
        .stream_window = 256 * 1024,
    };
    bool known = host.len > 5 && memcmp(host.ptr, "unix:", 5) == 0 ? mg_address_parse(host, &o->address)
                                                                   : mg_address_literal(host, port, &o->address);
    if (!known)
        o->address.len = 0;
}

void mg_origin_close(struct mg_origin *o)
{
    if (o->pool)
        pool_drop(o->pool);
    o->pool = NULL;
}

void mg_dial_stop(void)
{
    stopped = true;
    for (unsigned i = 0; i < BUCKETS; i++)
        for (struct mg_pool *p = buckets[i], *next; p; p = next) {
            p->refs++; /* closing its connections may be what ends it */
            while (p->oldest)
                close_idle(p->oldest);
            next = p->next;
            pool_drop(p);
        }
    while (free_works) {
        struct mg_dial_work *w = free_works;
        free_works = w->next_free;
        free(w);
    }
}

unsigned mg_dial_idle(void)
{
    return idle;
}

unsigned mg_dial_live(void)
{
    return live;
}

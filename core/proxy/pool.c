/* pool.c - the connections to one address: those that are kept, and those that are shared. */
#include "pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

enum { BUCKETS = 256 }; /* of the table of pools; a power of two */

static struct mg_pool *buckets[BUCKETS];
static unsigned idle;
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

struct mg_pool *mg_pool_find(const struct mg_address *a, const struct mg_origin *o)
{
    struct mg_pool *p = buckets[bucket_of(a)];

    while (p && !is_for(p, a, o))
        p = p->next;
    return p;
}

struct mg_pool *mg_pool_of(const struct mg_address *a, const struct mg_origin *o)
{
    struct mg_pool *p = mg_pool_find(a, o);

    if (!p) {
        p = pool_new(a, o);
        if (!p)
            return NULL;
        p->bucket = bucket_of(a);
        p->next = buckets[p->bucket];
        buckets[p->bucket] = p;
    }
    p->refs++;
    return p;
}

void mg_pool_drop(struct mg_pool *p)
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

static void put_idle(struct mg_connection *c, struct mg_carrier *carrier)
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

static void take_idle(struct mg_connection *c, struct mg_carrier *carrier)
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

struct mg_connection *mg_connection_open(const struct mg_address *a, const struct mg_origin *o,
                                         const struct mg_transport_events *connecting,
                                         const struct mg_connection_events *events)
{
    struct mg_pool *p = mg_pool_of(a, o);
    struct mg_connection *c = p ? calloc(1, sizeof(*c)) : NULL;

    errno = ENOMEM;
    if (c) {
        c->pool = p;
        c->events = events;
        c->epoch = p->epoch;
        c->transport = mg_transport_connect(a, connecting, c);
        if (c->transport) {
            p->connections++;
            p->connecting = p->h2;
            return c;
        }
    }
    int error = errno;
    free(c);
    if (p)
        mg_pool_drop(p);
    errno = error;
    return NULL;
}

void mg_connection_free(struct mg_connection *c)
{
    struct mg_pool *p = c->pool;

    p->connections--;
    if (p->h2) {
        p->connecting &= !c->work;
        c->events->on_gone(p);
    }
    mg_pool_drop(p);
    free(c);
}

/* It is drained; one that carries several streams ends with the last of them. */
static void part_with(struct mg_connection *c, struct mg_carrier *carrier)
{
    if (c->idle)
        take_idle(c, carrier);
    if (carrier->ops->room)
        carrier->ops->drain(carrier);
    else
        carrier->ops->close(carrier);
}

void mg_pool_drain(struct mg_pool *p)
{
    p->epoch++;
    while (p->oldest)
        part_with(p->oldest->owner, p->oldest);
}

static void on_idle(struct mg_carrier *carrier)
{
    struct mg_connection *c = carrier->owner;

    if (c->epoch != c->pool->epoch) {
        part_with(c, carrier);
        return;
    }
    if (c->pool->h2) {
        if (!c->idle)
            put_idle(c, carrier);
        c->events->on_room(c->pool);
        return;
    }
    put_idle(c, carrier);
    while (c->pool->idle > (stopped ? 0 : c->keepalive))
        close_idle(c->pool->oldest);
}

static void on_closed(struct mg_carrier *carrier)
{
    struct mg_connection *c = carrier->owner;

    if (c->idle)
        take_idle(c, carrier);
    mg_connection_free(c);
}

const struct mg_carrier_events mg_connection_carrier_events = { .on_idle = on_idle, .on_closed = on_closed };

void mg_connection_serve(struct mg_connection *c, const struct mg_origin *o)
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
        struct mg_connection *c = carrier->owner;
        struct mg_stream *s = carrier->ops->open(carrier, d->events, d->owner);

        if (!s || !has_room(carrier))
            take_idle(c, carrier);
        if (s) {
            mg_connection_serve(c, o);
            return s;
        }
    }
    return NULL;
}

struct mg_stream *mg_pool_borrow(struct mg_pool *p, const struct mg_dial *d, const struct mg_origin *o,
                                 enum mg_dial_how how)
{
    if (p->h2)
        return share(p, d, o);
    if (how == MG_DIAL_FRESH)
        return NULL;
    while (p->newest) {
        struct mg_carrier *carrier = p->newest;
        struct mg_connection *c = carrier->owner;

        take_idle(c, carrier);
        if (how != MG_DIAL_CHECKED || !c->transport->ops->stirred(c->transport)) {
            struct mg_stream *s = carrier->ops->open(carrier, d->events, d->owner);
            if (s) {
                mg_connection_serve(c, o);
                return s;
            }
        }
        carrier->ops->close(carrier);
    }
    return NULL;
}

void mg_connection_share(struct mg_connection *c, struct mg_carrier *carrier)
{
    if (c->pool->h2 && has_room(carrier))
        put_idle(c, carrier);
}

/* ---- All of them. ---- */

void mg_pool_stop(void)
{
    stopped = true;
    for (unsigned i = 0; i < BUCKETS; i++)
        for (struct mg_pool *p = buckets[i], *next; p; p = next) {
            p->refs++; /* closing its connections may be what ends it */
            while (p->oldest)
                close_idle(p->oldest);
            next = p->next;
            mg_pool_drop(p);
        }
}

unsigned mg_pool_idle(void)
{
    return idle;
}

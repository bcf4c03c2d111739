/* pool.h - the connections to one address: those that are kept, and those that are shared.
 *
 * A connection is one struct from its first packet on: first it belongs to the
 * dial that makes it (dial.h), then to its carrier, whose `owner` it is. Idle
 * ones lie in a stack: the newest is used first, cold ones time out; one with
 * unread or unexpected bytes is never kept. One of HTTP/2 lies there while it
 * has room for another stream. */
#pragma once

#include "dial.h"
#include "h1.h"
#include "tls.h"

struct mg_pool {
    struct mg_pool *next;                        /* in its bucket */
    struct mg_carrier *newest, *oldest;          /* idle connections; `next` is the older one */
    struct mg_dial_work *waiting, *last_waiting; /* dial.c's, of HTTP/2: for room in a connection */
    unsigned idle, refs, bucket;
    unsigned connections; /* open, and those that connect */
    unsigned epoch;       /* counts when it was drained: older connections are not kept */
    enum mg_protocol protocol;
    bool h2; /* it speaks HTTP/2, as far as is known: connections are shared */
    bool connecting;
    uint8_t proxy_protocol;
    struct mg_tls *tls; /* held; NULL: clear text */
    struct mg_tls_memory memory;
    struct mg_address address;
    mg_slice name; /* with TLS: whom the certificate must be of */
};

/* Of a pool of HTTP/2. */
struct mg_connection_events {
    void (*on_room)(struct mg_pool *p); /* a connection has room for a stream */
    void (*on_gone)(struct mg_pool *p); /* there is one connection less */
};

struct mg_connection {
    struct mg_pool *pool;      /* held */
    struct mg_dial_work *work; /* dial.c's, while it connects */
    struct mg_transport *transport;
    const struct mg_connection_events *events;
    struct mg_h1_settings settings; /* of the origin that used it last; */
    struct mg_limits limits;        /* copies, since it may outlive that one */
    unsigned keepalive;
    unsigned epoch; /* of its pool, when it was opened */
    bool idle;
};

/* The pool of the connections to a: those between which nothing differs that the origin settles. With a reference for
 * the caller; NULL without memory. */
struct mg_pool *mg_pool_of(const struct mg_address *a, const struct mg_origin *o);
void mg_pool_drop(struct mg_pool *p);
/* The same if there is one, without a reference; or NULL. */
struct mg_pool *mg_pool_find(const struct mg_address *a, const struct mg_origin *o);
/* What is idle is closed, and what is at work when it is idle. */
void mg_pool_drain(struct mg_pool *p);
/* A stream at once, of a connection that is kept or shared, or NULL. */
struct mg_stream *mg_pool_borrow(struct mg_pool *p, const struct mg_dial *d, const struct mg_origin *o,
                                 enum mg_dial_how how);

/* Begins to connect: `connecting` is told, with the connection as the transport's owner. NULL with errno. */
struct mg_connection *mg_connection_open(const struct mg_address *a, const struct mg_origin *o,
                                         const struct mg_transport_events *connecting,
                                         const struct mg_connection_events *events);
/* Its transport or carrier has gone already. */
void mg_connection_free(struct mg_connection *c);
/* The origin's bounds and timeouts are the connection's from now on. */
void mg_connection_serve(struct mg_connection *c, const struct mg_origin *o);
/* What its carrier tells, with the connection as owner. */
extern const struct mg_carrier_events mg_connection_carrier_events;
/* Its carrier is up. If it has room for more streams than its first one, others may have them. */
void mg_connection_share(struct mg_connection *c, struct mg_carrier *carrier);

/* Closes what is idle; nothing is kept any more. */
void mg_pool_stop(void);
unsigned mg_pool_idle(void); /* kept connections */

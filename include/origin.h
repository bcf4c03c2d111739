/* origin.h - where a server is and how to speak to it: what dial.c dials. */
#pragma once

#include "address.h"
#include "times.h"

struct mg_pool;
struct mg_tls;

enum mg_protocol {
    MG_PROTOCOL_HTTP1,
    MG_PROTOCOL_HTTP2, /* connections are shared */
    MG_PROTOCOL_ALPN,  /* one of the two, as the handshake says */
};

struct mg_origin {
    mg_slice host; /* a name or an address, without the port */
    uint16_t port;
    struct mg_address address;       /* len 0: host is a name, to be resolved at each dial */
    struct mg_limits limits;         /* what its responses may be */
    struct mg_times times;           /* idle: how long a kept connection may lie */
    struct mg_clock_queue *connect;  /* the connect timeout */
    struct mg_clock_queue *response; /* until the response's head */
    unsigned keepalive;              /* idle connections kept a worker */
    uint8_t proxy_protocol;          /* the version of the header that each connection begins with; 0: none */
    enum mg_protocol protocol;
    struct mg_tls *tls;   /* NULL: clear text; whoever filled it in holds it */
    unsigned connections; /* of HTTP/2 a worker */
    unsigned turn;        /* which of a name's addresses comes next */
    struct mg_pool *pool; /* of the address, once known; pool.c's */
};

/* Fills in an origin for a name, an address, or "unix:/path" (port 0), with safe limits and without timeouts; host is
 * kept, not copied. */
void mg_origin_open(struct mg_origin *o, mg_slice host, uint16_t port);
/* Lets go of its pool. */
void mg_origin_close(struct mg_origin *o);
/* Its port, in an address of its name. */
void mg_origin_put_port(const struct mg_origin *o, struct mg_address *a);

/* Nobody shall go there any more: this worker's connections there are closed, those at work when their exchanges have
 * ended. Of a name, those to the addresses that it has now. Whoever goes there by another origin connects anew. */
void mg_origin_drain(const struct mg_origin *o);
/* It may have connections there from before, by another origin: now they are its own, too. */
void mg_origin_adopt(struct mg_origin *o);
/* As mg_origin_close(); if no other origin has its connections, they are closed as by mg_origin_drain(). */
void mg_origin_leave(struct mg_origin *o);

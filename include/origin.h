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

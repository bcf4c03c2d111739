/* exchange.h - one request and its response on their way through the proxy.
 *
 * An exchange joins two streams: the client's and the origin's. It moves from
 * step to step in the order of enum mg_step; exchange.c has one function for
 * each. Events only record facts and ask for another turn.
 *
 * Up to three hands hold an exchange: the engine, the client's stream, and the
 * scripts. It is freed when the last of them lets go, and never inside a
 * callback: the loop reaps it before it sleeps.
 */
#pragma once

#include "dial.h"
#include "generation.h"
#include "relay.h"

enum mg_hand { MG_HELD_ENGINE = 1, MG_HELD_CLIENT = 2 };

struct mg_attempt {
    struct mg_dial dial;
    struct mg_stream *stream; /* to the origin; NULL before, and after its end */
    struct mg_peer *peer;     /* counted as in flight while not NULL */
    struct mg_message head;   /* this try's copy of the request */
    double began;
    enum mg_failure failure;
    const char *text;        /* the failure in words */
    struct mg_peer *picked;  /* chosen for the next try */
    struct mg_timeout total; /* the whole attempt's */
    double latency;          /* to the response's head */
    bool sent, answered;     /* the request's head went out; a response's head came */
    bool reused, stale;      /* over a connection that had served before; which was closed meanwhile */
    bool fresh;              /* no kept connection any more */
    bool refused;            /* the peer has not begun with it: safe to send again */
    bool bad;                /* the answer's status counts as a failure of the peer */
};

/* Of a request that pauses between its tries, or whose upstream bounds the time of them all. */
struct mg_series {
    struct mg_exchange *exchange;
    struct mg_timeout total; /* of all tries */
    double ends;             /* when it is over; 0: never */
    bool over;               /* it is */
    bool resting;            /* between two tries: what is left of the last one is gone */
    struct mg_alarm *pause;  /* until then */
};

struct mg_exchange {
    mg_view view; /* first: the seam casts between the two */
    unsigned magic;
    uint8_t held;                  /* enum mg_hand bits */
    bool running, again;           /* the engine is on the stack; run once more */
    bool answered;                 /* view.response stands and may be sent */
    bool producing;                /* its body comes from a Lua function */
    bool forwarding;               /* a fiber in HANDLE waits for the response */
    bool hook_failed;              /* a hook in HANDLE threw: the page that says so meets the response hooks */
    bool failed;                   /* the proxy must answer with error_status */
    bool broken;                   /* the request's body will never be whole */
    bool prepared;                 /* the peer's response is ready for policies and the client */
    bool scripted;                 /* Lua knows it: it must hear of its end */
    bool touched;                  /* on the list of mg_exchange_touch */
    bool continued;                /* 100 Continue went to the client, or was not asked for */
    bool retry_known, retry_again; /* what a retry hook said */
    bool bytes;                    /* of a TCP route: no messages, bytes alone */
    bool queued;                   /* waits for a peer below max_connections */
    bool logged;
    bool mirrored;         /* or not: it was decided */
    bool mirror_chosen;    /* it shall be, not by chance */
    bool threw;            /* one of its hooks has */
    uint32_t at_work;      /* 1 << mg_phase of hooks that wait */
    uint32_t entered;      /* 1 << mg_phase of hooks that have begun */
    unsigned error_status; /* what the proxy itself answers, with error_text */
    struct mg_task task;
    struct mg_arena *arena;
    struct mg_generation *generation;
    struct mg_route *route;
    const struct mg_limits *limits; /* the route's own, or the listener's */
    struct mg_stream *client;       /* NULL after its end */
    struct mg_tls_session *tls;     /* the client's; held, since it may leave first */
    struct mg_message request, response;
    struct mg_flow in, out; /* the request's body, the response's */
    struct mg_attempt attempt;
    struct mg_series *series; /* in the arena; NULL: not needed so far */
    struct mg_hedge *hedge;   /* in the arena; NULL: none was asked for so far */
    struct mg_tried tried;
    struct mg_wait forward;     /* the fiber's ticket */
    struct mg_timeout patience; /* in the queue */
    struct mg_exchange *next;   /* in the queue, or among the dead */
    struct mg_exchange *next_touched;
    double began; /* mg_clock_now() */
    uint64_t id;
    uint64_t trace[2];   /* of a distributed trace (W3C Trace Context); 0: it has none */
    mg_slice error_text; /* why the proxy answers itself */
    mg_slice allow;      /* with 405 */
    mg_slice protocol;   /* of Upgrade, if the client asks for one and may have it */
    double queue_until;
    struct mg_permit *permits;      /* what it is counted under */
    struct mg_cache_use *cached;    /* in the arena; NULL: it has not met a cache */
    struct mg_upstream *counted_in; /* in the queue: whose breaker counts it */
};

#define MG_EXCHANGE_OF(view_pointer) ((struct mg_exchange *)(view_pointer))

/* A request has come in on s: an exchange in the generation in force. `limits` are its listener's. */
void mg_exchange_open(struct mg_stream *s, const struct mg_message *request, bool last, const struct mg_limits *limits);

/* A connection of a TCP route: an exchange that begins at BALANCE. s has no owner yet. */
void mg_exchange_open_tcp(struct mg_stream *s, const struct mg_tcp_destination *to, const struct mg_limits *limits);

/* Once a process, before the first exchange. */
void mg_exchange_start(void);

/* The process ends: WebSockets whose messages have hooks are closed with 1001, these and those to come. Other tunnels
 * end by themselves. */
void mg_exchange_drain(void);

/* For the seam. */
enum mg_status mg_exchange_answer(struct mg_exchange *x, unsigned status);
int mg_exchange_forward(struct mg_exchange *x);
/* How long the request's body may be, 0: no bound. False: it is longer already, or says that it will be. */
bool mg_exchange_bound_body(struct mg_exchange *x, uint64_t most);
/* Somebody wants the request's body: tells a client that waits for 100 Continue. */
void mg_exchange_wants_body(struct mg_exchange *x);

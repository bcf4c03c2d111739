/* stream.h - one message each way, over some protocol.
 *
 * A proxy is two streams and the exchange between them: the client's stream
 * brings a request and takes a response, the origin's stream takes a request
 * and brings a response. HTTP/1.1 and HTTP/2 each fill in one mg_stream_ops,
 * used on both sides; nobody above this header knows which one it talks to.
 *
 * Calls go down through ops and return at once; they never call back before
 * they return. News comes up through events. A stream ends with exactly one
 * on_end; after it the owner must not touch it.
 */
#pragma once

#include "holder.h"

#include "address.h"
#include "block.h"
#include "message.h"
#include "times.h"

struct mg_carrier;
struct mg_stream;
struct mg_tls_session;
struct mg_transport;

enum mg_why {
    MG_WHY_COMPLETE, /* both messages went through whole */
    MG_WHY_REFUSED,  /* not begun: safe to try elsewhere */
    MG_WHY_STALE,    /* a kept connection ended before any byte of an answer */
    MG_WHY_CUT,      /* the peer went away in the middle */
    MG_WHY_TIMEOUT,
    MG_WHY_MALFORMED, /* the peer broke the protocol */
    MG_WHY_TOO_LARGE, /* the peer went over a limit */
    MG_WHY_CANCELLED, /* our own side reset it */
};

struct mg_stream_ops {
    const char *name; /* for logs: "h1", "h2" */

    /* The client's side sends a response, the origin's side a request. With `last` there is no body.
     * Framing fields are the codec's own: Content-Length in m is used, without it the body is chunked
     * (or ends with the connection, for an HTTP/1.0 client). The message is not kept. */
    void (*send_head)(struct mg_stream *s, const struct mg_message *m, bool last);
    void (*send_interim)(struct mg_stream *s, const struct mg_message *m); /* 1xx; client's side */
    /* Takes the chain's blocks; the caller's chain is empty afterwards. */
    void (*send_body)(struct mg_stream *s, struct mg_chain *body, bool last);
    void (*send_trailers)(struct mg_stream *s, const struct mg_message *m); /* ends the message */

    void (*want)(struct mg_stream *s, bool more); /* back-pressure: read on, or stop */
    /* No on_end follows: the owner has let go. What the other side has got stays visibly incomplete. */
    void (*reset)(struct mg_stream *s, enum mg_why why);
};

struct mg_stream_events {
    void (*on_interim)(struct mg_stream *s, const struct mg_message *m);         /* 1xx but 101; origin's side */
    void (*on_head)(struct mg_stream *s, const struct mg_message *m, bool last); /* the response's; keep it now */
    /* Takes the chain's blocks, or leaves them: the codec clears what is left. With `last` the message is whole. */
    void (*on_body)(struct mg_stream *s, struct mg_chain *body, bool last);
    void (*on_trailers)(struct mg_stream *s, const struct mg_message *m); /* ends the message */
    void (*on_room)(struct mg_stream *s);                                 /* queued fell below its low mark */
    /* The client's side: the request's body will never be whole (MALFORMED, TIMEOUT, TOO_LARGE). The stream still takes
     * an
     * answer, after which its connection closes. */
    void (*on_broken)(struct mg_stream *s, enum mg_why why, const char *text);
    void (*on_end)(struct mg_stream *s, enum mg_why why);
};

/* Above the high mark a sender should stop its source until on_room. */
enum { MG_STREAM_HIGH = 1024 * 1024, MG_STREAM_LOW = 256 * 1024 };

struct mg_stream {
    unsigned magic;
    const struct mg_stream_ops *ops;
    const struct mg_stream_events *events;
    void *owner;                     /* the exchange (or fetch), for its events */
    size_t queued;                   /* bytes taken and not yet given to the kernel */
    bool tunnel;                     /* both messages are plain bytes from here on */
    bool reused;                     /* origin's side: over a connection that has served before */
    bool final;                      /* client's side, set by the owner: nothing after this may be served */
    bool relaying;                   /* client's side, set by the owner: the request's body is still wanted, even after
                                         * the response is whole; want() makes the codec look again */
    const struct mg_times *times;    /* how long a head, a piece of body, a blocked send may take */
    const char *problem;             /* with MALFORMED, CUT or TIMEOUT: more about it in words, or NULL */
    const struct mg_peer_info *info; /* the connection's two ends, for logs */
};

/* What is known of a connection from a client. Small: every idle connection holds one. */
struct mg_peer_info {
    struct mg_endpoint client, local;
    struct mg_tls_session *tls; /* the transport's; NULL in clear text */
    bool trusted;               /* its forwarding fields are believed */
};

/* A connection that carries streams: an h1 or h2 codec over a transport. */
struct mg_carrier_events {
    /* The client's side: a request's head was read. The receiver sets s->owner and s->events before it returns. A
     * request that the codec refused comes with request->status set; the codec closes after the answer. */
    void (*on_stream)(struct mg_carrier *c, struct mg_stream *s, const struct mg_message *request, bool last);
    /* The client's side, if it is set: the first bytes are HTTP/2's connection preface (RFC 9113 3.4). Takes t over; of
     * `begun`, which was read from it, a copy. on_closed follows. */
    void (*on_preface)(struct mg_carrier *c, struct mg_transport *t, mg_slice begun);
    /* The origin's side: open() may be called (again). */
    void (*on_idle)(struct mg_carrier *c);
    /* It is freed after this returns; all its streams have ended before. */
    void (*on_closed)(struct mg_carrier *c);
};

struct mg_carrier_ops {
    /* The origin's side, when idle: a stream for one exchange. NULL without memory. */
    struct mg_stream *(*open)(struct mg_carrier *c, const struct mg_stream_events *events, void *owner);
    /* No new streams; closes when those that are open have ended. */
    void (*drain)(struct mg_carrier *c);
    /* At once. Streams get on_end(MG_WHY_CUT). */
    void (*close)(struct mg_carrier *c);
    /* The origin's side: how many more streams it may open now. NULL: it carries one at a time. */
    unsigned (*room)(struct mg_carrier *c);
};

struct mg_carrier {
    unsigned magic;
    const struct mg_carrier_ops *ops;
    const struct mg_carrier_events *events;
    void *owner;
    struct mg_carrier *next, *previous; /* the owner's list */
    struct mg_carrier *next_dirty;      /* the codec's: to be flushed */
    struct mg_peer_info info;
    bool dirty, doomed, abort; /* doomed: freed by the flush; abort: with a reset */
};

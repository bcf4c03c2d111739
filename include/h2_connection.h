/* h2_connection.h - an HTTP/2 connection as the codec's files share it; nobody else includes this.
 *
 * h2_head.c makes messages of decoded fields and back; h2_stream.c keeps a
 * stream's life; h2_send.c feeds nghttp2 with bodies and takes its frames;
 * h2_write.c holds the operations of a stream; h2_read.c hands up what nghttp2
 * has read; h2.c keeps the connection's life, reads and flushes. */
#pragma once

#include <nghttp2/nghttp2.h>

#include "carrier.h"
#include "h2.h"

struct mg_h2_stream {
    struct mg_stream stream; /* first: its owner sees only this */
    struct mg_h2 *connection;
    struct mg_h2_stream *next, *previous; /* all of the connection */
    struct mg_h2_stream *next_due;        /* to be looked at by the flush */
    struct mg_timeout timer;
    struct mg_chain in;         /* has arrived, and was not handed up */
    struct mg_chain out;        /* to be sent, when windows allow it */
    struct mg_arena *arena;     /* where trailers wait for their turn */
    struct mg_message trailers; /* ours, behind the body */
    struct mg_message trailed;  /* theirs, behind what lies in `in` */
    uint64_t out_left;          /* with has_length: body bytes still owed */
    size_t unconsumed;          /* handed up, but the owner has said stop: window that is not given back yet */
    int32_t id;                 /* 0 before a request of ours is sent */
    uint16_t refused;           /* the status that answers its head */
    const char *refusal;        /* and why */
    uint8_t interims;
    bool open;              /* its owner listens */
    bool closed;            /* nghttp2 knows it no more */
    bool due;               /* on the connection's list of those that are due */
    bool head_in, in_ended; /* the other end's head, and its last frame, have come */
    bool in_whole;          /* the owner knows the end, or that there will be none */
    bool has_trailers, has_trailed;
    bool head_out, out_whole; /* our head, and all of our message, were given to us */
    bool out_sent;            /* our last frame is out */
    bool has_length, bodiless;
    bool wanting;              /* the owner takes body */
    bool broken;               /* the request's body will never be whole */
    bool failed;               /* our own message can't be whole: the owner is to be told */
    bool deferred;             /* nghttp2 waits to be told of more body */
    bool crowded;              /* queued was above the high mark: on_room is owed */
    bool cutting;              /* ends behind what is queued, visibly incomplete */
    bool head_method, connect; /* the request's method */
    bool tunnels;              /* CONNECT, or a WebSocket's (RFC 8441): a 2xx makes plain bytes of both sides */
    bool websocket;
    char *accept;     /* dialled, of a WebSocket: the answer to its key */
    nghttp2_nv *held; /* its head, until the origin's SETTINGS have come; in `arena` */
    size_t held_count;
};

/* Counts what costs a peer nothing, in spans of ten seconds. */
struct mg_h2_count {
    double since;
    uint32_t count;
};

struct mg_h2 {
    struct mg_carrier carrier; /* first: the owner sees only this */
    struct mg_transport *transport;
    const struct mg_h1_settings *settings;
    nghttp2_session *session;
    struct mg_h2_stream *streams, *due;
    struct mg_timeout timer;  /* what is being waited for: patience() in h2.c */
    struct mg_block *in;      /* bytes in_at.. are being read */
    struct mg_block *scratch; /* frame heads of ours are put here */
    struct mg_chain out;
    struct mg_block *head; /* fields of the head that is being read: h2_head.c */
    struct mg_message message;
    uint32_t head_at, head_size;
    struct mg_h2_count resets, controls;
    int32_t last_reset;             /* the highest stream that was reset, by whom ever */
    unsigned open, served, watched; /* streams with an owner; all so far; at the last look at the timer */
    uint8_t busy;                   /* calls of ours on the stack */
    bool client_side;               /* we serve; otherwise we dialled */
    bool heading;                   /* a head has begun and is not whole */
    bool large;                     /* reads fill small blocks: use large ones */
    bool blocked;                   /* the transport takes no more now */
    bool moved;                     /* it took some since the last look at the timer */
    bool lingering;                 /* all is said: only waits for the other end to close */
    bool draining, told;            /* no more streams; and their last one was named */
    bool freed;                     /* a stream has ended: others may be opened */
    bool introduced;                /* the other end's SETTINGS have come */
    const char *calm;               /* the bound that the peer went over, or NULL */
};

/* ---- h2_head.c ---- */

void mg_h2_head_begin(struct mg_h2 *h);
void mg_h2_head_end(struct mg_h2 *h);
/* One decoded field. False when there is no memory; a head that is over a limit is remembered in s. */
bool mg_h2_head_field(struct mg_h2 *h, struct mg_h2_stream *s, mg_slice name, mg_slice value);
/* The whole head, in h->message. For a request s->refused may be set. */
void mg_h2_head_request(struct mg_h2 *h, struct mg_h2_stream *s);
void mg_h2_head_trailers(struct mg_h2 *h);
/* The 2xx in h->message as HTTP/1.1 tells a client that its WebSocket stands. False without memory. */
bool mg_h2_head_agreed(struct mg_h2 *h, const struct mg_h2_stream *s);
/* Our messages as nghttp2 takes them: how many of *out, which the next call uses again. */
size_t mg_h2_head_of_response(const struct mg_message *m, unsigned status, nghttp2_nv **out);
size_t mg_h2_head_of_request(const struct mg_message *m, bool tls, bool websocket, nghttp2_nv **out);
size_t mg_h2_head_of_trailers(const struct mg_message *m, nghttp2_nv **out);

/* ---- h2_stream.c ---- */

enum { MG_H2_STREAM_MAGIC = 0x6d673273 };

/* A stream of the connection, all zero but for what is the same in all; NULL without memory. */
struct mg_h2_stream *mg_h2_stream_new(struct mg_h2 *h, const struct mg_stream_ops *ops);
/* Nobody listens, nghttp2 knows it no more, and it is not due. */
void mg_h2_stream_free(struct mg_h2_stream *s);
/* Frees what is kept for reuse. */
void mg_h2_streams_trim(void);
void mg_h2_stream_open(struct mg_h2_stream *s, const struct mg_stream_events *events, void *owner);
/* The owner listens no more; it is not told. */
void mg_h2_stream_let_go(struct mg_h2_stream *s);
/* The owner is told, and listens no more. */
void mg_h2_stream_end(struct mg_h2_stream *s, enum mg_why why);
void mg_h2_stream_reset(struct mg_h2_stream *s, uint32_t code);
/* A reset of this stream went out or came in: what is on its way to it yet is no fault. */
void mg_h2_note_reset(struct mg_h2 *h, int32_t id);
/* The flush is to look at it. */
void mg_h2_stream_touch(struct mg_h2_stream *s);
/* Its timeout for what it waits for now. */
void mg_h2_stream_watch(struct mg_h2_stream *s);

extern struct mg_carriers mg_h2_carriers;
void mg_h2_mark(struct mg_h2 *h);
void mg_h2_doom(struct mg_h2 *h, bool abort);

/* ---- h2_send.c ---- */

/* Asks nghttp2 for frames until it has none or enough waits for the transport. False when the session is broken. */
bool mg_h2_fill(struct mg_h2 *h);
/* nghttp2's, for what is sent. */
ssize_t mg_h2_on_body(nghttp2_session *session, int32_t id, uint8_t *to, size_t cap, uint32_t *flags,
                      nghttp2_data_source *source, void *user);
ssize_t mg_h2_on_send(nghttp2_session *session, const uint8_t *data, size_t len, int flags, void *user);
int mg_h2_on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t len,
                       nghttp2_data_source *source, void *user);
int mg_h2_on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user);

/* ---- h2_write.c ---- */

extern const struct mg_stream_ops mg_h2_serving_ops, mg_h2_dialled_ops;
/* The origin's SETTINGS have come: heads that were held go out, or can't. */
void mg_h2_introduced(struct mg_h2 *h);

/* ---- h2_read.c ---- */

/* One for all connections, made when first asked for; NULL without memory. Gone after mg_h2_callbacks_free(). */
const nghttp2_session_callbacks *mg_h2_callbacks(void);
void mg_h2_callbacks_free(void);
/* Looks at the streams that are due: hands up what waits in them, tells of room, frees what is over. */
void mg_h2_look(struct mg_h2 *h);
/* The second step of a graceful end: the last stream that is served is named (RFC 9113 6.8). */
void mg_h2_name_last(struct mg_h2 *h);

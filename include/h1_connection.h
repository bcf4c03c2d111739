/* h1_connection.h - an HTTP/1.1 connection as the codec's two files share it; nobody else includes this.
 *
 * h1_write.c puts messages into the out chain; h1.c reads, keeps the
 * connection's life, and gives the chain to the transport. */
#pragma once

#include "h1.h"

struct mg_h1 {
    struct mg_carrier carrier;          /* first: the owner sees only this */
    struct mg_stream stream;            /* the one in progress, while open */
    struct mg_transport *transport;
    const struct mg_h1_settings *settings;
    struct mg_timeout timer;            /* what is being waited for: patience() in h1.c */
    struct mg_h1 *next_dirty;
    struct mg_block *in;                /* bytes in_at..in_end are not read yet */
    uint32_t in_at, in_end;
    uint32_t scanned;                   /* of a head that is not whole: bytes looked at */
    uint32_t served;
    struct mg_framing incoming;
    struct mg_chain out;
    uint64_t out_left;                  /* LENGTH: body bytes still owed */
    uint8_t out_kind;                   /* enum mg_body_kind */
    uint8_t interims;                   /* 1xx before this response's head */
    uint8_t busy;                       /* calls of ours on the stack */
    bool client_side;                   /* we serve; otherwise we dialled */
    bool open;                          /* stream is in progress */
    bool keep;                          /* the connection may serve again */
    bool old;                           /* the other end speaks HTTP/1.0 */
    bool head_method, connect_method;   /* the request's method is HEAD, CONNECT */
    bool upgrade;                       /* the request asked for another protocol */
    bool expects;                       /* the client waits for 100 Continue */
    bool head_in;                       /* origin's side: the response's head was read */
    bool head_out, out_whole;           /* our message's head, and all of it, are in the chain */
    bool out_broken;                    /* origin's side: writing failed; what it says may still be read */
    bool wanting;                       /* the owner takes body */
    bool large;                         /* reads fill small blocks: use large ones */
    bool blocked;                       /* the transport takes no more now */
    bool crowded;                       /* queued was above the high mark: on_room is owed */
    bool eof;                           /* the other end has ended its side */
    bool lingering;                     /* all is said: only waits for the other end to close */
    bool cutting;                       /* the response stays cut: what is queued goes out, then the end */
    bool discarding;                    /* what is left of a request's body goes to nobody */
    bool draining;
    bool dirty, doomed, abort;
    uint32_t discarded;
};

extern const struct mg_stream_ops mg_h1_serving_ops, mg_h1_dialled_ops;

/* Puts h on the list that mg_h1_flush() walks; and takes the next one off it, NULL at the end. */
void mg_h1_mark(struct mg_h1 *h);
struct mg_h1 *mg_h1_next_dirty(void);
/* The stream begins, and is over for the codec: its owner has let go, or is told next. */
void mg_h1_stream_open(struct mg_h1 *h);
void mg_h1_stream_close(struct mg_h1 *h);
/* The connection ends at the next flush, without another word; with `abort` by a reset. */
void mg_h1_doom(struct mg_h1 *h, bool abort);

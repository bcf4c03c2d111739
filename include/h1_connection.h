/* h1_connection.h - an HTTP/1.1 connection as the codec's three files share it; nobody else includes this.
 *
 * h1_write.c puts messages into the out chain; h1_read.c takes apart what lies
 * in `in`; h1.c keeps the connection's life, reads and flushes. */
#pragma once

#include "carrier.h"
#include "h1.h"

struct mg_h1 {
    struct mg_carrier carrier; /* first: the owner sees only this */
    struct mg_stream stream;   /* the one in progress, while open */
    struct mg_transport *transport;
    const struct mg_h1_settings *settings;
    struct mg_timeout timer; /* what is being waited for: patience() in h1.c */
    struct mg_block *in;     /* bytes in_at..in_end are not read yet */
    uint32_t in_at, in_end;
    uint32_t scanned; /* of a head that is not whole: bytes looked at */
    uint32_t served;
    struct mg_framing incoming;
    struct mg_chain out;
    uint64_t out_left;                /* LENGTH: body bytes still owed */
    uint8_t out_kind;                 /* enum mg_body_kind */
    uint8_t interims;                 /* 1xx before this response's head */
    uint8_t busy;                     /* calls of ours on the stack */
    bool client_side;                 /* we serve; otherwise we dialled */
    bool open;                        /* stream is in progress */
    bool keep;                        /* the connection may serve again */
    bool old;                         /* the other end speaks HTTP/1.0 */
    bool head_method, connect_method; /* the request's method is HEAD, CONNECT */
    bool upgrade;                     /* the request asked for another protocol */
    bool expects;                     /* the client waits for 100 Continue */
    bool head_in;                     /* origin's side: the response's head was read */
    bool head_out, out_whole;         /* our message's head, and all of it, are in the chain */
    bool out_broken;                  /* origin's side: writing failed; what it says may still be read */
    bool wanting;                     /* the owner takes body */
    bool large;                       /* reads fill small blocks: use large ones */
    bool blocked;                     /* the transport takes no more now */
    bool crowded;                     /* queued was above the high mark: on_room is owed */
    bool eof;                         /* the other end has ended its side */
    bool lingering;                   /* all is said: only waits for the other end to close */
    bool cutting;                     /* the response stays cut: what is queued goes out, then the end */
    bool discarding;                  /* what is left of a request's body goes to nobody */
    bool draining;
    uint32_t discarded;
};

extern const struct mg_stream_ops mg_h1_serving_ops, mg_h1_dialled_ops;

/* Puts h on the list that mg_h1_flush() walks; and takes the next one off it, NULL at the end. */
extern struct mg_carriers mg_h1_carriers;
void mg_h1_mark(struct mg_h1 *h);
/* The stream begins, and is over for the codec: its owner has let go, or is told next. */
void mg_h1_stream_open(struct mg_h1 *h);
void mg_h1_stream_close(struct mg_h1 *h);
/* The connection ends at the next flush, without another word; with `abort` by a reset. */
void mg_h1_doom(struct mg_h1 *h, bool abort);

/* ---- h1_read.c ---- */

/* One read of the transport, and what follows from it. True if it filled its block, so that there may be more. */
bool mg_h1_read_once(struct mg_h1 *h);
/* May more bytes be read into `in`? Pipelined requests wait in one block. */
bool mg_h1_may_read(const struct mg_h1 *h);
/* Hands up what lies in `in`. */
void mg_h1_read_on(struct mg_h1 *h);
void mg_h1_drop_input(struct mg_h1 *h);

/* The bytes are no request, or came too late: one answer, and the end. */
void mg_h1_refuse(struct mg_h1 *h, unsigned status, const char *why);
/* The request's body will never be whole: one answer, and the end. */
void mg_h1_break_request(struct mg_h1 *h, enum mg_why why, const char *text);
/* The origin's side: the response is whole. Ends the stream once the request is out, too; the connection is kept if
 * nothing is in doubt. */
void mg_h1_finish_response(struct mg_h1 *h);

/* Tells the stream's owner, if there is one; and the connection ends as well. */
void mg_h1_end_stream(struct mg_h1 *h, enum mg_why why);
void mg_h1_end(struct mg_h1 *h, enum mg_why why, bool abort);

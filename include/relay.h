/* relay.h - a message's body on its way: from a stream, through Lua if it is wanted, to the other.
 *
 * Blocks are passed on, never copied. A side that can't take more stops the
 * other (want(false)) until its on_room. A flow whose taker is not known yet
 * (or never will be) holds what has arrived, up to the high mark.
 */
#pragma once

#include "messages.h"
#include "stream.h"
#include "task.h"

struct mg_flow {
    mg_view *view;
    enum mg_phase phase;          /* MG_PHASE_REQUEST_BODY or MG_PHASE_RESPONSE_BODY; with messages, theirs */
    struct mg_stream *from;       /* who sends; NULL: Lua, or nobody any more */
    struct mg_stream *to;         /* who takes; NULL: not known yet */
    struct mg_chain held;         /* arrived, not passed on */
    struct mg_chain piece;        /* what Lua has before it */
    struct mg_chain taken;        /* what Lua read last: its slice points here */
    struct mg_chain kept;         /* what was passed on, as long as it is little: for another try */
    struct mg_message *trailers;  /* arrived with the end */
    struct mg_messages *messages; /* of a WebSocket, if Lua sees them; otherwise NULL */
    uint64_t arrived, sent;       /* bytes, in all; sent: given to the taker */
    uint64_t most;                /* arrived may not exceed it; 0: no bound */
    uint64_t keep;                /* bytes that may be kept */
    uint64_t collect;             /* bytes that mg_body_collect allows; only while collecting */
    struct mg_wait reader;        /* mg_body_read, mg_body_collect */
    struct mg_wait writer;        /* mg_answer_write */
    bool filtered;                /* pieces pass through Lua */
    bool at_work;                 /* Lua has a piece before it */
    bool spoilt;                  /* a hook on its pieces failed: nothing more passes */
    bool seen;                    /* Lua is done with it: mg_flow_filtered is due */
    bool collecting, consumed;    /* Lua wants all of it; Lua has taken some of it for itself */
    bool whole;                   /* its end has arrived */
    bool cut;                     /* it broke off */
    bool ended;                   /* Lua has seen the end */
    bool done;                    /* `to` has got all of it */
    bool stopped;                 /* `from` was told to stop */
    bool sliced;                  /* Lua gets it in pieces of a bounded size */
};

/* f is all zero. */
void mg_flow_init(struct mg_flow *f, mg_view *view, enum mg_phase phase);
/* Takes the chain. False if the flow is longer now than it may be. */
bool mg_flow_arrive(struct mg_flow *f, struct mg_chain *body, bool last);
void mg_flow_trailers(struct mg_flow *f, struct mg_message *trailers);
/* It broke off: who reads it learns. */
void mg_flow_cut(struct mg_flow *f);
/* Passes on what can be passed on; called whenever something has changed. */
void mg_flow_pump(struct mg_flow *f);
/* A hook failed: what it had before it, and all behind it, must not pass. */
void mg_flow_spoil(struct mg_flow *f);
/* Lua is done with the piece. */
void mg_flow_filtered(struct mg_flow *f);
/* Drops all that is held; the flow begins anew, without from and to. */
void mg_flow_reset(struct mg_flow *f);
/* What was kept is to be passed on once more. */
void mg_flow_rewind(struct mg_flow *f);
/* No other try will follow. */
void mg_flow_settle(struct mg_flow *f);
/* Drops all that is held, for good. */
void mg_flow_drop(struct mg_flow *f);

/* From here on its bytes are a WebSocket's, whose messages Lua gets in this phase. */
void mg_flow_talk(struct mg_flow *f, struct mg_messages *m, enum mg_phase phase);
/* Has Lua left something to be passed on? */
static inline bool mg_flow_is_due(const struct mg_flow *f)
{
    if (!f->to || f->done)
        return false;
    return f->held.bytes || f->whole || mg_wait_pending(&f->writer) ||
           (f->messages && (f->messages->out.bytes || f->messages->ended));
}

/* The seam's side. As mg_body_read, mg_body_take, mg_body_collect, mg_body_text, mg_body_piece, mg_body_replace,
 * mg_body_put_back, mg_answer_write. */
int mg_flow_read(struct mg_flow *f);
int mg_flow_take(struct mg_flow *f, mg_slice *out);
int mg_flow_collect(struct mg_flow *f, uint64_t most);
int mg_flow_text(struct mg_flow *f, mg_slice *out);
int mg_flow_piece(struct mg_flow *f, mg_slice *out);
int mg_flow_replace(struct mg_flow *f, const char *ptr, uint32_t len);
int mg_flow_put_back(struct mg_flow *f, size_t len);
int mg_flow_write(struct mg_flow *f, const char *ptr, uint32_t len);
/* The same with the first bytes of a block, which are not copied. */
int mg_flow_add(struct mg_flow *f, struct mg_block *b, size_t len);
/* As mg_websocket_send. */
int mg_flow_say(struct mg_flow *f, enum mg_opcode opcode, const char *ptr, uint32_t len);

/* messages.h - one direction of a WebSocket whose messages pass through Lua.
 *
 * A tunnel's bytes go in, messages come out one at a time; what is to be sent
 * on gathers in `out`. mg_flow_pump() (relay.c) drives both.
 */
#pragma once

#include "block.h"
#include "websocket.h"

struct mg_messages {
    struct mg_websocket reader;
    struct mg_chain out;         /* frames, for who takes */
    struct mg_messages *answers; /* the other direction */
    bool masks;                  /* who takes is a server: frames to it are masked */
    bool waiting;                /* a message is before Lua, or should be */
    bool dropped;                /* and does not go on */
    bool closed;                 /* a close frame is the last in `out`: nothing may follow it */
    bool ended;                  /* closed by us: nothing is read any more */
};

/* Both are all zero. `most`: bytes of a message. */
void mg_messages_init(struct mg_messages *from_client, struct mg_messages *from_origin, uint64_t most);
void mg_messages_free(struct mg_messages *m);

/* Reads from the chain until a message is whole (true; `waiting`), or the chain is empty. Control frames pass. What
 * breaks the protocol closes both directions. */
bool mg_messages_read(struct mg_messages *m, struct mg_chain *in);
/* Lua is done with the message. */
void mg_messages_release(struct mg_messages *m);
/* Adds a frame. MG_GONE after a close frame; MG_NO_MEMORY. */
enum mg_status MG_MUST_CHECK mg_messages_send(struct mg_messages *m, enum mg_opcode opcode, const char *ptr,
                                              size_t len);
/* Closes both directions. The reason has at most 123 bytes of UTF-8. */
void mg_messages_close(struct mg_messages *m, unsigned code, const char *reason, size_t len);

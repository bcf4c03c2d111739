/* websocket.h - frames of RFC 6455: taken apart, checked, put together into messages, and built. Pure.
 *
 * A struct mg_websocket reads one direction. All of it is zero at first but
 * `most` and `masked`. It holds no more than one message, and nothing between
 * two of them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

enum mg_opcode {
    MG_OPCODE_MORE = 0, /* continues a message */
    MG_OPCODE_TEXT = 1,
    MG_OPCODE_BINARY = 2,
    MG_OPCODE_CLOSE = 8, /* this and above: control frames */
    MG_OPCODE_PING = 9,
    MG_OPCODE_PONG = 10,
};

/* RFC 6455 7.4.1: the close codes that we send. */
enum mg_close_code {
    MG_CLOSE_NORMAL = 1000,
    MG_CLOSE_GOING_AWAY = 1001,
    MG_CLOSE_PROTOCOL = 1002,
    MG_CLOSE_NO_UTF8 = 1007,
    MG_CLOSE_TOO_LARGE = 1009,
    MG_CLOSE_INTERNAL = 1011,
};

enum { MG_FRAME_HEAD_MOST = 14, MG_CONTROL_MOST = 125 };

enum mg_websocket_event {
    MG_WEBSOCKET_MORE,    /* all is taken; more bytes are needed */
    MG_WEBSOCKET_MESSAGE, /* `text`, `len` of `kind` is a whole one; mg_websocket_clear() before the next read */
    MG_WEBSOCKET_CONTROL, /* `control` is a ping, a pong or a close */
    MG_WEBSOCKET_BROKEN,  /* `problem` is the close code that says how; nothing may be read any more */
};

struct mg_utf8 {
    uint8_t need;      /* bytes that the character still lacks */
    uint8_t low, high; /* between which the next of them must be */
};

struct mg_websocket {
    uint64_t most; /* bytes of a message */
    bool masked;   /* frames of a client (RFC 6455 5.1) */

    enum mg_opcode kind; /* of the message: TEXT or BINARY; MORE between messages */
    char *text;
    size_t len, room;
    enum mg_opcode control_kind;
    char control[MG_CONTROL_MOST];
    size_t control_len;
    unsigned problem;

    bool in_payload, final;
    unsigned char head[MG_FRAME_HEAD_MOST];
    size_t head_len;
    enum mg_opcode opcode; /* of the frame */
    uint64_t left, at;     /* of its payload: to come, and arrived */
    struct mg_utf8 utf8;
};

/* Reads up to the next event; *used is how much of it was taken. */
enum mg_websocket_event mg_websocket_read(struct mg_websocket *w, const char *ptr, size_t len, size_t *used);
/* Another content for the message, of the same kind. */
enum mg_status MG_MUST_CHECK mg_websocket_put(struct mg_websocket *w, const char *ptr, size_t len);
/* Drops the message that was read, or what there is of one. */
void mg_websocket_clear(struct mg_websocket *w);

/* A final frame's head at `to`, which has room for MG_FRAME_HEAD_MOST bytes; how many they are. mask: 4 bytes, or
 * NULL. */
size_t mg_frame_head(char *to, enum mg_opcode opcode, uint64_t len, const char *mask);
/* Masks, or unmasks, bytes that stand `at` bytes behind the payload's begin (RFC 6455 5.3). */
void mg_frame_mask(char *to, const char *from, size_t len, const char *mask, uint64_t at);

/* False if the bytes can't stand there; at the end of a text utf8->need must be 0. */
bool mg_utf8_check(struct mg_utf8 *u, const char *ptr, size_t len);
bool mg_utf8_is_valid(const char *ptr, size_t len);
/* May a close frame bear this code (RFC 6455 7.4)? */
bool mg_close_code_is_valid(unsigned code);

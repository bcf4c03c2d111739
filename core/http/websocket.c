/* websocket.c - frames of RFC 6455, strictly: what a sender may not send is an error with its close code. */
#include "websocket.h"

#include <stdlib.h>
#include <string.h>

enum { ROOM_LEAST = 512, ROOM_GROWTH = 2 };

static enum mg_websocket_event fail(struct mg_websocket *w, unsigned code)
{
    w->problem = code;
    return MG_WEBSOCKET_BROKEN;
}

bool mg_utf8_check(struct mg_utf8 *u, const char *ptr, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)ptr[i];

        if (u->need) {
            if (c < u->low || c > u->high)
                return false;
            *u = (struct mg_utf8){ .need = (uint8_t)(u->need - 1), .low = 0x80, .high = 0xbf };
        } else if (c >= 0x80) {
            if (c < 0xc2 || c > 0xf4)
                return false;
            /* RFC 3629 4: no overlong forms, no surrogates, nothing above U+10FFFF. */
            u->need = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
            u->low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
            u->high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        }
    }
    return true;
}

bool mg_utf8_is_valid(const char *ptr, size_t len)
{
    struct mg_utf8 u = { 0 };

    return mg_utf8_check(&u, ptr, len) && !u.need;
}

bool mg_close_code_is_valid(unsigned code)
{
    if (code >= 3000)
        return code <= 4999;
    return code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006;
}

void mg_frame_mask(char *to, const char *from, size_t len, const char *mask, uint64_t at)
{
    for (size_t i = 0; i < len; i++)
        to[i] = (char)(from[i] ^ mask[(at + i) & 3]);
}

size_t mg_frame_head(char *to, enum mg_opcode opcode, uint64_t len, const char *mask)
{
    unsigned bytes = len < 126 ? 0 : len <= UINT16_MAX ? 2 : 8;
    size_t n = 2;

    to[0] = (char)(0x80 | (unsigned)opcode);
    to[1] = (char)((mask ? 0x80u : 0u) | (bytes == 0 ? (unsigned)len : bytes == 2 ? 126u : 127u));
    for (unsigned i = bytes; i > 0; i--)
        to[n++] = (char)(len >> 8 * (i - 1) & 0xff);
    if (mask) {
        memcpy(to + n, mask, 4);
        n += 4;
    }
    return n;
}

/* How long the frame's head is, as far as its first two bytes tell. */
static size_t head_size(const struct mg_websocket *w)
{
    if (w->head_len < 2)
        return 2;
    unsigned len = w->head[1] & 0x7f;
    return 2u + (len == 126 ? 2u : len == 127 ? 8u : 0u) + (w->head[1] & 0x80 ? 4u : 0u);
}

/* What the head's first two bytes may not say (RFC 6455 5.2, 5.4, 5.5). */
static bool is_allowed(const struct mg_websocket *w)
{
    unsigned opcode = w->head[0] & 0x0f, len = w->head[1] & 0x7f;
    bool final = w->head[0] & 0x80;

    if (w->head[0] & 0x70 || (bool)(w->head[1] & 0x80) != w->masked)
        return false;
    if (opcode >= MG_OPCODE_CLOSE)
        return opcode <= MG_OPCODE_PONG && final && len <= MG_CONTROL_MOST;
    return opcode == MG_OPCODE_MORE ? w->kind != MG_OPCODE_MORE
                                    : opcode <= MG_OPCODE_BINARY && w->kind == MG_OPCODE_MORE;
}

/* The head is whole. 0, or the close code. */
static unsigned begin_payload(struct mg_websocket *w)
{
    unsigned bytes = w->head[1] & 0x7f;
    uint64_t len = bytes < 126 ? bytes : 0;

    if (bytes >= 126) {
        for (unsigned i = 0; i < (bytes == 126 ? 2u : 8u); i++)
            len = len << 8 | w->head[2 + i];
        if (len < 126 || (bytes == 127 && (len <= UINT16_MAX || len >> 63)))
            return MG_CLOSE_PROTOCOL; /* RFC 6455 5.2: the shortest form */
    }
    w->opcode = (enum mg_opcode)(w->head[0] & 0x0f);
    w->final = w->head[0] & 0x80;
    w->left = len;
    w->at = 0;
    w->in_payload = true;
    if (w->opcode >= MG_OPCODE_CLOSE) {
        w->control_len = 0;
        return 0;
    }
    if (w->opcode != MG_OPCODE_MORE)
        w->kind = w->opcode;
    return len > w->most - w->len ? MG_CLOSE_TOO_LARGE : 0;
}

/* Room grows with what has arrived, not with what was announced. */
static bool make_room(struct mg_websocket *w, size_t len)
{
    if (len <= w->room - w->len)
        return true;
    size_t room = w->len + len < ROOM_LEAST ? ROOM_LEAST : (w->len + len) * ROOM_GROWTH;
    char *more = realloc(w->text, room);
    if (!more)
        return false;
    w->text = more;
    w->room = room;
    return true;
}

/* Takes `len` bytes of the frame's payload. 0, or the close code. */
static unsigned take_payload(struct mg_websocket *w, const char *ptr, size_t len)
{
    bool control = w->opcode >= MG_OPCODE_CLOSE;

    if (!control && !make_room(w, len))
        return MG_CLOSE_INTERNAL;
    char *to = control ? w->control + w->control_len : w->text + w->len;
    if (w->masked)
        mg_frame_mask(to, ptr, len, (const char *)w->head + w->head_len - 4, w->at);
    else
        memcpy(to, ptr, len);
    w->at += len;
    w->left -= len;
    if (control) {
        w->control_len += len;
        return 0;
    }
    w->len += len;
    return w->kind == MG_OPCODE_TEXT && !mg_utf8_check(&w->utf8, to, len) ? MG_CLOSE_NO_UTF8 : 0;
}

/* RFC 6455 5.5.1: nothing, or a code and a reason. */
static unsigned check_close(const struct mg_websocket *w)
{
    if (w->control_len == 0)
        return 0;
    if (w->control_len == 1)
        return MG_CLOSE_PROTOCOL;
    unsigned code = (unsigned)(unsigned char)w->control[0] << 8 | (unsigned char)w->control[1];
    if (!mg_close_code_is_valid(code))
        return MG_CLOSE_PROTOCOL;
    return mg_utf8_is_valid(w->control + 2, w->control_len - 2) ? 0 : MG_CLOSE_NO_UTF8;
}

/* The frame's payload is whole. */
static enum mg_websocket_event end_frame(struct mg_websocket *w)
{
    w->in_payload = false;
    w->head_len = 0;
    if (w->opcode >= MG_OPCODE_CLOSE) {
        unsigned code = w->opcode == MG_OPCODE_CLOSE ? check_close(w) : 0;
        w->control_kind = w->opcode;
        return code ? fail(w, code) : MG_WEBSOCKET_CONTROL;
    }
    if (!w->final)
        return MG_WEBSOCKET_MORE;
    return w->utf8.need ? fail(w, MG_CLOSE_NO_UTF8) : MG_WEBSOCKET_MESSAGE;
}

/* Takes what there is of the frame's head. 0, or the close code. */
static unsigned take_head(struct mg_websocket *w, const char *ptr, size_t len, size_t *used)
{
    while (*used < len && w->head_len < head_size(w)) {
        w->head[w->head_len++] = (unsigned char)ptr[(*used)++];
        if (w->head_len == 2 && !is_allowed(w))
            return MG_CLOSE_PROTOCOL;
    }
    return w->head_len == head_size(w) ? begin_payload(w) : 0;
}

enum mg_websocket_event mg_websocket_read(struct mg_websocket *w, const char *ptr, size_t len, size_t *used)
{
    enum mg_websocket_event event = MG_WEBSOCKET_MORE;
    unsigned code = 0;

    *used = 0;
    while (event == MG_WEBSOCKET_MORE) {
        if (!w->in_payload) {
            if (*used == len)
                break;
            code = take_head(w, ptr, len, used);
        } else if (w->left) {
            size_t n = len - *used < w->left ? len - *used : (size_t)w->left;
            if (n == 0)
                break;
            code = take_payload(w, ptr + *used, n);
            *used += n;
        }
        if (code)
            return fail(w, code);
        if (w->in_payload && w->left == 0)
            event = end_frame(w);
    }
    return event;
}

enum mg_status mg_websocket_put(struct mg_websocket *w, const char *ptr, size_t len)
{
    if (w->kind == MG_OPCODE_TEXT && !mg_utf8_is_valid(ptr, len))
        return MG_MALFORMED;
    w->len = 0;
    if (!make_room(w, len))
        return MG_NO_MEMORY;
    if (len)
        memcpy(w->text, ptr, len);
    w->len = len;
    return MG_OK;
}

void mg_websocket_clear(struct mg_websocket *w)
{
    free(w->text);
    w->text = NULL;
    w->len = w->room = 0;
    w->kind = MG_OPCODE_MORE;
    w->utf8 = (struct mg_utf8){ 0 };
}

/* websocket.c - frames of a WebSocket, in pieces of any size: however they are cut, the same comes out, and what comes
 * out is within its bounds. */
#include "websocket.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4096, EVENTS_MOST = 256 };

struct outcome {
    unsigned count, problem;
    struct {
        enum mg_websocket_event event;
        unsigned kind;
        size_t len;
        unsigned sum;
    } events[EVENTS_MOST];
};

static unsigned sum_of(const char *ptr, size_t len)
{
    unsigned sum = 0;

    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + (unsigned char)ptr[i];
    return sum;
}

static void note(struct outcome *o, struct mg_websocket *w, enum mg_websocket_event event)
{
    bool control = event == MG_WEBSOCKET_CONTROL;
    const char *ptr = control ? w->control : w->text;
    size_t len = control ? w->control_len : w->len;

    if (event == MG_WEBSOCKET_MESSAGE) {
        assert(len <= MOST && (w->kind == MG_OPCODE_TEXT || w->kind == MG_OPCODE_BINARY));
        assert(w->kind != MG_OPCODE_TEXT || mg_utf8_is_valid(ptr, len));
    }
    if (control)
        assert(len <= MG_CONTROL_MOST && w->control_kind >= MG_OPCODE_CLOSE && w->control_kind <= MG_OPCODE_PONG);
    o->problem = w->problem;
    if (o->count == EVENTS_MOST)
        return;
    o->events[o->count].event = event;
    if (event != MG_WEBSOCKET_BROKEN) {
        o->events[o->count].kind = control ? w->control_kind : w->kind;
        o->events[o->count].len = len;
        o->events[o->count].sum = len ? sum_of(ptr, len) : 0;
    }
    o->count++;
}

/* Reads all of it in pieces of this size. */
static void read_all(struct outcome *o, const char *data, size_t size, size_t piece, bool masked)
{
    struct mg_websocket w = { .most = MOST, .masked = masked };
    enum mg_websocket_event event = MG_WEBSOCKET_MORE;

    for (size_t at = 0; at < size && event != MG_WEBSOCKET_BROKEN;) {
        size_t len = size - at < piece ? size - at : piece, used;
        event = mg_websocket_read(&w, data + at, len, &used);
        assert(used <= len && (event != MG_WEBSOCKET_MORE || used == len));
        assert(w.room <= 2 * (MOST + 512));
        at += used;
        if (event != MG_WEBSOCKET_MORE)
            note(o, &w, event);
        if (event == MG_WEBSOCKET_MESSAGE)
            mg_websocket_clear(&w);
    }
    mg_websocket_clear(&w);
}

/* What we build is what we read. */
static void build(const char *data, size_t size, bool masked)
{
    static const char mask[4] = { 1, 2, 3, 4 };
    struct mg_websocket w = { .most = MOST, .masked = masked };
    char frame[MG_FRAME_HEAD_MOST + MOST];
    size_t len = size < MOST ? size : MOST, used;
    size_t head = mg_frame_head(frame, MG_OPCODE_BINARY, len, masked ? mask : NULL);

    if (masked)
        mg_frame_mask(frame + head, data, len, mask, 0);
    else if (len)
        memcpy(frame + head, data, len);
    assert(mg_websocket_read(&w, frame, head + len, &used) == MG_WEBSOCKET_MESSAGE && used == head + len);
    assert(w.kind == MG_OPCODE_BINARY && w.len == len && (!len || memcmp(w.text, data, len) == 0));
    mg_websocket_clear(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct outcome whole, pieces;

    if (size < 2)
        return 0;
    bool masked = data[0] & 1;
    const char *bytes = (const char *)data + 2;
    memset(&whole, 0, sizeof(whole));
    memset(&pieces, 0, sizeof(pieces));
    read_all(&whole, bytes, size - 2, size, masked);
    read_all(&pieces, bytes, size - 2, 1 + data[1] % 16, masked);
    assert(memcmp(&whole, &pieces, sizeof(whole)) == 0);
    build(bytes, size - 2, masked);
    return 0;
}

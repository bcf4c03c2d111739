/* Whatever a client sends behind the preface: nothing is left open, and each request is answered or ended once. The
 * first byte says how the bytes are cut. Answers are of several kinds, chosen by turns. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "h2.h"
#include "log.h"
#include "seam.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static struct {
    struct mg_transport transport; /* first */
    const uint8_t *data;
    size_t len, at, step;
    bool closed;
} wire;
static struct mg_limits limits;
static struct mg_h1_settings settings;
static struct mg_arena *arena_of_answers; /* a message of ours has one */
static unsigned begun, ended, carriers, arenas;

/* ---- A transport that plays the input. ---- */

static enum mg_io wire_read(struct mg_transport *t, void *to, size_t cap, size_t *n)
{
    size_t left = wire.len - wire.at;

    (void)t;
    *n = left < cap ? left : cap;
    *n = *n < wire.step ? *n : wire.step;
    if (!*n)
        return MG_IO_CLOSED;
    memcpy(to, wire.data + wire.at, *n);
    wire.at += *n;
    return MG_IO_DONE;
}

static enum mg_io wire_write(struct mg_transport *t, const struct iovec *v, int count, size_t *n)
{
    (void)t;
    *n = 0;
    for (int i = 0; i < count; i++)
        *n += v[i].iov_len;
    return MG_IO_DONE;
}

static void wire_shutdown(struct mg_transport *t)
{
    (void)t;
}

static void wire_close(struct mg_transport *t, bool abort_it)
{
    (void)t;
    (void)abort_it;
    wire.closed = true;
}

static void wire_want_read(struct mg_transport *t, bool on)
{
    (void)t;
    (void)on;
}

static bool wire_ended(struct mg_transport *t)
{
    (void)t;
    return wire.closed;
}

static const struct mg_transport_ops wire_ops = {
    .read = wire_read,
    .write = wire_write,
    .shutdown = wire_shutdown,
    .close = wire_close,
    .want_read = wire_want_read,
    .want_write = wire_shutdown,
    .again = wire_shutdown,
    .ended = wire_ended,
    .stirred = wire_ended,
};

/* ---- An exchange that answers. ---- */

static void answer(struct mg_stream *s, unsigned kind)
{
    struct mg_field fields[] = { { MG_LIT("X-Kind"), MG_LIT("some"), MG_FIELD_OTHER } };
    struct mg_message m = {
        .version = 11, .status = kind % 5 ? 200 : 204, .fields = fields, .count = 1, .arena = arena_of_answers
    };
    struct mg_chain body = { 0 };

    if (kind % 7 == 6) {
        s->ops->reset(s, MG_WHY_CUT);
        ended++;
        return;
    }
    s->ops->send_head(s, &m, false);
    mg_chain_copy(&body, "body", 4);
    s->ops->send_body(s, &body, false);
    if (kind % 3)
        s->ops->send_body(s, &body, true);
    else
        s->ops->send_trailers(s, &m);
}

static void on_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    if (body->bytes % 3 == 1)
        s->ops->want(s, false);
    (void)last;
}

static void on_trailers(struct mg_stream *s, const struct mg_message *m)
{
    (void)s;
    for (unsigned i = 0; i < m->count; i++)
        assert(mg_text_is_field_value(m->fields[i].value) && m->fields[i].id != MG_FIELD_CONTENT_LENGTH);
}

static void on_room(struct mg_stream *s)
{
    (void)s;
}

static void on_broken(struct mg_stream *s, enum mg_why why, const char *text)
{
    (void)s;
    (void)why;
    assert(text);
}

static void on_end(struct mg_stream *s, enum mg_why why)
{
    (void)s;
    (void)why;
    ended++;
}

static const struct mg_stream_events events = {
    .on_body = on_body,
    .on_trailers = on_trailers,
    .on_room = on_room,
    .on_broken = on_broken,
    .on_end = on_end,
};

/* What is handed up could be written as HTTP/1.1. */
static void check_request(const struct mg_message *m)
{
    struct mg_arena *arena = mg_arena_new();
    struct mg_message kept;

    assert(arena);
    mg_message_keep(&kept, m, arena);
    assert(m->status || (mg_text_is_token(kept.method) && kept.target.len));
    for (unsigned i = 0; i < kept.count; i++) {
        assert(mg_text_is_token(kept.fields[i].name) && mg_text_is_field_value(kept.fields[i].value));
        assert(mg_text_equal(kept.fields[i].value, m->fields[i].value));
    }
    mg_arena_free(arena);
}

static void on_stream(struct mg_carrier *c, struct mg_stream *s, const struct mg_message *request, bool last)
{
    (void)c;
    (void)last;
    s->events = &events;
    check_request(request);
    answer(s, begun++);
}

static void on_closed(struct mg_carrier *c)
{
    (void)c;
    carriers--;
}

static const struct mg_carrier_events carrier_events = { .on_stream = on_stream, .on_closed = on_closed };

static void start(void)
{
    static bool started;

    if (started)
        return;
    started = true;
    mg_log_level = MG_LOG_ERROR;
    mg_clock_start(ev_loop_new(0));
    arena_of_answers = mg_arena_new();
    assert(arena_of_answers);
    arenas = mg_arena_live();
    /* Bounds that a short input reaches. */
    mg_limits_default(&limits);
    limits.max_head_size = 4096;
    limits.max_fields = 16;
    limits.max_concurrent_streams = 8;
    limits.max_resets = 20;
    limits.max_control_frames = 50;
    settings = (struct mg_h1_settings){ .limits = &limits, .times = mg_times_of(&limits) };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mg_peer_info info = { 0 };

    if (!len)
        return 0;
    start();
    begun = ended = 0;
    carriers = 1;
    memset(&wire, 0, sizeof(wire));
    wire.transport.ops = &wire_ops;
    wire.data = data + 1;
    wire.len = len - 1;
    wire.step = data[0] < 128 ? 1u + data[0] : len;
    struct mg_carrier *c = mg_h2_serve(&wire.transport, &settings, &info, &carrier_events, NULL,
                                       (mg_slice){ preface, sizeof(preface) - 1 });
    assert(c);
    mg_h2_flush();
    while (!wire.closed) {
        wire.transport.events->on_readable(&wire.transport);
        mg_h2_flush();
    }
    assert(!carriers && begun == ended && !mg_h2_streams() && !mg_block_live() && mg_arena_live() == arenas);
    return 0;
}

/* h2_stream.c - an HTTP/2 stream's life: made, opened, waited for, ended, used again. */
#include "h2_connection.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { STREAMS_KEPT = 1024 }; /* structs kept for reuse */

struct mg_carriers mg_h2_carriers;
static struct mg_h2_stream *free_streams;
static unsigned streams, free_count;

void mg_h2_mark(struct mg_h2 *h)
{
    mg_carrier_mark(&mg_h2_carriers, &h->carrier);
}

void mg_h2_doom(struct mg_h2 *h, bool abort)
{
    mg_carrier_doom(&mg_h2_carriers, &h->carrier, abort);
}

unsigned mg_h2_streams(void)
{
    return streams;
}

static void on_timer(struct mg_timeout *t);

struct mg_h2_stream *mg_h2_stream_new(struct mg_h2 *h, const struct mg_stream_ops *ops)
{
    struct mg_h2_stream *s = free_streams;

    if (s) {
        free_streams = s->next;
        free_count--;
        memset(s, 0, sizeof(*s));
    } else {
        s = calloc(1, sizeof(*s));
        if (!s)
            return NULL;
    }
    s->stream.magic = MG_H2_STREAM_MAGIC;
    s->stream.ops = ops;
    s->stream.info = &h->carrier.info;
    s->stream.times = &h->settings->times;
    s->stream.reused = !h->client_side && h->served > 0;
    s->connection = h;
    s->timer.fire = on_timer;
    s->next = h->streams;
    if (h->streams)
        h->streams->previous = s;
    h->streams = s;
    return s;
}

void mg_h2_stream_free(struct mg_h2_stream *s)
{
    struct mg_h2 *h = s->connection;

    assert(!s->open && !s->due);
    mg_timeout_clear(&s->timer);
    mg_chain_clear(&s->in);
    mg_chain_clear(&s->out);
    mg_arena_free(s->arena);
    if (s->previous)
        s->previous->next = s->next;
    else
        h->streams = s->next;
    if (s->next)
        s->next->previous = s->previous;
    if (free_count == STREAMS_KEPT) {
        free(s);
        return;
    }
    s->stream.magic = 0;
    s->next = free_streams;
    free_streams = s;
    free_count++;
}

void mg_h2_streams_trim(void)
{
    while (free_streams) {
        struct mg_h2_stream *s = free_streams;
        free_streams = s->next;
        free(s);
    }
    free_count = 0;
}

void mg_h2_stream_open(struct mg_h2_stream *s, const struct mg_stream_events *events, void *owner)
{
    s->stream.events = events;
    s->stream.owner = owner;
    s->open = s->wanting = true;
    s->connection->open++;
    s->connection->served++;
    streams++;
}

void mg_h2_stream_let_go(struct mg_h2_stream *s)
{
    struct mg_h2 *h = s->connection;

    s->open = false;
    h->open--;
    h->freed = true;
    streams--;
    mg_timeout_clear(&s->timer);
    mg_chain_clear(&s->in);
    mg_h2_mark(h);
    if (s->closed)
        mg_h2_stream_touch(s); /* nothing else keeps it: the flush frees it */
}

void mg_h2_stream_end(struct mg_h2_stream *s, enum mg_why why)
{
    if (!s->open)
        return;
    mg_h2_stream_let_go(s);
    s->stream.events->on_end(&s->stream, why);
}

void mg_h2_stream_reset(struct mg_h2_stream *s, uint32_t code)
{
    mg_chain_clear(&s->out);
    s->stream.queued = 0;
    s->out_whole = true;
    if (s->closed)
        return;
    if (s->id)
        (void)nghttp2_submit_rst_stream(s->connection->session, NGHTTP2_FLAG_NONE, s->id, code);
    else
        s->closed = true; /* a request that was never sent */
    mg_h2_mark(s->connection);
}

void mg_h2_note_reset(struct mg_h2 *h, int32_t id)
{
    if (id > h->last_reset)
        h->last_reset = id;
}

void mg_h2_stream_touch(struct mg_h2_stream *s)
{
    struct mg_h2 *h = s->connection;

    mg_h2_mark(h);
    if (s->due)
        return;
    s->due = true;
    s->next_due = h->due;
    h->due = s;
}

static bool owes_frames(const struct mg_h2_stream *s)
{
    return s->head_out && !s->closed && (s->out.bytes || (s->out_whole && !s->out_sent));
}

static struct mg_clock_queue *patience(const struct mg_h2_stream *s)
{
    const struct mg_times *times = s->stream.times;

    if (!s->open)
        return owes_frames(s) ? times->send : NULL;
    if (owes_frames(s))
        return times->send;
    if (s->stream.tunnel)
        return s->in_whole || s->out_whole ? times->send : NULL;
    if (!s->connection->client_side && !s->head_in)
        return s->out_whole || s->tunnels ? times->head : NULL;
    return s->wanting && !s->in_whole && !s->tunnels ? times->body : NULL;
}

void mg_h2_stream_watch(struct mg_h2_stream *s)
{
    struct mg_clock_queue *queue = patience(s);

    /* Interim responses buy no time. */
    if (!s->connection->client_side && !s->head_in && queue && queue == s->timer.queue && !owes_frames(s))
        return;
    if (queue || s->timer.queue)
        mg_timeout_set(&s->timer, queue);
}

static void on_timer(struct mg_timeout *t)
{
    struct mg_h2_stream *s = MG_HOLDER(t, struct mg_h2_stream, timer);
    struct mg_h2 *h = s->connection;

    h->busy++;
    if (s->open && h->client_side && !owes_frames(s) && !s->stream.tunnel) {
        s->broken = s->in_whole = true;
        s->stream.events->on_broken(&s->stream, MG_WHY_TIMEOUT, "the request's body did not come in time");
    } else {
        mg_h2_stream_reset(s, NGHTTP2_CANCEL);
        mg_h2_stream_end(s, MG_WHY_TIMEOUT);
    }
    h->busy--;
    mg_h2_mark(h);
}

/* fetch.c - HTTP requests of the scripts' own.
 *
 * The events of the stream write down what came and answer the ticket of
 * whoever waits for it. The answer comes last in each of them, because it may
 * run Lua, and Lua may close the fetch. What ends the message is answered by
 * on_end: a fetch that was closed before it would take its connection along.
 */
#include "fetch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "clock.h"
#include "dial.h"
#include "fetch_head.h"
#include "outside.h"
#include "peer.h"

enum {
    FETCH_MAGIC = 0x6d676665,
    BUCKETS = 256,          /* of the table of owners; a power of two */
    HELD_HIGH = 256 * 1024, /* of the body, while nobody reads it */
    HELD_LOW = 64 * 1024,
    KEPT_MOST = 64, /* idle connections to one address */
};
static const double KEPT_SECONDS = 30;

struct mg_fetch {
    unsigned magic;
    struct mg_fetch *next, *previous; /* in its owner's bucket */
    struct mg_task *task;
    struct mg_arena *arena;
    struct mg_message request, response, trailers;
    struct mg_origin origin;
    struct mg_dial dial;
    struct mg_stream *stream;  /* NULL before, and after its end */
    struct mg_chain body;      /* the request's; kept for another try */
    struct mg_chain in, taken; /* the response's: what waits, and what Lua looks at */
    struct mg_wait wait;
    struct mg_timeout timeout; /* until the response's head */
    const char *problem;
    enum mg_status failed;      /* how it broke off; MG_OK if it has not */
    bool sent, answered, whole; /* whole: the response */
    bool stopped;               /* too much waits to be read */
    bool again;                 /* this is the second try */
    bool of_peer;               /* a peer is asked, on a new connection */
    bool trailed;               /* trailers came */
};

static struct mg_fetch *buckets[BUCKETS];
static unsigned live;

/* ---- Life. ---- */

static struct mg_fetch **bucket_of(const struct mg_task *t)
{
    uint64_t n = (uint64_t)(uintptr_t)t * 0x9e3779b97f4a7c15u;

    return &buckets[n >> 56 & (BUCKETS - 1)];
}

static void answer(struct mg_fetch *f, int code)
{
    if (mg_wait_pending(&f->wait))
        mg_task_answer(&f->wait, code);
}

/* Whatever is under way ends. */
static void stop(struct mg_fetch *f)
{
    mg_timeout_clear(&f->timeout);
    mg_dial_cancel(&f->dial);
    if (f->stream)
        f->stream->ops->reset(f->stream, MG_WHY_CANCELLED);
    f->stream = NULL;
}

void mg_fetch_close(mg_fetch *f)
{
    struct mg_wait *w = &f->wait;

    assert(f->magic == FETCH_MAGIC);
    f->magic = 0;
    stop(f);
    if (f->previous)
        f->previous->next = f->next;
    else
        *bucket_of(f->task) = f->next;
    if (f->next)
        f->next->previous = f->previous;
    if (mg_wait_pending(w))
        mg_task_cancel(w->task, w->ticket);
    mg_chain_clear(&f->body);
    mg_chain_clear(&f->in);
    mg_chain_clear(&f->taken);
    mg_origin_close(&f->origin);
    mg_arena_free(f->arena);
    free(f);
    live--;
}

void mg_fetch_end(struct mg_generation *g, struct mg_task *t)
{
    (void)g; /* a fetch never belongs to the generation itself */
    struct mg_fetch **bucket = bucket_of(t);

    for (struct mg_fetch *f = t ? *bucket : NULL; f;) {
        struct mg_fetch *next = f->next;
        if (f->task == t)
            mg_fetch_close(f);
        f = next;
    }
}

unsigned mg_fetch_live(void)
{
    return live;
}

/* ---- The request. ---- */

static void on_timeout(struct mg_timeout *t);

/* Its parts are still to come. NULL without memory. */
static struct mg_fetch *new_fetch(struct mg_task *t)
{
    struct mg_fetch *f = calloc(1, sizeof(*f));

    if (!f)
        return NULL;
    f->arena = mg_arena_new();
    if (!f->arena) {
        free(f);
        return NULL;
    }
    f->magic = FETCH_MAGIC;
    f->task = t;
    f->timeout.fire = on_timeout;
    struct mg_fetch **bucket = bucket_of(t);
    f->next = *bucket;
    if (f->next)
        f->next->previous = f;
    *bucket = f;
    live++;
    return f;
}

/* Hands it out, or lets go of it. */
static int hand_out(struct mg_fetch *f, enum mg_status status, mg_fetch **out)
{
    *out = status == MG_OK ? f : NULL;
    if (status != MG_OK)
        mg_fetch_close(f);
    return status;
}

int mg_fetch_open(mg_task *t, const char *host, uint32_t hlen, int port, mg_tls *tls, const char *method, uint32_t mlen,
                  const char *target, uint32_t tlen, mg_fetch **out)
{
    struct mg_fetch *f = new_fetch(t);

    *out = NULL;
    if (!f)
        return MG_NO_MEMORY;
    struct mg_fetch_place place = { { host, hlen }, port, tls ? 443 : 80 };
    enum mg_status status = mg_fetch_head_begin(&f->request, f->arena, &place, (mg_slice){ method, mlen },
                                                (mg_slice){ target, tlen });
    mg_slice kept = mg_arena_copy(f->arena, place.host);
    if (status == MG_OK && mg_arena_failed(f->arena))
        status = MG_NO_MEMORY;
    mg_origin_open(&f->origin, status == MG_OK ? kept : MG_LIT(""), (uint16_t)port);
    f->origin.tls = tls;
    f->origin.keepalive = KEPT_MOST;
    return hand_out(f, status, out);
}

/* The upstream's own bounds and times count; a connection that was made for this alone is not kept. */
int mg_fetch_open_peer(mg_task *t, const mg_peer *p, int port, const char *method, uint32_t mlen, const char *target,
                       uint32_t tlen, mg_fetch **out)
{
    struct mg_fetch *f = new_fetch(t);

    *out = NULL;
    if (!f)
        return MG_NO_MEMORY;
    struct mg_fetch_place place = { p->origin.host, port ? port : p->origin.port, p->origin.tls ? 443 : 80 };
    enum mg_status status = mg_fetch_head_begin(&f->request, f->arena, &place, (mg_slice){ method, mlen },
                                                (mg_slice){ target, tlen });
    mg_origin_open(&f->origin, place.host, (uint16_t)place.port);
    f->origin.limits = p->origin.limits;
    f->origin.times = p->origin.times;
    f->origin.connect = p->origin.connect;
    f->origin.protocol = p->origin.protocol;
    f->origin.proxy_protocol = p->origin.proxy_protocol;
    f->origin.tls = p->origin.tls;
    f->origin.connections = p->origin.connections;
    f->origin.keepalive = p->origin.protocol == MG_PROTOCOL_HTTP1 ? 0 : p->origin.keepalive;
    f->of_peer = true;
    return hand_out(f, status, out);
}

mg_message *mg_fetch_request(mg_fetch *f)
{
    return &f->request;
}

mg_message *mg_fetch_response(mg_fetch *f)
{
    return f->answered ? &f->response : NULL;
}

mg_message *mg_fetch_trailers(mg_fetch *f)
{
    return f->trailed ? &f->trailers : NULL;
}

int mg_fetch_status(mg_fetch *f)
{
    return f->response.status;
}

void mg_fetch_problem(mg_fetch *f, mg_slice *out)
{
    *out = mg_slice_of(f->problem ? f->problem : "");
}

/* ---- The stream. ---- */

static void fail(struct mg_fetch *f, enum mg_status code, const char *problem)
{
    f->failed = code;
    f->problem = problem;
    stop(f);
    answer(f, code);
}

static void on_timeout(struct mg_timeout *t)
{
    struct mg_fetch *f = MG_HOLDER(t, struct mg_fetch, timeout);

    fail(f, MG_TIMEOUT, "no answer in time");
}

static void on_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    struct mg_fetch *f = s->owner;

    mg_timeout_clear(&f->timeout);
    mg_chain_clear(&f->body);
    mg_message_keep(&f->response, m, f->arena);
    f->answered = true;
    f->whole = last;
    if (mg_arena_failed(f->arena))
        fail(f, MG_NO_MEMORY, "out of memory");
    else if (!last)
        answer(f, MG_OK);
}

static void on_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    struct mg_fetch *f = s->owner;

    mg_chain_move(&f->in, body);
    f->whole = last;
    if (f->in.failed) {
        fail(f, MG_NO_MEMORY, "out of memory");
        return;
    }
    if (f->in.bytes > HELD_HIGH && !f->stopped && !last) {
        f->stopped = true;
        s->ops->want(s, false);
    }
    if (f->in.bytes && !last)
        answer(f, MG_OK);
}

static void on_trailers(struct mg_stream *s, const struct mg_message *m)
{
    struct mg_fetch *f = s->owner;

    mg_message_keep(&f->trailers, m, f->arena);
    f->trailed = f->whole = true;
}

static void on_interim(struct mg_stream *s, const struct mg_message *m)
{
    (void)s, (void)m;
}

static void on_room(struct mg_stream *s)
{
    (void)s; /* all of the request was queued at once */
}

static enum mg_status status_of(enum mg_why why)
{
    switch (why) {
    case MG_WHY_COMPLETE:
        return MG_OK;
    case MG_WHY_TIMEOUT:
        return MG_TIMEOUT;
    case MG_WHY_MALFORMED:
        return MG_MALFORMED;
    case MG_WHY_TOO_LARGE:
        return MG_FULL;
    case MG_WHY_REFUSED:
    case MG_WHY_STALE:
    case MG_WHY_CUT:
    case MG_WHY_CANCELLED:
        return MG_CUT;
    }
    return MG_CUT;
}

static const char *text_of(enum mg_why why)
{
    switch (why) {
    case MG_WHY_COMPLETE:
        return NULL;
    case MG_WHY_TIMEOUT:
        return "the answer did not go on in time";
    case MG_WHY_MALFORMED:
        return "the answer is not HTTP";
    case MG_WHY_TOO_LARGE:
        return "the answer's head is too large";
    case MG_WHY_REFUSED:
    case MG_WHY_STALE:
    case MG_WHY_CUT:
    case MG_WHY_CANCELLED:
        return "the connection was closed in the middle";
    }
    return NULL;
}

static enum mg_status try(struct mg_fetch *f, enum mg_dial_how how);

/* A kept connection that ended before it answered says nothing about the server: once more, on a new one. */
static bool may_try_again(const struct mg_fetch *f, enum mg_why why)
{
    if (f->again || f->answered)
        return false;
    return why == MG_WHY_REFUSED || (why == MG_WHY_STALE && mg_method_is_idempotent(f->request.method));
}

static void on_end(struct mg_stream *s, enum mg_why why)
{
    struct mg_fetch *f = s->owner;
    const char *problem = s->problem ? s->problem : text_of(why);

    f->stream = NULL;
    if (f->whole) {
        answer(f, MG_OK);
        return;
    }
    if (may_try_again(f, why)) {
        f->again = true;
        if (try(f, MG_DIAL_FRESH) == MG_OK)
            return;
        problem = "out of memory";
    }
    fail(f, why == MG_WHY_COMPLETE ? MG_CUT : status_of(why), problem);
}

static const struct mg_stream_events events = {
    .on_interim = on_interim,
    .on_head = on_head,
    .on_body = on_body,
    .on_trailers = on_trailers,
    .on_room = on_room,
    .on_end = on_end,
};

static void copy_body(struct mg_chain *to, const struct mg_chain *from)
{
    for (const struct mg_span *span = from->first; span; span = span->next)
        mg_chain_add(to, span->block, span->ptr, span->len);
}

static void send_request(struct mg_fetch *f, struct mg_stream *s)
{
    f->stream = s;
    s->ops->send_head(s, &f->request, f->body.bytes == 0);
    if (f->body.bytes) {
        struct mg_chain body = { 0 };
        copy_body(&body, &f->body);
        s->ops->send_body(s, &body, true);
    }
}

static void on_dialled(struct mg_dial *d, struct mg_stream *s, enum mg_failure failure, const char *text)
{
    struct mg_fetch *f = d->owner;

    if (s)
        send_request(f, s);
    else
        fail(f, failure == MG_FAIL_CONNECT_TIMEOUT ? MG_TIMEOUT : MG_REFUSED, mg_arena_text(f->arena, text));
}

static enum mg_status try(struct mg_fetch *f, enum mg_dial_how how)
{
    f->dial = (struct mg_dial){ .done = on_dialled, .events = &events, .owner = f };
    struct mg_stream *s = mg_dial_begin(&f->dial, &f->origin, how);
    if (s)
        send_request(f, s);
    return s || f->dial.work ? MG_OK : MG_NO_MEMORY;
}

/* ---- Sending and reading, for the seam. ---- */

static void set_times(struct mg_fetch *f, struct mg_clock_queue *queue)
{
    if (!f->of_peer)
        f->origin.times = (struct mg_times){ .body = queue, .send = queue, .idle = mg_clock_queue(KEPT_SECONDS) };
    mg_timeout_set(&f->timeout, queue);
}

static void cancel(struct mg_wait *w)
{
    struct mg_fetch *f = MG_HOLDER(w, struct mg_fetch, wait);

    if (!f->answered)
        stop(f);
}

int mg_fetch_send(mg_fetch *f, const char *body, uint32_t len, double timeout)
{
    assert(f->magic == FETCH_MAGIC);
    if (f->sent)
        return MG_TOO_LATE;
    f->sent = true;
    enum mg_status status = mg_fetch_head_finish(&f->request, len);
    if (status != MG_OK)
        return status;
    mg_chain_copy(&f->body, body, len);
    if (f->body.failed)
        return MG_NO_MEMORY;
    int ticket = mg_task_wait(f->task, &f->wait, cancel);
    if (ticket < 0)
        return ticket;
    set_times(f, mg_outside_patience(timeout));
    enum mg_dial_how how = f->of_peer                                   ? MG_DIAL_FRESH
                           : mg_method_is_idempotent(f->request.method) ? MG_DIAL_ANY
                                                                        : MG_DIAL_CHECKED;
    if (try(f, how) == MG_OK)
        return ticket;
    mg_task_cancel(f->task, ticket);
    return MG_NO_MEMORY;
}

static void go_on(struct mg_fetch *f)
{
    if (!f->stopped || f->in.bytes > HELD_LOW)
        return;
    f->stopped = false;
    if (f->stream)
        f->stream->ops->want(f->stream, true);
}

int mg_fetch_read(mg_fetch *f)
{
    assert(f->magic == FETCH_MAGIC);
    if (mg_wait_pending(&f->wait))
        return MG_BUSY;
    mg_chain_clear(&f->taken);
    if (f->in.bytes || f->whole)
        return MG_OK;
    if (f->failed != MG_OK || !f->stream)
        return f->failed != MG_OK ? f->failed : MG_CUT;
    go_on(f);
    return mg_task_wait(f->task, &f->wait, cancel);
}

int mg_fetch_take(mg_fetch *f, mg_slice *out)
{
    mg_chain_clear(&f->taken);
    if (!f->in.bytes)
        return f->whole ? MG_ABSENT : MG_CUT;
    mg_chain_split(&f->taken, &f->in, f->in.first->len);
    *out = (mg_slice){ f->taken.first->ptr, (uint32_t)f->taken.first->len };
    go_on(f);
    return MG_OK;
}

/* attempt.c - one try of an exchange at one peer.
 *
 * The steps from BALANCE to WAIT, and the news of the origin's side. What
 * becomes of a try that failed is for retry.c to say. */
#include "attempt.h"

#include <assert.h>

#include "breaker.h"
#include "cache.h"
#include "engine.h"
#include "forward.h"
#include "health.h"
#include "hedge.h"
#include "in_flight.h"
#include "log.h"
#include "queue.h"
#include "roster.h"

static const char OUT_OF_TIME[] = "all tries together took longer than total_timeout";

static const mg_upstream_spec *spec_of(const struct mg_exchange *x)
{
    return mg_upstream_spec_of(x->view.upstream);
}

/* ---- Beginning and ending a try. ---- */

void mg_attempt_release(struct mg_exchange *x, bool failed, double latency)
{
    struct mg_attempt *a = &x->attempt;

    if (!a->peer)
        return;
    mg_in_flight_end(a->peer, failed || a->bad, latency);
    a->peer = NULL;
}

static void forget_series(struct mg_series *r)
{
    mg_timeout_clear(&r->total);
    r->ends = 0;
    r->over = false;
    if (r->pause)
        mg_alarm_free(r->pause);
    r->pause = NULL;
}

void mg_attempt_abandon(struct mg_exchange *x)
{
    mg_attempt_drop(x);
    if (x->series)
        forget_series(x->series);
}

void mg_attempt_drop(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;

    if (x->queued)
        mg_queue_leave(x);
    if (x->cached)
        mg_cache_fill_drop(x);
    if (x->hedge)
        mg_hedge_end(x->hedge);
    mg_timeout_clear(&a->total);
    if (a->dial.work)
        mg_dial_cancel(&a->dial);
    x->in.to = NULL;
    x->out.from = NULL;
    if (a->stream) {
        struct mg_stream *s = a->stream;
        a->stream = NULL;
        s->ops->reset(s, MG_WHY_CANCELLED);
    }
    mg_attempt_release(x, false, -1);
}

/* The request's body goes nowhere any more. */
static void stop_upload(struct mg_exchange *x)
{
    x->in.to = NULL;
    if (x->client && x->client->relaying) {
        x->client->relaying = false;
        x->client->ops->want(x->client, true);
    }
}

static void fail_try(struct mg_exchange *x, enum mg_failure failure, const char *text)
{
    struct mg_attempt *a = &x->attempt;

    if (failure == MG_FAIL_TLS)
        text = mg_arena_text(x->arena, text); /* it names the certificate, so it is made anew each time */
    a->failure = failure;
    a->text = text;
    x->view.failure = (uint8_t)failure;
    x->view.failure_text = mg_slice_of(text);
}

/* ---- News from the origin. ---- */

static enum mg_failure failure_of(enum mg_why why)
{
    switch (why) {
    case MG_WHY_TIMEOUT:
        return MG_FAIL_TIMEOUT;
    case MG_WHY_MALFORMED:
    case MG_WHY_TOO_LARGE:
        return MG_FAIL_MALFORMED;
    case MG_WHY_COMPLETE:
    case MG_WHY_REFUSED:
    case MG_WHY_STALE:
    case MG_WHY_CUT:
    case MG_WHY_CANCELLED:
        break;
    }
    return MG_FAIL_RESET;
}

static const char *text_of(enum mg_why why)
{
    switch (why) {
    case MG_WHY_TIMEOUT:
        return "no answer in time";
    case MG_WHY_MALFORMED:
        return "the answer is malformed";
    case MG_WHY_TOO_LARGE:
        return "the answer is over a limit";
    case MG_WHY_STALE:
        return "the kept connection was closed";
    case MG_WHY_REFUSED:
        return "the stream was refused";
    case MG_WHY_COMPLETE:
    case MG_WHY_CUT:
    case MG_WHY_CANCELLED:
        break;
    }
    return "the connection was cut";
}

static void on_interim(struct mg_stream *s, const struct mg_message *m)
{
    struct mg_exchange *x = s->owner;
    struct mg_message copy;

    if (!x->client || x->view.head_sent || x->request.version < 11)
        return;
    if (m->status == 100) {
        if (x->continued)
            return; /* the client did not ask, or knows already */
        x->continued = true;
    }
    mg_message_keep(&copy, m, x->arena);
    mg_message_strip_hop(&copy);
    x->client->ops->send_interim(x->client, &copy);
}

static void on_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    struct mg_exchange *x = s->owner;
    struct mg_attempt *a = &x->attempt;

    mg_message_keep(&x->response, m, x->arena);
    x->out.whole = last;
    x->view.response = &x->response;
    x->view.status = m->status;
    x->view.from_peer = 1;
    a->answered = true;
    a->latency = mg_clock_now() - a->began;
    if (a->peer && a->peer->watched)
        a->bad = mg_health_see(a->peer, m);
    mg_engine_run(x);
}

static void on_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    struct mg_exchange *x = s->owner;

    if (x->cached)
        mg_cache_fill_body(x, body, last);
    (void)mg_flow_arrive(&x->out, body, last);
}

static void on_trailers(struct mg_stream *s, const struct mg_message *m)
{
    struct mg_exchange *x = s->owner;
    struct mg_message *kept = mg_arena_zeroed(x->arena, sizeof(*kept));

    if (kept)
        mg_message_keep(kept, m, x->arena);
    if (x->cached)
        mg_cache_fill_body(x, &(struct mg_chain){ 0 }, true);
    mg_flow_trailers(&x->out, kept);
}

static void on_room(struct mg_stream *s)
{
    struct mg_exchange *x = s->owner;

    mg_flow_pump(&x->in);
}

static void on_end(struct mg_stream *s, enum mg_why why)
{
    struct mg_exchange *x = s->owner;
    struct mg_attempt *a = &x->attempt;

    a->stream = NULL;
    stop_upload(x);
    mg_timeout_clear(&a->total);
    if (why == MG_WHY_COMPLETE) {
        x->out.from = NULL;
        mg_attempt_release(x, false, a->latency);
        if (!x->client)
            mg_engine_run(x); /* only the rest of its request was still on the way */
        return;
    }
    const char *text = s->problem ? s->problem : text_of(why);
    if (!a->answered) {
        a->refused = why == MG_WHY_REFUSED;
        a->stale = why == MG_WHY_STALE || a->refused;
        fail_try(x, failure_of(why), text);
    } else {
        /* A reset is one way to end a tunnel, and no fault of the peer's. */
        if (!x->bytes)
            mg_log(MG_LOG_WARN, "peer %.*s: the response broke off: %s", (int)a->peer->name.len, a->peer->name.ptr,
                   text);
        mg_attempt_release(x, !x->bytes, -1);
        mg_flow_cut(&x->out);
    }
    mg_engine_run(x);
}

static const struct mg_stream_events origin_events = {
    .on_interim = on_interim,
    .on_head = on_head,
    .on_body = on_body,
    .on_trailers = on_trailers,
    .on_room = on_room,
    .on_end = on_end,
};

static void on_dialled(struct mg_dial *d, struct mg_stream *s, enum mg_failure failure, const char *text)
{
    struct mg_exchange *x = d->owner;

    x->attempt.stream = s;
    if (!s)
        fail_try(x, failure, text);
    mg_engine_run(x);
}

/* The hedge was faster: from here on it is the try. What it has sent is kept, should its answer ask for another try. */
static void on_hedge_won(struct mg_hedge *h, const struct mg_message *m, bool last)
{
    struct mg_exchange *x = h->exchange;
    struct mg_attempt *a = &x->attempt;
    struct mg_stream *s = h->stream, *loser = a->stream;

    if (a->dial.work)
        mg_dial_cancel(&a->dial);
    stop_upload(x);
    a->stream = NULL;
    if (loser)
        loser->ops->reset(loser, MG_WHY_CANCELLED);
    mg_attempt_release(x, false, -1);
    mg_timeout_clear(&a->total);
    if (spec_of(x)->timeout > 0)
        mg_timeout_set(&a->total, mg_clock_queue(spec_of(x)->timeout));
    a->stream = s;
    a->peer = x->view.peer = h->peer;
    a->head = h->head;
    a->began = h->began;
    a->failure = MG_FAIL_NONE;
    a->sent = true;
    a->stale = a->refused = a->bad = false;
    a->reused = s->reused;
    mg_hedge_let_go(h);
    mg_chain_move(&x->in.kept, &x->in.held);
    x->in.done = true;
    x->out.from = s;
    s->owner = x;
    s->events = &origin_events;
    on_head(s, m, last);
}

/* Whatever the try is at, it has no more time. */
static void run_out(struct mg_exchange *x, const char *text)
{
    struct mg_attempt *a = &x->attempt;
    bool answered = a->answered;

    if (a->dial.work)
        mg_dial_cancel(&a->dial);
    if (a->stream) {
        struct mg_stream *s = a->stream;
        a->stream = NULL;
        s->ops->reset(s, MG_WHY_TIMEOUT);
    }
    stop_upload(x);
    if (!answered) {
        fail_try(x, MG_FAIL_TIMEOUT, text);
    } else {
        mg_attempt_release(x, true, -1);
        mg_flow_cut(&x->out);
    }
    mg_engine_run(x);
}

static void on_total(struct mg_timeout *t)
{
    struct mg_attempt *a = MG_HOLDER(t, struct mg_attempt, total);

    run_out(MG_HOLDER(a, struct mg_exchange, attempt), "the attempt took longer than its timeout");
}

static void on_series_total(struct mg_timeout *t)
{
    struct mg_series *r = MG_HOLDER(t, struct mg_series, total);

    r->over = true;
    if (r->pause)
        mg_alarm_free(r->pause);
    r->pause = NULL;
    if (r->exchange->hedge)
        mg_hedge_end(r->exchange->hedge);
    run_out(r->exchange, OUT_OF_TIME);
}

struct mg_series *mg_attempt_series(struct mg_exchange *x)
{
    if (!x->series) {
        x->series = mg_arena_zeroed(x->arena, sizeof(*x->series));
        if (x->series)
            x->series->exchange = x;
    }
    return x->series;
}

/* From the first try on. */
static void bound_series(struct mg_exchange *x, double seconds)
{
    struct mg_series *r = mg_attempt_series(x);

    if (!r || r->ends > 0)
        return;
    r->ends = mg_clock_now() + seconds;
    r->total.fire = on_series_total;
    mg_timeout_set(&r->total, mg_clock_queue(seconds));
}

/* ---- The steps. ---- */

enum mg_status mg_attempt_pick(struct mg_exchange *x, struct mg_peer *p)
{
    if (x->view.step != MG_STEP_BALANCE || !mg_peer_may(p, &x->tried))
        return MG_ABSENT;
    x->attempt.picked = p;
    return MG_OK;
}

static void begin_try(struct mg_exchange *x, struct mg_peer *p)
{
    struct mg_attempt *a = &x->attempt;
    double total = spec_of(x)->timeout;

    mg_queue_leave(x);
    a->peer = x->view.peer = p;
    a->picked = NULL;
    a->failure = MG_FAIL_NONE;
    a->text = NULL;
    a->sent = a->answered = a->stale = a->refused = a->bad = false;
    a->began = mg_clock_now();
    a->dial = (struct mg_dial){
        .done = on_dialled,
        .events = &origin_events,
        .owner = x,
        .client = x->client->info,
        .bytes = x->bytes,
    };
    x->view.tries++;
    if (x->tried.count < MG_TRIED_MAX)
        x->tried.peers[x->tried.count++] = p;
    mg_in_flight_begin(p);
    a->total.fire = on_total;
    if (total > 0 && !x->bytes)
        mg_timeout_set(&a->total, mg_clock_queue(total));
    if (spec_of(x)->total_timeout > 0 && !x->bytes)
        bound_series(x, spec_of(x)->total_timeout);
    if (x->hedge) {
        x->hedge->won = on_hedge_won;
        mg_hedge_arm(x->hedge);
    }
}

/* With a hedge under way, a try that has failed is not the last word. */
static bool waits_for_hedge(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;

    if (!x->hedge || !mg_hedge_is_under_way(x->hedge))
        return false;
    if (a->peer) {
        mg_log(MG_LOG_WARN, "peer %.*s: %s (its hedge goes on)", (int)a->peer->name.len, a->peer->name.ptr, a->text);
        mg_attempt_release(x, !a->stale, -1);
    }
    a->stale = false;
    return true;
}

static enum mg_next no_peer(struct mg_exchange *x, bool full)
{
    const mg_upstream_spec *spec = spec_of(x);
    const char *why;

    if (x->queued && mg_clock_now() < x->queue_until)
        return MG_PARK;
    if (full && !x->queued && spec->breaker.on && !mg_breaker_may_wait(x->view.upstream, &why))
        return mg_engine_fail(x, 503, mg_arena_text(x->arena, why));
    if (full && !x->queued && mg_queue_length(x->view.upstream) < spec->queue) {
        mg_queue_enter(x);
        return MG_PARK;
    }
    mg_queue_leave(x);
    return mg_engine_fail(x, 503, full ? "all peers are at max_connections" : "no peer is left to try");
}

/* The first try of a request. False, and the exchange fails, if the upstream's breaker lets it not pass. */
static bool is_admitted(struct mg_exchange *x)
{
    const char *why;

    if (!mg_upstream_request(x->view.upstream) || mg_breaker_admit(x->view.upstream, &why))
        return true;
    mg_engine_fail(x, 503, mg_arena_text(x->arena, why));
    return false;
}

enum mg_next mg_attempt_balance(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;
    bool full = false;

    if (!x->view.upstream)
        return mg_engine_fail(x, 500, "the route ends nowhere: no upstream was named");
    mg_roster_follow(x->view.upstream);
    if (x->view.tries == 0 && !x->queued && !a->picked && !(x->entered & 1u << MG_PHASE_BALANCE) && !is_admitted(x))
        return MG_MORE;
    if (mg_engine_hooks(x, MG_PHASE_BALANCE) == MG_PARK)
        return MG_PARK;
    if (x->failed || x->answered)
        return mg_engine_after_hooks(x, MG_STEP_RESPONSE);

    if (x->series && x->series->over)
        return mg_engine_fail(x, 504, OUT_OF_TIME);
    struct mg_peer *p = a->picked ? a->picked : mg_peer_pick(x->view.upstream, &x->tried, &full);
    if (!p)
        return no_peer(x, full);
    begin_try(x, p);
    return mg_go(x, MG_STEP_CONNECT);
}

enum mg_next mg_attempt_connect(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;

    if (x->hedge) {
        if (mg_hedge_run(x->hedge))
            return MG_PARK;
        if (a->sent || x->failed || x->answered)
            return mg_go(x, MG_STEP_WAIT); /* the hedge has won, or its hooks have decided */
    }
    if (a->stream)
        return mg_go(x, MG_STEP_ATTEMPT);
    if (a->failure)
        return waits_for_hedge(x) ? MG_PARK : mg_go(x, MG_STEP_RETRY);
    if (a->dial.work)
        return MG_PARK;
    if (x->bytes && a->peer->origin.protocol != MG_PROTOCOL_HTTP1) {
        fail_try(x, MG_FAIL_CONNECT, "its upstream speaks HTTP/2, which a TCP route can't");
        return MG_MORE;
    }
    enum mg_dial_how how = a->fresh                                  ? MG_DIAL_FRESH
                           : mg_method_is_idempotent(x->view.method) ? MG_DIAL_ANY
                                                                     : MG_DIAL_CHECKED;
    a->stream = mg_dial_begin(&a->dial, &a->peer->origin, how);
    if (!a->stream && !a->dial.work)
        fail_try(x, MG_FAIL_CONNECT, "out of memory");
    return MG_MORE;
}

/* For another try, or for a mirror. */
static uint64_t body_to_keep(const struct mg_exchange *x)
{
    const struct mg_mirror *m = x->route->mirror;
    uint32_t most = spec_of(x)->retry_body;

    return m && !x->mirrored && m->max_body > most ? m->max_body : most;
}

/* ATTEMPT: policies on this try's copy, then the request goes out, its body behind it. */
enum mg_next mg_attempt_send(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;

    if (!x->view.attempt) {
        mg_forward_attempt(x, a->peer, &a->head);
        x->view.attempt = &a->head;
    }
    if (mg_engine_hooks(x, MG_PHASE_ATTEMPT) == MG_PARK)
        return MG_PARK;
    x->view.attempt = NULL;
    if (x->failed || x->answered) {
        mg_attempt_abandon(x);
        return mg_engine_after_hooks(x, MG_STEP_RESPONSE);
    }
    if (!a->stream || mg_arena_failed(x->arena))
        return a->failure ? mg_go(x, MG_STEP_RETRY) : mg_engine_fail(x, 503, "out of memory");

    bool bodiless = x->in.whole && !x->in.held.bytes && !x->in.trailers && !x->in.filtered;
    a->sent = true;
    a->reused = a->stream->reused;
    x->in.to = a->stream;
    if (!bodiless && x->in.keep)
        x->in.keep = body_to_keep(x);
    x->client->relaying = !x->in.whole;
    x->out.from = a->stream;
    a->stream->ops->send_head(a->stream, &a->head, bodiless);
    if (bodiless)
        x->in.done = true;
    else
        mg_flow_pump(&x->in);
    return mg_go(x, MG_STEP_WAIT);
}

/* RFC 9110 7.8: an origin may only change to what the client has offered. */
static bool is_agreed(const struct mg_exchange *x)
{
    const struct mg_field *f = mg_message_known(&x->response, MG_FIELD_UPGRADE);
    mg_slice rest = f ? f->value : (mg_slice){ "", 0 }, protocol;
    bool some = false;

    while (mg_text_next_item(&rest, &protocol)) {
        if (!mg_text_list_has(x->protocol, protocol))
            return false;
        some = true;
    }
    return some;
}

static bool is_retried_status(const struct mg_exchange *x)
{
    const mg_upstream_spec *spec = spec_of(x);

    if (!(spec->retry_on >> MG_FAIL_STATUS & 1))
        return false;
    for (unsigned i = 0; i < spec->retry_status_count; i++)
        if (spec->retry_status[i] == x->view.status)
            return true;
    return false;
}

enum mg_next mg_attempt_wait(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;

    if (x->hedge && mg_hedge_run(x->hedge))
        return MG_PARK;
    if (x->failed || x->answered) { /* a request_body hook threw; a hedge's attempt hook has answered */
        mg_attempt_abandon(x);
        return mg_engine_after_hooks(x, MG_STEP_RESPONSE);
    }
    if (a->answered && !a->failure && x->response.status == 101 && !is_agreed(x)) {
        fail_try(x, MG_FAIL_MALFORMED, "101 to a protocol that was not asked for");
        return mg_go(x, MG_STEP_RETRY);
    }
    if (a->answered && is_retried_status(x) && !a->failure) {
        fail_try(x, MG_FAIL_STATUS, "the answer's status asks for another try");
        return mg_go(x, MG_STEP_RETRY);
    }
    if (a->answered) {
        if (x->hedge)
            mg_hedge_end(x->hedge);
        return mg_go(x, MG_STEP_RESPONSE);
    }
    return a->failure && !waits_for_hedge(x) ? mg_go(x, MG_STEP_RETRY) : MG_PARK;
}

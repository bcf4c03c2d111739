/* retry.c - a try has failed: another one, or what the client is told.
 *
 * A request is tried again only while the client has seen nothing and it can
 * be sent again, to the byte: what has gone out of its body was kept. */
#include "retry.h"

#include <math.h>
#include <time.h>

#include "attempt.h"
#include "breaker.h"
#include "engine.h"
#include "hedge.h"
#include "log.h"

static const mg_upstream_spec *spec_of(const struct mg_exchange *x)
{
    return mg_upstream_spec_of(x->view.upstream);
}

/* ---- How long to wait. ---- */

/* RFC 9110 10.2.3: seconds, or a date. 0 without the field, or if it can't be read. */
static double seconds_of_retry_after(const struct mg_message *m)
{
    mg_slice value;
    uint64_t seconds;
    char text[32];
    struct tm date = { 0 };

    if (mg_message_get(m, MG_LIT("Retry-After"), &value) != MG_OK)
        return 0;
    if (mg_text_number(value, &seconds))
        return (double)seconds;
    if (value.len >= sizeof(text))
        return 0;
    memcpy(text, value.ptr, value.len);
    text[value.len] = '\0';
    const char *end = strptime(text, "%a, %d %b %Y %H:%M:%S GMT", &date);
    return end && !*end ? fmax(0, (double)timegm(&date) - mg_clock_wall()) : 0;
}

/* Above 0, at most 1, and another one for each try: of the exchange's id, which nobody foresees, so that a simulation
 * repeats. */
static double jitter(const struct mg_exchange *x)
{
    uint64_t z = x->id + x->view.tries * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 31) * 0xbf58476d1ce4e5b9u;
    z ^= z >> 29;
    return (double)((z >> 11) + 1) * 0x1p-53;
}

/* Exponential, with full jitter: those whose tries failed together do not come again together. */
static double backoff(const struct mg_exchange *x)
{
    const mg_upstream_spec *spec = spec_of(x);

    if (!(spec->backoff > 0))
        return 0;
    return fmin(spec->max_backoff, ldexp(spec->backoff, (int)x->view.tries - 1)) * jitter(x);
}

/* Seconds until another try; below 0: it would come too late. */
static double pause_of(const struct mg_exchange *x)
{
    const mg_upstream_spec *spec = spec_of(x);
    double asked = 0;

    if (x->attempt.failure == MG_FAIL_STATUS && spec->retry_after >= 0)
        asked = seconds_of_retry_after(&x->response);
    if (asked > 0 && asked > spec->retry_after)
        return -1;
    double pause = asked + backoff(x);
    if (x->series && x->series->ends > 0 && mg_clock_now() + pause >= x->series->ends)
        return -1;
    return pause;
}

/* ---- May it be tried again? ---- */

/* Can the request be sent once more, to the byte? */
static bool is_replayable(const struct mg_exchange *x)
{
    if (x->view.head_sent || x->in.consumed || x->in.at_work)
        return false;
    return !x->attempt.sent || x->in.arrived == x->in.kept.bytes + x->in.held.bytes;
}

/* RFC 9110 9.2.2: what the origin may have acted on is repeated only if acting twice is the same. */
static bool is_safe_to_repeat(const struct mg_exchange *x)
{
    return !x->attempt.sent || x->attempt.refused || mg_method_is_idempotent(x->view.method) ||
           spec_of(x)->non_idempotent;
}

static bool has_untried_peer(const struct mg_exchange *x)
{
    for (int i = 0, count = mg_upstream_count(x->view.upstream); i < count; i++)
        if (mg_peer_may(mg_upstream_peer(x->view.upstream, i), &x->tried))
            return true;
    return false;
}

/* After a pause those that were tried may be tried again, if there is no other. */
static bool has_peer(struct mg_exchange *x, double pause)
{
    if (has_untried_peer(x))
        return true;
    if (!(pause > 0))
        return false;
    x->tried.count = 0;
    return has_untried_peer(x);
}

static void log_long_body(const struct mg_exchange *x)
{
    const mg_upstream_spec *spec = spec_of(x);

    if (x->attempt.sent && !x->in.keep && !x->in.filtered && x->in.arrived > spec->retry_body)
        mg_log(MG_LOG_WARN,
               "upstream %.*s: a request is not tried again: its body is longer than retry.body (%u bytes)",
               (int)spec->name.len, spec->name.ptr, spec->retry_body);
}

/* False, or the pause until then. */
static bool may_retry(struct mg_exchange *x, double *pause)
{
    const mg_upstream_spec *spec = spec_of(x);
    unsigned attempts = x->route->attempts ? x->route->attempts : spec->attempts;
    bool again = x->retry_known ? x->retry_again : (spec->retry_on >> x->attempt.failure & 1) && is_safe_to_repeat(x);

    if (!again || x->view.tries >= attempts || (x->series && x->series->over))
        return false;
    if (!is_replayable(x)) {
        log_long_body(x);
        return false;
    }
    *pause = pause_of(x);
    if (*pause < 0 || !has_peer(x, *pause))
        return false;
    if (spec->breaker.on && !mg_breaker_is_closed(x->view.upstream))
        return false;
    /* The budget bounds the load that retries add. A try whose request never went out has added none. */
    return !x->attempt.sent || mg_upstream_may_retry(x->view.upstream);
}

/* ---- The step. ---- */

static enum mg_next begin_anew(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;

    mg_attempt_drop(x);
    a->failure = MG_FAIL_NONE;
    a->answered = false;
    x->view.response = NULL;
    x->view.status = 0;
    x->view.from_peer = 0;
    x->retry_known = false;
    mg_flow_rewind(&x->in);
    mg_flow_reset(&x->out);
    mg_engine_again(x, MG_PHASE_BALANCE);
    mg_engine_again(x, MG_PHASE_ATTEMPT);
    mg_engine_again(x, MG_PHASE_RETRY);
    return mg_go(x, MG_STEP_BALANCE);
}

static void on_rested(void *owner)
{
    struct mg_series *r = owner;

    r->pause = NULL;
    mg_engine_run(r->exchange);
}

/* The same balancing, another peer. */
static void stay_balanced(struct mg_exchange *x, struct mg_peer *p)
{
    if (mg_wants(x, MG_PHASE_BALANCE))
        x->entered |= 1u << MG_PHASE_BALANCE; /* it has spoken */
    x->attempt.picked = p;
}

static enum mg_next try_again(struct mg_exchange *x, double pause)
{
    struct mg_peer *other = x->hedge ? mg_hedge_take(x->hedge) : NULL;

    mg_upstream_count_one(&mg_upstream_counts(x->view.upstream)->retries);
    if (other && mg_peer_may(other, &x->tried) && x->attempt.failure != MG_FAIL_STATUS) {
        begin_anew(x);
        stay_balanced(x, other);
        return mg_go(x, MG_STEP_BALANCE);
    }
    if (!(pause > 0))
        return begin_anew(x);
    struct mg_series *r = mg_attempt_series(x);
    if (r)
        r->pause = mg_alarm_new(pause, on_rested, r);
    if (!r || !r->pause)
        return begin_anew(x);
    r->resting = true;
    begin_anew(x);
    return mg_go(x, MG_STEP_RETRY);
}

static enum mg_next rest(struct mg_exchange *x)
{
    struct mg_series *r = x->series;

    if (r->pause && !x->failed && !x->answered)
        return MG_PARK;
    r->resting = false;
    if (!x->failed && !x->answered)
        return mg_go(x, MG_STEP_BALANCE);
    mg_attempt_abandon(x);
    return mg_engine_after_hooks(x, MG_STEP_RESPONSE);
}

/* A kept connection that its peer closed meanwhile is no failure of the peer: the same once more, on a fresh one. */
static enum mg_next try_fresh(struct mg_exchange *x)
{
    struct mg_peer *same = x->attempt.peer;

    mg_attempt_release(x, false, -1);
    x->attempt.fresh = true;
    x->view.tries--;
    x->tried.count--;
    enum mg_next next = begin_anew(x);
    stay_balanced(x, same);
    return next;
}

static enum mg_next give_up(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;

    switch (a->failure) {
    case MG_FAIL_STATUS:
        a->failure = MG_FAIL_NONE; /* the last answer stands */
        return mg_go(x, MG_STEP_RESPONSE);
    case MG_FAIL_CONNECT_TIMEOUT:
    case MG_FAIL_TIMEOUT:
        mg_attempt_abandon(x);
        return mg_engine_fail(x, 504, a->text);
    case MG_FAIL_BUSY:
        mg_attempt_abandon(x);
        return mg_engine_fail(x, 503, a->text);
    case MG_FAIL_NONE:
    case MG_FAIL_CONNECT:
    case MG_FAIL_TLS:
    case MG_FAIL_RESET:
    case MG_FAIL_MALFORMED:
        break;
    }
    mg_attempt_abandon(x);
    return mg_engine_fail(x, 502, a->text);
}

enum mg_next mg_retry(struct mg_exchange *x)
{
    struct mg_attempt *a = &x->attempt;
    double pause;

    if (x->series && x->series->resting)
        return rest(x);
    if (a->stale && (a->reused || a->refused) && !a->fresh && is_replayable(x) && is_safe_to_repeat(x))
        return try_fresh(x);
    if (a->failure != MG_FAIL_STATUS && a->peer) {
        mg_log(MG_LOG_WARN, "peer %.*s: %s (try %u)", (int)a->peer->name.len, a->peer->name.ptr, a->text,
               x->view.tries);
        mg_attempt_release(x, true, -1);
    }
    if (mg_engine_hooks(x, MG_PHASE_RETRY) == MG_PARK)
        return MG_PARK;
    if (x->failed || x->answered) {
        mg_attempt_abandon(x);
        return mg_engine_after_hooks(x, MG_STEP_RESPONSE);
    }
    return may_retry(x, &pause) ? try_again(x, pause) : give_up(x);
}

/* breaker.c - an upstream's circuit breaker.
 *
 * Its state changes by one compare-and-swap, and whoever has made the change
 * tells of it. The numbers around it are set by that one right after; somebody
 * who reads them meanwhile refuses one request or lets one pass, which is no harm. */
#include "breaker.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "ejection.h"
#include "news.h"
#include "text.h"

#define BREAKER_PREFIX "breaker:"

enum { WHY_MOST = 128 };
enum state { CLOSED, OPEN, HALF_OPEN };

struct mg_breaker {
    uint32_t state;
    uint32_t failures;      /* in a row, while closed */
    uint32_t number;        /* how often it was opened without having been closed for good */
    uint32_t good;          /* while half open: tries that were answered */
    int32_t left;           /* and tries that may still pass */
    uint32_t crowded;       /* somebody was refused for what is in flight or waits; taken back by the judge */
    uint32_t still_crowded; /* the same since the judge looked last */
    double until;           /* it is open; half open: when lost tries are given anew */
    struct mg_window window;
    char why[WHY_MOST];                                   /* it is open */
    uint32_t active[MG_SLOTS_MAX], waiting[MG_SLOTS_MAX]; /* only its own worker writes a slot */
};

static char refusal[256];

static const mg_breaker_spec *spec_of(const struct mg_upstream *u)
{
    return &mg_upstream_spec_of(u)->breaker;
}

static struct mg_breaker *breaker_of(const struct mg_upstream *u)
{
    return mg_upstream_watch((struct mg_upstream *)u)->breaker;
}

bool mg_breaker_open(struct mg_upstream *u)
{
    mg_slice name = mg_upstream_spec_of(u)->name;
    char whole[256];

    if (!spec_of(u)->on)
        return true;
    int n = snprintf(whole, sizeof(whole), BREAKER_PREFIX "%.*s", (int)name.len, name.ptr);
    struct mg_breaker *b = mg_shared_place((mg_slice){ whole, (uint32_t)n }, sizeof(*b));
    mg_upstream_watch(u)->breaker = b;
    return b != NULL;
}

static bool change(struct mg_breaker *b, enum state from, enum state to)
{
    uint32_t expected = from;

    return __atomic_compare_exchange_n(&b->state, &expected, to, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* ---- From one state to the next. ---- */

__attribute__((format(printf, 3, 4))) static void trip(struct mg_upstream *u, enum state from, const char *format, ...)
{
    struct mg_breaker *b = breaker_of(u);
    const mg_breaker_spec *spec = spec_of(u);
    double seconds = fmin(spec->time * (b->number + 1), spec->time_most);
    va_list args;

    /* Before the change: once it is open, whoever reads it finds when that ends. */
    if (__atomic_load_n(&b->state, __ATOMIC_RELAXED) != from)
        return;
    b->until = mg_clock_now() + seconds;
    if (!change(b, from, OPEN))
        return;
    b->number++;
    va_start(args, format);
    vsnprintf(b->why, sizeof(b->why), format, args);
    va_end(args);
    mg_news_tell(u, NULL, MG_NEWS_BREAKER_OPEN, "%s; for %g s (number %u)", b->why, seconds, b->number);
}

static void half_open(struct mg_upstream *u, double now)
{
    struct mg_breaker *b = breaker_of(u);

    if (!change(b, OPEN, HALF_OPEN))
        return;
    b->good = 0;
    b->until = now + spec_of(u)->time;
    __atomic_store_n(&b->left, (int32_t)spec_of(u)->tries, __ATOMIC_RELEASE);
    mg_news_tell(u, NULL, MG_NEWS_BREAKER_HALF_OPEN, "%u tries may pass", spec_of(u)->tries);
}

static struct mg_window_count total_of(const struct mg_upstream *u)
{
    struct mg_window_count sum = { 0 };

    for (int i = 0, n = mg_upstream_count(u); i < n; i++) {
        const struct mg_peer *p = mg_upstream_peer(u, i);
        sum.ended += __atomic_load_n(&p->view->requests, __ATOMIC_RELAXED);
        sum.ended -= (uint64_t)mg_peer_active(p);
        sum.failed += __atomic_load_n(&p->view->failed, __ATOMIC_RELAXED);
    }
    return sum;
}

static void close_again(struct mg_upstream *u)
{
    struct mg_breaker *b = breaker_of(u);

    mg_window_begin(&b->window, mg_clock_now(), total_of(u));
    b->failures = 0;
    if (!change(b, HALF_OPEN, CLOSED))
        return;
    b->number = 0;
    mg_news_tell(u, NULL, MG_NEWS_BREAKER_CLOSED, "%u tries were answered", b->good);
}

/* ---- Who may pass. ---- */

static uint32_t sum_of(const uint32_t *slots)
{
    unsigned count = mg_shared_slots();
    uint32_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += __atomic_load_n(&slots[i], __ATOMIC_RELAXED);
    return sum;
}

/* Over a bound of what is in flight or waits nobody more may come; it needs no time to heal, so there is no half. */
static bool is_crowded(struct mg_upstream *u, const uint32_t *slots, uint32_t most, const char *what, const char **why)
{
    struct mg_breaker *b = breaker_of(u);
    uint32_t sum = most ? sum_of(slots) : 0;

    if (!most || sum < most)
        return false;
    mg_slice name = mg_upstream_spec_of(u)->name;
    snprintf(refusal, sizeof(refusal), "the breaker of upstream %.*s is open: %u requests %s", (int)name.len, name.ptr,
             sum, what);
    *why = refusal;
    __atomic_store_n(&b->still_crowded, 1, __ATOMIC_RELAXED);
    if (!__atomic_exchange_n(&b->crowded, 1, __ATOMIC_RELAXED))
        mg_news_tell(u, NULL, MG_NEWS_BREAKER_OPEN, "%u requests %s", sum, what);
    return true;
}

/* Takes one of the tries that half open lets pass. When those that had them have not ended in time, there are new
 * ones. */
static bool take_try(struct mg_upstream *u, double now)
{
    struct mg_breaker *b = breaker_of(u);

    if (b->until <= now) {
        b->until = now + spec_of(u)->time;
        __atomic_store_n(&b->left, (int32_t)spec_of(u)->tries, __ATOMIC_RELAXED);
    }
    int32_t left = __atomic_load_n(&b->left, __ATOMIC_RELAXED);
    while (left > 0)
        if (__atomic_compare_exchange_n(&b->left, &left, left - 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return true;
    return false;
}

bool mg_breaker_admit(struct mg_upstream *u, const char **why)
{
    struct mg_breaker *b = breaker_of(u);
    double now = mg_clock_now();

    if (__atomic_load_n(&b->state, __ATOMIC_ACQUIRE) == CLOSED)
        return !is_crowded(u, b->active, spec_of(u)->max_active, "are in flight", why);
    if (b->state == OPEN && b->until <= now)
        half_open(u, now);
    if (b->state != OPEN && (b->state == CLOSED || take_try(u, now)))
        return true;
    mg_slice name = mg_upstream_spec_of(u)->name;
    snprintf(refusal, sizeof(refusal), "the breaker of upstream %.*s is %s: %.127s", (int)name.len, name.ptr,
             mg_breaker_word(u), b->why);
    *why = refusal;
    return false;
}

bool mg_breaker_is_closed(const struct mg_upstream *u)
{
    return __atomic_load_n(&breaker_of(u)->state, __ATOMIC_RELAXED) == CLOSED;
}

bool mg_breaker_may_wait(struct mg_upstream *u, const char **why)
{
    return !is_crowded(u, breaker_of(u)->waiting, spec_of(u)->max_waiting, "wait for a peer", why);
}

static void add(uint32_t *slots, int by)
{
    uint32_t *own = &slots[mg_shared_slot()];

    __atomic_store_n(own, *own + (uint32_t)by, __ATOMIC_RELAXED);
}

void mg_breaker_waits(struct mg_upstream *u, bool begins)
{
    add(breaker_of(u)->waiting, begins ? 1 : -1);
}

void mg_breaker_began(struct mg_upstream *u)
{
    add(breaker_of(u)->active, 1);
}

/* ---- What becomes of those that pass. ---- */

static void note_failure(struct mg_upstream *u)
{
    struct mg_breaker *b = breaker_of(u);
    const mg_breaker_spec *spec = spec_of(u);

    if (b->state == HALF_OPEN) {
        trip(u, HALF_OPEN, "a try has failed while it was half open");
        return;
    }
    uint32_t failures = __atomic_add_fetch(&b->failures, 1, __ATOMIC_RELAXED);
    if (spec->consecutive && failures >= spec->consecutive)
        trip(u, CLOSED, "%u tries in a row have failed", failures);
}

void mg_breaker_ended(struct mg_upstream *u, enum mg_outcome outcome)
{
    struct mg_breaker *b = breaker_of(u);

    add(b->active, -1);
    if (outcome == MG_OUTCOME_FAILED) {
        note_failure(u);
    } else if (outcome == MG_OUTCOME_GOOD) {
        if (__atomic_load_n(&b->failures, __ATOMIC_RELAXED))
            __atomic_store_n(&b->failures, 0, __ATOMIC_RELAXED);
        if (b->state == HALF_OPEN && __atomic_add_fetch(&b->good, 1, __ATOMIC_RELAXED) == spec_of(u)->tries)
            close_again(u);
    }
}

/* Nobody was refused since the last look. */
static void judge_crowd(struct mg_upstream *u)
{
    struct mg_breaker *b = breaker_of(u);

    if (!b->crowded || __atomic_exchange_n(&b->still_crowded, 0, __ATOMIC_RELAXED))
        return;
    if (__atomic_exchange_n(&b->crowded, 0, __ATOMIC_RELAXED) && b->state == CLOSED)
        mg_news_tell(u, NULL, MG_NEWS_BREAKER_CLOSED, "nobody has been refused for a while");
}

void mg_breaker_judge(struct mg_upstream *u, double now)
{
    struct mg_breaker *b = breaker_of(u);
    const mg_breaker_spec *spec = spec_of(u);

    judge_crowd(u);
    struct mg_window_count c = mg_window_look(&b->window, now, spec->window, total_of(u));
    if (b->state == CLOSED && spec->errors > 0 && c.ended >= spec->least &&
        (double)c.failed >= spec->errors * (double)c.ended)
        trip(u, CLOSED, "%llu of %llu tries within %g s have failed", (unsigned long long)c.failed,
             (unsigned long long)c.ended, spec->window);
}

void mg_upstream_judge(mg_upstream *u)
{
    double now = mg_clock_now();

    if (spec_of(u)->on)
        mg_breaker_judge(u, now);
    if (mg_upstream_spec_of(u)->eject.on)
        mg_ejection_judge(u, now);
}

void mg_breaker_forget_slot(unsigned slot)
{
    struct mg_breaker *b;

    for (unsigned n = 0; (b = mg_shared_nth(MG_LIT(BREAKER_PREFIX), n)); n++) {
        __atomic_store_n(&b->active[slot], 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->waiting[slot], 0, __ATOMIC_RELAXED);
    }
}

const char *mg_breaker_word(struct mg_upstream *u)
{
    static const char *const names[] = { [CLOSED] = "closed", [OPEN] = "open", [HALF_OPEN] = "half open" };
    const struct mg_breaker *b = breaker_of(u);

    return b ? names[b->state <= HALF_OPEN ? b->state : CLOSED] : "none";
}

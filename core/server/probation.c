/* probation.c - is a generation that has just been put in force worse than the one before?
 *
 * Two shares are compared, each by the one-sided exact test of R. A. Fisher ("The
 * Logic of Inductive Inference", Journal of the Royal Statistical Society 98, 1935):
 * if both generations failed alike, how likely would the newer one have at least so
 * many of all the failures? It is asked again and again while probation lasts, so
 * that what is called unlikely must be far below the usual 1 in 20: with 60 looks of two
 * tests, 1 in 100,000 each, fewer than 1 in 800 harmless reloads are taken back by chance. */
#include "probation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "children.h"
#include "declared.h"
#include "log.h"
#include "tally.h"
#include "text.h"

enum { SAMPLES = 120, RECORDS = 8, WHY_MOST = 320 };
static const double EVERY = 0.5; /* seconds between two looks, and two samples: a minute of them */
static const double UNLIKELY = 1e-5;
static const double SUPPOSED = 20; /* exchanges without a throw that a generation with fewer is supposed to have had */

struct record {
    unsigned number; /* 0: none */
    double since;    /* of the state that it is in, as ev_now() */
    bool taken_back;
};

static struct {
    struct ev_loop *loop;
    mg_on_worse *on_worse;
    ev_timer look;
    struct mg_tally samples[SAMPLES]; /* of the one in force; the oldest is next */
    unsigned next, filled;
    bool on;
    unsigned before, now;
    double until, errors, least;
    unsigned canary;          /* the one that is tried out; 0: none */
    bool judged;              /* it is taken back if it is worse */
    struct mg_tally beside;   /* what the one in force had counted when it began */
    struct mg_tally baseline; /* of before, in the last minute */
    struct record records[RECORDS];
    struct {
        unsigned from, to;
        double at;
        char why[WHY_MOST];
    } last; /* rollback */
} p;

/* ---- The test. ---- */

static double log_choose(double n, double k)
{
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1);
}

/* That at least `bad` of n are among all the bad ones, which are spread over n and m others by chance. */
static double chance(double bad, double n, double other_bad, double m)
{
    double all_bad = bad + other_bad, good = n + m - all_bad;
    double most = n < all_bad ? n : all_bad;
    double term = exp(log_choose(all_bad, bad) + log_choose(good, n - bad) - log_choose(n + m, n)), sum = term;

    for (double k = bad; k < most && term > sum * 1e-9; k++) {
        term *= (all_bad - k) * (n - k) / ((k + 1) * (good - n + k + 1));
        sum += term;
    }
    return sum;
}

/* Are `bad` of n too many beside other_bad of m? Then `why` says so. */
static bool is_worse(const char *what, double bad, double n, double other_bad, double m, char *why)
{
    double share = n > 0 ? bad / n : 0, other = m > 0 ? other_bad / m : 0;

    if (bad < p.least || bad > n || other_bad > m || share - other < p.errors)
        return false;
    double likely = chance(bad, n, other_bad, m);
    if (!(likely < UNLIKELY))
        return false;
    snprintf(why, WHY_MOST,
             "%.0f of its %.0f exchanges (%.2f %%) %s, and %.0f of %.0f (%.2f %%) of generation %u; by chance that "
             "comes about with a probability of %.1g",
             bad, n, share * 100, what, other_bad, m, other * 100, p.before, likely);
    return true;
}

static struct mg_tally since(struct mg_tally t, const struct mg_tally *then)
{
    t.exchanges -= then->exchanges;
    t.failures -= then->failures;
    t.throws -= then->throws;
    return t;
}

static void judge(unsigned number, struct mg_tally other)
{
    struct mg_tally t = mg_tally_sum(number);
    double n = (double)t.exchanges, m = (double)other.exchanges;
    char why[WHY_MOST];

    if (is_worse("had hooks that threw", (double)t.throws, n, (double)other.throws, m < SUPPOSED ? SUPPOSED : m, why) ||
        (m > 0 && is_worse("were answered with 5xx", (double)t.failures, n, (double)other.failures, m, why)))
        p.on_worse(why);
}

/* ---- Time. ---- */

static void sample(void)
{
    p.samples[p.next] = mg_tally_sum(mg_declared_generation());
    p.next = (p.next + 1) % SAMPLES;
    p.filled += p.filled < SAMPLES;
}

/* What a generation has counted since the oldest sample. */
static struct mg_tally last_minute(unsigned number)
{
    struct mg_tally t = mg_tally_sum(number);

    return p.filled == SAMPLES ? since(t, &p.samples[p.next]) : t;
}

static void on_look(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    sample();
    if (p.on)
        judge(p.now, p.baseline);
    else if (p.canary && p.judged)
        judge(p.canary, since(mg_tally_sum(p.before), &p.beside));
    if (p.on && ev_now(p.loop) >= p.until) {
        mg_log(MG_LOG_INFO, "generation %u has passed its probation; generation %u is let go", p.now, p.before);
        mg_probation_promote();
    }
}

static void note(unsigned number, bool taken_back)
{
    struct record *r = &p.records[number % RECORDS];

    *r = (struct record){ number, ev_now(p.loop), taken_back };
}

void mg_probation_start(struct ev_loop *loop, mg_on_worse *on_worse)
{
    p.loop = loop;
    p.on_worse = on_worse;
    note(1, false);
    ev_timer_init(&p.look, on_look, EVERY, EVERY);
    ev_timer_start(loop, &p.look);
}

void mg_probation_begin(unsigned before, unsigned now, const struct mg_ready *r)
{
    if (p.on)
        note(p.before, false);
    p.on = r->probation > 0;
    p.canary = 0;
    p.before = before;
    p.now = now;
    p.until = ev_now(p.loop) + r->probation;
    p.errors = r->probation_errors;
    p.least = r->probation_least;
    p.baseline = last_minute(before);
    p.filled = p.next = 0;
    note(before, false);
    note(now, false);
}

static void tell_of(unsigned from, unsigned to, const char *why)
{
    p.last.from = from;
    p.last.to = to;
    p.last.at = ev_now(p.loop);
    snprintf(p.last.why, sizeof(p.last.why), "%s", why);
}

void mg_probation_taken_back(unsigned before, const char *why)
{
    p.on = false;
    p.filled = p.next = 0;
    note(before, false);
    note(p.now, true);
    tell_of(p.now, before, why);
}

void mg_probation_try_out(unsigned canary, const struct mg_ready *r)
{
    (void)mg_probation_promote();
    p.canary = canary;
    p.judged = r->probation > 0;
    p.errors = r->probation_errors;
    p.least = r->probation_least;
    p.before = mg_declared_generation();
    p.beside = mg_tally_sum(p.before);
    note(canary, false);
}

void mg_probation_end_canary(const char *why)
{
    note(p.canary, true);
    tell_of(p.canary, p.before, why);
    p.canary = 0;
}

bool mg_probation_promote(void)
{
    if (!p.on)
        return false;
    p.on = false;
    note(p.before, false);
    mg_declared_forget_former();
    mg_children_tell(MG_WORD_PROMOTE);
    return true;
}

bool mg_probation_is_on(void)
{
    return p.on;
}

/* ---- What is told. ---- */

static const char *state_of(const struct record *r)
{
    if (r->number == mg_declared_generation())
        return "in force";
    if (r->number == p.canary)
        return "canary";
    if (p.on && r->number == p.before)
        return "kept";
    return r->taken_back ? "taken back" : "retired";
}

static size_t put_counts(char *to, size_t size, struct mg_tally t)
{
    return (size_t)snprintf(to, size, "\"exchanges\":%llu,\"failures\":%llu,\"hook_errors\":%llu}",
                            (unsigned long long)t.exchanges, (unsigned long long)t.failures,
                            (unsigned long long)t.throws);
}

/* The last rollback. A worker may have told why, in words of the script's. */
static size_t report_last(char *to, size_t size)
{
    char why[6 * WHY_MOST];

    if (!p.last.from)
        return 0;
    int len = (int)mg_text_put_json(why, mg_slice_of(p.last.why));
    return (size_t)snprintf(to, size, ",\"rollback\":{\"generation\":%u,\"to\":%u,\"at\":%.3f,\"why\":\"%.*s\"}",
                            p.last.from, p.last.to, p.last.at, len, why);
}

size_t mg_probation_report(char *to, size_t size, double (*memory_of)(unsigned number))
{
    size_t n = (size_t)snprintf(to, size, "\"generations\":[");
    bool first = true;

    for (unsigned i = 0; i < RECORDS; i++) {
        const struct record *r = &p.records[i];
        if (!r->number)
            continue;
        n += (size_t)snprintf(to + n, size - n, "%s{\"number\":%u,\"state\":\"%s\",\"since\":%.3f,\"memory\":%.0f,",
                              first ? "" : ",", r->number, state_of(r), r->since, memory_of(r->number));
        n += put_counts(to + n, size - n, mg_tally_sum(r->number));
        first = false;
    }
    n += (size_t)snprintf(to + n, size - n, "]");
    if (p.on) {
        n += (size_t)snprintf(to + n, size - n,
                              ",\"probation\":{\"generation\":%u,\"ends_in\":%.1f,\"kept\":%u,\"before\":{", p.now,
                              p.until - ev_now(p.loop), p.before);
        n += put_counts(to + n, size - n, p.baseline);
        n += (size_t)snprintf(to + n, size - n, "}");
    }
    if (p.canary) {
        char terms[MG_CANARY_NAME_MOST + 64];
        mg_canary_print(mg_declared_terms(), terms, sizeof(terms));
        n += (size_t)snprintf(to + n, size - n, ",\"canary\":{\"generation\":%u,\"share\":%g,\"of\":\"%s\"}", p.canary,
                              mg_declared_terms()->share, terms);
    }
    return n + report_last(to + n, size - n);
}

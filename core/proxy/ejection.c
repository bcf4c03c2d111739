/* ejection.c - peers that fail their requests are left out for a while. */
#include "ejection.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "health.h"
#include "news.h"

static const double LATENCY_LEAST = 0.005; /* seconds above the others' that are worth an ejection */

static const mg_eject_spec *spec_of(const struct mg_upstream *u)
{
    return &mg_upstream_spec_of(u)->eject;
}

/* ---- Out. ---- */

static unsigned count_ejected(const struct mg_upstream *u)
{
    unsigned n = 0;

    for (int i = 0, count = mg_upstream_count(u); i < count; i++)
        n += mg_upstream_peer(u, i)->view->ejected != 0;
    return n;
}

/* How many may be out at once: of several peers, one at least. */
static unsigned most_ejected(const struct mg_upstream *u)
{
    int count = mg_upstream_count(u);
    unsigned most = (unsigned)(spec_of(u)->share * count + 1e-9);

    return most || count < 2 ? most : 1;
}

/* Two workers that eject two peers at once may each see the other's, and both step back: never too many are out. */
static bool take_place(struct mg_peer *p)
{
    if (__atomic_exchange_n(&p->view->ejected, 1, __ATOMIC_ACQ_REL))
        return false;
    if (count_ejected(p->upstream) <= most_ejected(p->upstream))
        return true;
    __atomic_store_n(&p->view->ejected, 0, __ATOMIC_RELEASE);
    return false;
}

__attribute__((format(printf, 2, 3))) static void eject(struct mg_peer *p, const char *format, ...)
{
    const mg_eject_spec *spec = spec_of(p->upstream);
    char why[128];
    va_list args;

    if (p->view->ejected || !take_place(p))
        return;
    unsigned number = ++p->view->ejections;
    double seconds = fmin(spec->time * number, spec->time_most);
    p->view->ejected_until = mg_clock_now() + seconds;
    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    mg_news_tell(p->upstream, p, MG_NEWS_EJECTED, "%s; for %g s (number %u)", why, seconds, number);
    mg_health_settle(p);
}

void mg_ejection_failed(struct mg_peer *p)
{
    const mg_eject_spec *spec = spec_of(p->upstream);
    uint32_t failures = __atomic_load_n(&p->view->failures, __ATOMIC_RELAXED);

    if (spec->on && spec->consecutive && failures >= spec->consecutive)
        eject(p, "%u tries in a row have failed", failures);
}

/* ---- And back. ---- */

/* All that ended. What is in flight is read last, so that none counts as ended that has just begun. */
static struct mg_window_count total_of(const struct mg_peer *p)
{
    uint64_t begun = __atomic_load_n(&p->view->requests, __ATOMIC_RELAXED);
    uint64_t active = (uint64_t)mg_peer_active(p);

    return (struct mg_window_count){ begun > active ? begun - active : 0,
                                     __atomic_load_n(&p->view->failed, __ATOMIC_RELAXED) };
}

static void bring_back(struct mg_peer *p, double now)
{
    __atomic_store_n(&p->view->failures, 0, __ATOMIC_RELAXED);
    mg_window_begin(&p->health->window, now, total_of(p));
    p->health->eased = now;
    if (!__atomic_exchange_n(&p->view->ejected, 0, __ATOMIC_ACQ_REL))
        return;
    mg_news_tell(p->upstream, p, MG_NEWS_BACK, "its ejection is over (number %u)", p->view->ejections);
    mg_health_settle(p);
}

/* A peer that does well for as long as an ejection takes counts one less of them. */
static void ease(struct mg_peer *p, double now)
{
    if (!p->view->ejections || now - p->health->eased < spec_of(p->upstream)->time)
        return;
    p->health->eased = now;
    p->view->ejections--;
}

/* ---- What the windows show. ---- */

struct sample {
    struct mg_peer *peer;
    double latency;
};

static void judge_errors(struct mg_peer *p, struct mg_window_count c)
{
    const mg_eject_spec *spec = spec_of(p->upstream);

    if (spec->errors > 0 && c.ended >= spec->least && (double)c.failed >= spec->errors * (double)c.ended)
        eject(p, "%llu of %llu tries within %g s have failed", (unsigned long long)c.failed,
              (unsigned long long)c.ended, spec->window);
}

static int by_latency(const void *a, const void *b)
{
    double x = ((const struct sample *)a)->latency, y = ((const struct sample *)b)->latency;

    return (x > y) - (x < y);
}

/* The median of all but the one at `own`; the samples are sorted. */
static double median_without(const struct sample *s, unsigned count, unsigned own)
{
    unsigned middle = (count - 1) / 2, below = middle - ((count - 1) % 2 == 0);
    double high = s[middle < own ? middle : middle + 1].latency, low = s[below < own ? below : below + 1].latency;

    return (low + high) / 2;
}

static void judge_latencies(struct mg_upstream *u, struct sample *samples, unsigned count)
{
    const mg_eject_spec *spec = spec_of(u);

    if (count < 3)
        return;
    qsort(samples, count, sizeof(*samples), by_latency);
    for (unsigned i = count; i-- > 0;) {
        double others = median_without(samples, count, i), own = samples[i].latency;
        if (own > spec->latency * others && own > others + LATENCY_LEAST)
            eject(samples[i].peer, "its latency is %.3g s, the others' %.3g s", own, others);
    }
}

/* True if its latency is worth a comparison. */
static bool judge_peer(struct mg_peer *p, double now)
{
    const mg_eject_spec *spec = spec_of(p->upstream);

    if (p->view->ejected) {
        if (p->view->ejected_until <= now)
            bring_back(p, now);
        return false;
    }
    ease(p, now);
    struct mg_window_count c = mg_window_look(&p->health->window, now, spec->window, total_of(p));
    judge_errors(p, c);
    return !p->view->ejected && c.ended >= spec->least && p->view->latency > 0;
}

void mg_ejection_judge(struct mg_upstream *u, double now)
{
    int peers = mg_upstream_count(u);
    struct sample *samples = spec_of(u)->latency > 0 ? calloc((size_t)peers + 1, sizeof(*samples)) : NULL;
    unsigned count = 0;

    for (int i = 0; i < peers; i++) {
        struct mg_peer *p = mg_upstream_peer(u, i);
        if (judge_peer(p, now) && samples)
            samples[count++] = (struct sample){ p, p->view->latency };
    }
    if (samples)
        judge_latencies(u, samples, count);
    free(samples);
}

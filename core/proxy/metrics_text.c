/* metrics_text.c - all that is counted, as text: Prometheus' format 0.0.4, or OpenMetrics 1.0.
 *
 * The two differ in how a counter is named where its kind is told, and in exemplars and an end, which only the latter
 * has. What lies beside the metrics (peers, upstreams) is read where it lies. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "breaker.h"
#include "canary.h"
#include "clock.h"
#include "seam.h"
#include "text.h"

enum { LINE_MOST = 8192 }; /* the longest: a name, the labels of metric.c, numbers, an exemplar */

static struct page {
    char *text;
    size_t len, room;
    bool open;   /* OpenMetrics */
    bool failed; /* no memory */
} page;

static bool make_room(size_t more)
{
    size_t room = page.room ? page.room : 65536;

    if (page.len + more <= page.room)
        return true;
    while (room < page.len + more)
        room *= 2;
    char *bigger = realloc(page.text, room);
    if (!bigger) {
        page.failed = true;
        return false;
    }
    page.text = bigger;
    page.room = room;
    return true;
}

static __attribute__((format(printf, 1, 2))) void put(const char *format, ...)
{
    va_list list;

    if (!make_room(LINE_MOST))
        return;
    va_start(list, format);
    int n = vsnprintf(page.text + page.len, LINE_MOST, format, list);
    va_end(list);
    page.len += n < LINE_MOST ? (size_t)n : LINE_MOST - 1;
}

/* A whole number as such; others with as few digits as give the same number again. */
static const char *number(double value, char text[32])
{
    if (isinf(value))
        return value > 0 ? "+Inf" : "-Inf";
    if (isnan(value))
        return "NaN";
    for (int digits = fabs(value) < 1e15 && value == floor(value) ? 15 : 6; digits <= 17; digits++) {
        snprintf(text, 32, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return text;
}

/* How OpenMetrics writes a bound: "1.0". */
static const char *bound(double value, char text[32])
{
    number(value, text);
    if (!strpbrk(text, ".e"))
        memcpy(text + strlen(text), ".0", 3);
    return text;
}

static void put_family(const char *name, const char *kind, const char *help)
{
    size_t len = strlen(name);

    if (page.open && strcmp(kind, "counter") == 0 && len > 6 && strcmp(name + len - 6, "_total") == 0)
        len -= 6;
    put("# HELP %.*s %s\n# TYPE %.*s %s\n", (int)len, name, help, (int)len, name, kind);
}

static void put_sample(const char *name, const char *more, const char *labels, double value)
{
    char text[32];

    const char *digits = number(value, text);

    if (*labels)
        put("%s%s{%s} %s\n", name, more, labels, digits);
    else
        put("%s%s %s\n", name, more, digits);
}

/* ---- Metrics. ---- */

static void put_exemplar(const struct mg_exemplar *e)
{
    char value[32], time[32];

    snprintf(time, sizeof(time), "%.3f", e->time);
    if (e->traced)
        put(" # {trace_id=\"%016llx%016llx\"} %s %s", (unsigned long long)e->id[0], (unsigned long long)e->id[1],
            number(e->value, value), time);
    else
        put(" # {request_id=\"%016llx\"} %s %s", (unsigned long long)e->id[1], number(e->value, value), time);
}

static void put_histogram(const struct mg_metric_about *m, const struct mg_metric_sum *s)
{
    const char *comma = *s->labels ? "," : "";
    double count = 0;
    char text[32], le[32];

    for (unsigned i = 0; i <= m->bound_count; i++) {
        count += s->cells[i];
        put("%s_bucket{%s%sle=\"%s\"} %s", m->name, s->labels, comma,
            i < m->bound_count ? bound(m->bounds[i], le) : "+Inf", number(count, text));
        if (page.open && s->exemplars[i].turn)
            put_exemplar(&s->exemplars[i]);
        put("\n");
    }
    put_sample(m->name, "_sum", s->labels, s->cells[m->bound_count + 1]);
    put_sample(m->name, "_count", s->labels, count);
}

static void put_metrics(void)
{
    static const char *const kinds[] = { "counter", "gauge", "histogram", "gauge" };
    static struct mg_metric_sum s;
    struct mg_metric_about m;

    for (unsigned n = 0; mg_metric_nth(n, &m); n++) {
        if (!m.first)
            continue;
        put_family(m.name, kinds[m.kind], m.help);
        for (uint32_t at = m.first; mg_metric_sum(&m, at, &s); at = s.next)
            if (m.kind == MG_METRIC_HISTOGRAM)
                put_histogram(&m, &s);
            else
                put_sample(m.name, "", s.labels, s.cells[0]);
    }
}

/* ---- Peers and upstreams of the generation in force. ---- */

static char *put_label(char *to, const char *name, mg_slice value)
{
    to = mg_text_put(to, mg_slice_of(name));
    to = mg_text_put(to, MG_LIT("=\""));
    for (uint32_t i = 0; i < value.len; i++) { /* names and addresses, that declare.lua and peer.c let in */
        if (value.ptr[i] == '"' || value.ptr[i] == '\\')
            *to++ = '\\';
        *to++ = value.ptr[i] == '\n' ? ' ' : value.ptr[i];
    }
    *to++ = '"';
    *to = '\0';
    return to;
}

static double requests_of(const struct mg_peer *p)
{
    return (double)p->view->requests;
}
static double failed_of(const struct mg_peer *p)
{
    return p->view->failed;
}
static double active_of(const struct mg_peer *p)
{
    return mg_peer_active(p);
}
static double healthy_of(const struct mg_peer *p)
{
    return p->view->healthy != 0;
}
static double ejected_of(const struct mg_peer *p)
{
    return p->view->ejected != 0;
}
static double draining_of(const struct mg_peer *p)
{
    return p->view->draining != 0;
}
static double latency_of(const struct mg_peer *p)
{
    return p->view->latency;
}
static double weight_of(const struct mg_peer *p)
{
    return p->weight;
}

static const struct {
    const char *name, *kind, *help;
    double (*value)(const struct mg_peer *p);
} of_peers[] = {
    { "moongate_peer_tries_total", "counter", "Tries at this peer that have begun.", requests_of },
    { "moongate_peer_failures_total", "counter", "Tries at this peer that have failed.", failed_of },
    { "moongate_peer_active", "gauge", "Tries at this peer that are under way.", active_of },
    { "moongate_peer_healthy", "gauge", "1 if the peer is neither down by its checks nor ejected.", healthy_of },
    { "moongate_peer_ejected", "gauge", "1 if the peer is ejected.", ejected_of },
    { "moongate_peer_draining", "gauge", "1 if the peer gets nothing new.", draining_of },
    { "moongate_peer_latency_seconds", "gauge", "Moving average of the time to the response's head.", latency_of },
    { "moongate_peer_weight", "gauge", "The peer's weight.", weight_of },
};

static void put_peers(const struct mg_generation *g)
{
    char labels[1024];

    for (unsigned k = 0; k < sizeof(of_peers) / sizeof(*of_peers); k++) {
        put_family(of_peers[k].name, of_peers[k].kind, of_peers[k].help);
        for (unsigned i = 0; i < g->upstream_count; i++) {
            const struct mg_upstream *u = g->upstreams[i];
            char *peer = put_label(labels, "upstream", mg_upstream_spec_of(u)->name);
            *peer++ = ',';
            for (int n = 0; n < mg_upstream_count(u); n++) {
                const struct mg_peer *p = mg_upstream_peer(u, n);
                char *end = put_label(peer, "peer", p->name);
                if (p->twin)
                    snprintf(end, 32, ",twin=\"%u\"", p->twin);
                put_sample(of_peers[k].name, "", labels, of_peers[k].value(p));
            }
        }
    }
}

static double retries_of(struct mg_upstream *u)
{
    return (double)mg_upstream_counts(u)->retries;
}
static double hedges_of(struct mg_upstream *u)
{
    return (double)mg_upstream_counts(u)->hedges;
}
static double won_of(struct mg_upstream *u)
{
    return (double)mg_upstream_counts(u)->hedges_won;
}
static double mirrored_of(struct mg_upstream *u)
{
    return (double)mg_upstream_counts(u)->mirrored;
}
static double dropped_of(struct mg_upstream *u)
{
    return (double)mg_upstream_counts(u)->mirrors_dropped;
}
static double panics_of(struct mg_upstream *u)
{
    return mg_upstream_panics(u);
}
static double open_of(struct mg_upstream *u)
{
    return strcmp(mg_breaker_word(u), "open") == 0;
}

static const struct {
    const char *name, *kind, *help;
    double (*value)(struct mg_upstream *u);
} of_upstreams[] = {
    { "moongate_upstream_retries_total", "counter", "Tries after the first of a request.", retries_of },
    { "moongate_upstream_hedges_total", "counter", "Second tries beside one that took long.", hedges_of },
    { "moongate_upstream_hedges_won_total", "counter", "Of those, the ones that answered first.", won_of },
    { "moongate_upstream_mirrored_total", "counter", "Copies of requests that it got.", mirrored_of },
    { "moongate_upstream_mirrors_dropped_total", "counter", "Copies that it should have got.", dropped_of },
    { "moongate_upstream_panic", "gauge", "1 if so few peers are healthy that all count.", panics_of },
    { "moongate_upstream_breaker_open", "gauge", "1 if the circuit breaker lets nothing pass.", open_of },
};

static void put_upstreams(const struct mg_generation *g)
{
    char labels[512];

    for (unsigned k = 0; k < sizeof(of_upstreams) / sizeof(*of_upstreams); k++) {
        put_family(of_upstreams[k].name, of_upstreams[k].kind, of_upstreams[k].help);
        for (unsigned i = 0; i < g->upstream_count; i++) {
            put_label(labels, "upstream", mg_upstream_spec_of(g->upstreams[i])->name);
            put_sample(of_upstreams[k].name, "", labels, of_upstreams[k].value(g->upstreams[i]));
        }
    }
}

static void put_gateway(const struct mg_generation *g)
{
    put_family("moongate_build_info", "gauge", "1, with the version.");
    put_sample("moongate_build_info", "", "version=\"" MG_VERSION "\"", 1);
    put_family("moongate_generation", "gauge", "The number of the generation in force.");
    put_sample("moongate_generation", "", "", g->number);
    put_family("moongate_generation_age_seconds", "gauge", "Since the generation in force was put there.");
    put_sample("moongate_generation_age_seconds", "", "", mg_clock_now() - g->in_force);
    put_family("moongate_metrics_crowded_out_total", "counter",
               "Looks for series that had no room and were counted as \"other\", or nowhere.");
    put_sample("moongate_metrics_crowded_out_total", "", "", mg_metric_crowded_out());
}

int mg_metrics_text(bool open, mg_slice *out)
{
    page.open = open;
    page.failed = false;
    page.len = 0;
    put_metrics();
    if (mg_generation_now && mg_generation_now->upstream_count) {
        put_peers(mg_generation_now);
        put_upstreams(mg_generation_now);
    }
    if (mg_generation_now)
        put_gateway(mg_generation_now);
    if (open)
        put("# EOF\n");
    *out = (mg_slice){ page.text, (uint32_t)page.len };
    return page.failed ? MG_NO_MEMORY : MG_OK;
}

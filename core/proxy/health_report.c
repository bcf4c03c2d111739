/* health_report.c - what `moongate status` says of an upstream: how many of its peers serve, and why others do not. */
#include "health_report.h"

#include <math.h>
#include <stdio.h>

#include "breaker.h"
#include "clock.h"
#include "text.h"

enum { NAMED_MOST = 16, ROOM = 2048 /* that one entry takes at most: six bytes for each of a name and of a reason */ };

static size_t report_peer(const struct mg_peer *p, char *to)
{
    const mg_peer_view *view = p->view;
    char why[sizeof(view->why)];
    double left = view->ejected ? fmax(0, view->ejected_until - mg_clock_now()) : 0;

    snprintf(why, sizeof(why), "%s", view->why);
    size_t n = (size_t)snprintf(to, ROOM, "{\"address\":\"");
    n += mg_text_put_json(to + n, p->name);
    n += (size_t)snprintf(to + n, ROOM - n, "\",\"state\":\"%s\",\"left\":%.1f,\"why\":\"",
                          view->down ? "unhealthy" : "ejected", left);
    n += mg_text_put_json(to + n, mg_slice_of(why));
    return n + (size_t)snprintf(to + n, ROOM - n, "\"}");
}

struct counts {
    unsigned peers, healthy, ejected, draining;
};

static struct counts count_peers(const struct mg_upstream *u)
{
    struct counts c = { .peers = (unsigned)mg_upstream_count(u) };

    for (unsigned i = 0; i < c.peers; i++) {
        const mg_peer_view *view = mg_upstream_peer(u, (int)i)->view;
        c.healthy += view->healthy != 0;
        c.ejected += view->ejected != 0;
        c.draining += view->draining != 0;
    }
    return c;
}

static size_t report_counts(const struct mg_upstream_counts *c, char *to, size_t room)
{
    return (size_t)snprintf(to, room,
                            ",\"retries\":%llu,\"hedges\":%llu,\"hedges_won\":%llu,\"mirrored\":%llu,"
                            "\"mirrors_dropped\":%llu",
                            (unsigned long long)c->retries, (unsigned long long)c->hedges,
                            (unsigned long long)c->hedges_won, (unsigned long long)c->mirrored,
                            (unsigned long long)c->mirrors_dropped);
}

static size_t report_head(struct mg_upstream *u, char *to)
{
    struct counts c = count_peers(u);
    size_t n = (size_t)snprintf(to, ROOM, "{\"name\":\"");

    n += mg_text_put_json(to + n, mg_upstream_spec_of(u)->name);
    n += (size_t)snprintf(to + n, ROOM - n,
                          "\",\"peers\":%u,\"healthy\":%u,\"ejected\":%u,\"draining\":%u,\"panic\":%s,"
                          "\"breaker\":\"%s\"",
                          c.peers, c.healthy, c.ejected, c.draining, mg_upstream_panics(u) ? "true" : "false",
                          mg_breaker_word(u));
    n += report_counts(mg_upstream_counts(u), to + n, ROOM - n);
    return n + (size_t)snprintf(to + n, ROOM - n, ",\"out\":[");
}

size_t mg_health_report(struct mg_upstream *u, char *to, size_t size)
{
    unsigned named = 0;

    if (size < ROOM + 3)
        return 0;
    size_t n = report_head(u, to);
    for (int i = 0, count = mg_upstream_count(u); i < count && named < NAMED_MOST && size - n > ROOM + 3; i++) {
        const struct mg_peer *p = mg_upstream_peer(u, i);
        if (p->view->healthy)
            continue;
        if (named++)
            to[n++] = ',';
        n += report_peer(p, to + n);
    }
    return n + (size_t)snprintf(to + n, size - n, "]}");
}

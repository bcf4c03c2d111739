/* peers.c - who the peers of upstreams are now, asked and told through the control socket: the worker's part. */
#include "peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "generation.h"
#include "roster.h"
#include "text.h"

enum { TEXTS = 5, ROW_MOST = 2048, TEXT_MOST = 1024 };

static const double KEEP_UP = 1; /* seconds */

struct order {
    mg_slice action, upstream, peer, weight, zone;
};

struct answer {
    char *to;
    size_t len;
};

static bool read_order(const char *text, size_t len, struct order *o)
{
    mg_slice *parts[TEXTS] = { &o->action, &o->upstream, &o->peer, &o->weight, &o->zone };

    for (unsigned i = 0; i < TEXTS; i++) {
        const char *end = memchr(text, '\0', len);
        if (!end)
            return false;
        *parts[i] = (mg_slice){ text, (uint32_t)(end - text) };
        len -= (size_t)(end - text) + 1;
        text = end + 1;
    }
    return true;
}

static int short_len(mg_slice s)
{
    return (int)(s.len < 200 ? s.len : 200);
}

static bool says(mg_slice s, const char *word)
{
    return mg_text_equal(s, mg_slice_of(word));
}

/* "peers: upstream "app": peer "10.0.0.1:80": why", as far as the order names them. */
static size_t put_error(char *to, const struct order *o, const char *why)
{
    char text[TEXT_MOST];
    size_t n = (size_t)snprintf(text, sizeof(text), "peers: ");

    if (o && o->upstream.len)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "upstream \"%.*s\": ", short_len(o->upstream),
                              o->upstream.ptr);
    if (o && o->peer.len)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "peer \"%.*s\": ", short_len(o->peer), o->peer.ptr);
    snprintf(text + n, sizeof(text) - n, "%s", why);
    n = (size_t)snprintf(to, ROW_MOST, "{\"error\":\"");
    n += mg_text_put_json(to + n, mg_slice_of(text));
    return n + (size_t)snprintf(to + n, 4, "\"}");
}

static struct mg_upstream *find_upstream(const struct mg_generation *g, mg_slice name)
{
    for (unsigned i = 0; i < g->upstream_count; i++)
        if (mg_text_equal(mg_upstream_spec_of(g->upstreams[i])->name, name))
            return g->upstreams[i];
    return NULL;
}

/* ---- The list. ---- */

static const char *state_of(const mg_peer_view *v)
{
    if (v->draining)
        return "draining";
    if (v->down)
        return "unhealthy";
    return v->ejected ? "ejected" : "in use";
}

static void put_text(struct answer *a, const char *before, mg_slice s)
{
    a->len += (size_t)snprintf(a->to + a->len, 64, "%s\"", before);
    a->len += mg_text_put_json(a->to + a->len, s);
    a->to[a->len++] = '"';
}

static void put_peer(struct answer *a, const struct mg_peer *p)
{
    const mg_peer_view *v = p->view;

    put_text(a, "{\"address\":", p->name);
    put_text(a, ",\"zone\":", p->zone);
    a->len += (size_t)snprintf(a->to + a->len, 512,
                               ",\"weight\":%g,\"state\":\"%s\",\"active\":%d,\"latency\":%.6f,\"requests\":%llu,"
                               "\"failed\":%u,\"failures\":%u,\"from\":\"%s\"}",
                               p->weight, state_of(v), mg_peer_active(p), v->latency, (unsigned long long)v->requests,
                               v->failed, v->failures, p->came ? "added" : "script");
}

static void put_upstream(struct answer *a, struct mg_upstream *u)
{
    mg_roster_follow(u);
    put_text(a, "{\"name\":", mg_upstream_spec_of(u)->name);
    a->len += (size_t)snprintf(a->to + a->len, 16, ",\"peers\":[");
    for (int i = 0; i < mg_upstream_count(u) && a->len < MG_PEERS_ANSWER_MOST - 2 * ROW_MOST; i++) {
        if (i)
            a->to[a->len++] = ',';
        put_peer(a, mg_upstream_peer(u, i));
    }
    a->len += (size_t)snprintf(a->to + a->len, 4, "]}");
}

static const char no_upstream[] = "there is no such upstream; `moongate peers` lists those that there are";

static size_t list(const struct mg_generation *g, const struct order *o, char *to)
{
    mg_slice name = o->upstream;
    struct answer a = { to, 0 };
    bool first = true;

    if (name.len && !find_upstream(g, name))
        return put_error(to, &(struct order){ .upstream = name }, no_upstream);
    a.len = (size_t)snprintf(to, 32, "{\"upstreams\":[");
    for (unsigned i = 0; i < g->upstream_count && a.len < MG_PEERS_ANSWER_MOST - 3 * ROW_MOST; i++) {
        struct mg_upstream *u = g->upstreams[i];
        if (name.len && !mg_text_equal(mg_upstream_spec_of(u)->name, name))
            continue;
        if (!first)
            to[a.len++] = ',';
        first = false;
        put_upstream(&a, u);
    }
    return a.len + (size_t)snprintf(to + a.len, 4, "]}");
}

/* ---- Changes. ---- */

static bool drain(struct mg_upstream *u, mg_slice address, bool on)
{
    bool any = false;

    for (int i = 0; i < mg_upstream_count(u); i++) {
        struct mg_peer *p = mg_upstream_peer(u, i);
        if (!mg_text_equal(p->name, address))
            continue;
        mg_peer_drain(p, on);
        any = true;
    }
    return any;
}

static struct mg_peer *find_peer(struct mg_upstream *u, mg_slice address)
{
    for (int i = 0; i < mg_upstream_count(u); i++)
        if (mg_text_equal(mg_upstream_peer(u, i)->name, address))
            return mg_upstream_peer(u, i);
    return NULL;
}

static double weight_of(mg_slice text)
{
    char digits[32], *end;

    if (!text.len || text.len >= sizeof(digits))
        return 0;
    memcpy(digits, text.ptr, text.len);
    digits[text.len] = '\0';
    double weight = strtod(digits, &end);
    return *end ? 0 : weight;
}

static const char *with_weight(const char *why, mg_slice given)
{
    static char text[TEXT_MOST];

    if (!why || !given.len || weight_of(given) > 0)
        return why;
    snprintf(text, sizeof(text), "%s, got \"%.*s\"", why, short_len(given), given.ptr);
    return text;
}

static const char *add(struct mg_upstream *u, const struct order *o)
{
    const struct mg_roster_said said = { .weight = o->weight.len ? weight_of(o->weight) : 1,
                                         .zone = o->zone,
                                         .tier = 1 };

    if (find_peer(u, o->peer))
        return "it is there already; give it another weight by `moongate peers weight`";
    return mg_roster_put(u, o->peer, &said);
}

static const char *weigh(struct mg_upstream *u, const struct order *o, const struct mg_peer *there)
{
    const struct mg_roster_said said = { .weight = weight_of(o->weight), .zone = there->zone, .tier = there->tier };

    if (!o->weight.len)
        return "a weight is needed behind it, like `moongate peers weight app 10.0.0.1:8080 2`";
    return mg_roster_put(u, o->peer, &said);
}

/* NULL, or why not. */
static const char *change(struct mg_upstream *u, const struct order *o)
{
    const struct mg_peer *there = find_peer(u, o->peer);

    if (says(o->action, "add"))
        return with_weight(add(u, o), o->weight);
    if (!there)
        return "there is no such peer; `moongate peers` with the upstream lists those that there are";
    if (says(o->action, "weight"))
        return with_weight(weigh(u, o, there), o->weight);
    if (says(o->action, "remove"))
        return mg_roster_remove(u, o->peer);
    (void)drain(u, o->peer, says(o->action, "drain"));
    return NULL;
}

static bool is_change(mg_slice action)
{
    return says(action, "add") || says(action, "remove") || says(action, "weight") || says(action, "drain") ||
           says(action, "undrain");
}

static size_t refuse_action(char *to, mg_slice action)
{
    char why[TEXT_MOST];

    snprintf(why, sizeof(why), "action \"%.*s\": there are list, add, remove, drain, undrain, weight and reset",
             short_len(action), action.ptr);
    return put_error(to, NULL, why);
}

size_t mg_peers_obey(const struct mg_generation *g, const char *order, size_t len, char *to)
{
    struct order o;
    const char *why = NULL;

    if (!read_order(order, len, &o))
        return put_error(to, NULL, "the order is not whole; ask again");
    if (says(o.action, "list"))
        return list(g, &o, to);
    if (!is_change(o.action) && !says(o.action, "reset"))
        return refuse_action(to, o.action);
    struct mg_upstream *u = find_upstream(g, o.upstream);
    if (!u)
        return put_error(to, &(struct order){ .upstream = o.upstream }, no_upstream);
    mg_roster_follow(u);
    if (says(o.action, "reset"))
        why = mg_roster_reset(u);
    else if (!o.peer.len)
        why = "an address is needed behind it, like `moongate peers add app 10.0.0.1:8080`";
    else
        why = change(u, &o);
    return why ? put_error(to, &o, why) : list(g, &o, to);
}

/* ---- Without requests. ---- */

static void on_keep_up(struct ev_loop *loop, ev_timer *t, int events)
{
    const struct mg_generation *now = mg_generation_now;

    (void)loop;
    (void)t;
    (void)events;
    for (unsigned i = 0; now && i < now->upstream_count; i++)
        mg_roster_keep_up(now->upstreams[i]);
}

void mg_peers_start_keeping_up(struct ev_loop *loop)
{
    static ev_timer timer;

    ev_timer_init(&timer, on_keep_up, KEEP_UP, KEEP_UP);
    ev_timer_start(loop, &timer);
}

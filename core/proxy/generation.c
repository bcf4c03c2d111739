/* generation.c - what one load of the script declared, filed and checked.
 *
 * The seam's mg_declare_* and mg_upstream_default, mg_limits_default end here.
 * Everything is copied into the generation's arena; nothing is bound. */
#include "generation.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "breaker.h"
#include "dial.h"
#include "log.h"
#include "shared.h"
#include "tls.h"

enum { GENERATION_MAGIC = 0x6d67676e, PROBLEM_MOST = 512, TRUSTED_MOST = 256, LISTENS_MOST = 256, TLS_MOST = 4096 };

struct mg_generation *mg_generation_now;
static char problem[PROBLEM_MOST];

__attribute__((format(printf, 1, 2))) static int refuse(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(problem, sizeof(problem), format, args);
    va_end(args);
    return MG_MALFORMED;
}

const char *mg_generation_problem(void)
{
    return problem;
}

static void default_settings(mg_settings *s)
{
    *s = (mg_settings){
        .drain_timeout = 30,
        .cpu_budget = 0.1,
        .memory_limit = 256.0 * 1024 * 1024,
        .shared_size = 1024.0 * 1024 * 1024,
        .log_flush = 1,
        .load_budget = 5,
        .max_decoded_size = 1024.0 * 1024 * 1024,
        .max_decoded_ratio = 300,
        .blocking_threshold = 0.05,
        .max_trips = 5,
        .trips_window = 60,
        .probation = 30,
        .probation_errors = 0.01,
        .probation_least = 5,
        .access_log = MG_LIT("stderr"),
        .error_log = MG_LIT("stderr"),
        .log_format = MG_LIT("json"),
        .log_level = MG_LIT("info"),
    };
}

struct mg_generation *mg_generation_new(unsigned number)
{
    struct mg_generation *g = calloc(1, sizeof(*g));

    if (!g)
        return NULL;
    g->magic = GENERATION_MAGIC;
    g->number = number;
    g->tally = mg_tally_of(mg_shared_worker_number(), number);
    g->arena = mg_arena_new();
    g->router = mg_router_new();
    g->listens = calloc(LISTENS_MOST, sizeof(*g->listens));
    if (!g->arena || !g->router || !g->listens) {
        mg_generation_free(g);
        return NULL;
    }
    g->unrouted.name = g->unrouted.pattern = MG_LIT("");
    default_settings(&g->settings);
    return g;
}

void mg_generation_free(struct mg_generation *g)
{
    for (unsigned i = 0; i < g->upstream_count; i++)
        mg_upstream_free(g->upstreams[i]);
    for (unsigned i = 0; i < g->tls_count; i++)
        mg_tls_drop(g->tls[i]);
    free(g->tls);
    if (g->router)
        mg_router_free(g->router);
    mg_news_free(&g->news);
    mg_tickets_free(&g->tickets);
    free(g->exchange_slots.free);
    free(g->connection_slots.free);
    free(g->upstreams);
    free(g->routes);
    free(g->listens);
    free(g->fault);
    free(g->outline);
    free(g->changes);
    free(g->files);
    free(g->kept);
    mg_hooks_free(&g->hooks);
    mg_arena_free(g->arena);
    free(g);
}

struct mg_route *mg_generation_tcp_route(const struct mg_generation *g, const struct mg_address *a)
{
    for (unsigned i = 0; i < g->listen_count; i++)
        if (g->listens[i].tcp >= 0 && mg_address_equal(&g->listens[i].address, a))
            return &g->routes[g->listens[i].tcp];
    return NULL;
}

bool mg_listen_trusts(const struct mg_listen *l, const struct mg_address *a)
{
    for (unsigned i = 0; i < l->trusted_count; i++)
        if (mg_network_has(&l->trusted[i], a))
            return true;
    return false;
}

uint32_t mg_slot_take(struct mg_slots *s)
{
    return s->free_count ? s->free[--s->free_count] : s->next++;
}

void mg_slot_give(struct mg_slots *s, uint32_t slot)
{
    if (s->free_count == s->room) {
        uint32_t room = s->room ? s->room * 2 : 64;
        uint32_t *bigger = realloc(s->free, room * sizeof(*bigger));
        if (!bigger)
            return; /* the number is not used again */
        s->free = bigger;
        s->room = room;
    }
    s->free[s->free_count++] = slot;
}

/* ---- What the script declares. ---- */

void mg_limits_default(mg_limits *l)
{
    *l = (mg_limits){
        .max_head_size = 32 * 1024,
        .max_fields = 128,
        .max_target_size = 8 * 1024,
        .max_chunk_line = 4 * 1024,
        .max_chunk_extensions = 16 * 1024,
        .max_trailer_size = 8 * 1024,
        .max_message_size = 1024 * 1024,
        .max_text_size = 1024 * 1024,
        .max_concurrent_streams = 128,
        .stream_window = 128 * 1024,
        .max_resets = 200,
        .max_control_frames = 1000,
        .handshake_timeout = 10,
        .head_timeout = 10,
        .body_timeout = 30,
        .send_timeout = 30,
        .idle_timeout = 60,
        .half_close_timeout = 1,
    };
}

void mg_upstream_default(mg_upstream_spec *spec)
{
    *spec = (mg_upstream_spec){
        .balance = MG_BALANCE_ROUND_ROBIN,
        .keepalive = 64,
        .max_head_size = 64 * 1024,
        .http2_connections = 4,
        .max_concurrent_streams = 100,
        .attempts = 2,
        .retry_on = 1u << MG_FAIL_CONNECT | 1u << MG_FAIL_CONNECT_TIMEOUT | 1u << MG_FAIL_TLS | 1u << MG_FAIL_RESET |
                    1u << MG_FAIL_STATUS,
        .retry_status_count = 2,
        .retry_status = { 502, 503 },
        .retry_budget = 0.2,
        .retry_after = 1,
        .retry_body = 64 * 1024,
        .connect_timeout = 3,
        .response_timeout = 60,
        .read_timeout = 60,
        .send_timeout = 30,
        .keepalive_timeout = 60,
        .queue_timeout = 1,
        .error_status_count = 4,
        .error_status = { 500, 502, 503, 504 },
        .eject = { .consecutive = 5,
                   .least = 20,
                   .errors = 0.5,
                   .window = 10,
                   .time = 10,
                   .time_most = 300,
                   .share = 0.5 },
        .breaker = { .consecutive = 0,
                     .least = 20,
                     .errors = 0.5,
                     .window = 10,
                     .tries = 3,
                     .time = 5,
                     .time_most = 60 },
    };
}

mg_settings *mg_generation_settings(mg_generation *g)
{
    return &g->settings;
}

void mg_settings_text(mg_generation *g, mg_slice *setting, const char *ptr, uint32_t len)
{
    *setting = mg_arena_copy(g->arena, (mg_slice){ ptr, len });
}

static int parse_trusted(struct mg_generation *g, struct mg_listen *l, mg_slice list)
{
    mg_slice item;

    l->trusted = mg_arena_take(g->arena, TRUSTED_MOST * sizeof(*l->trusted));
    if (!l->trusted)
        return refuse("out of memory");
    while (mg_text_next_item(&list, &item)) {
        if (l->trusted_count == TRUSTED_MOST)
            return refuse("trusted: more than %d networks", TRUSTED_MOST);
        if (!mg_network_parse(item, &l->trusted[l->trusted_count++]))
            return refuse("trusted: \"%.*s\" is not a network; write one like \"10.0.0.0/8\", \"::1\" or \"unix\"",
                          (int)item.len, item.ptr);
    }
    return MG_OK;
}

static struct mg_route *room_for_route(struct mg_generation *g)
{
    if (g->route_count == g->route_room) {
        unsigned room = g->route_room ? g->route_room * 2 : 32;
        struct mg_route *more = realloc(g->routes, room * sizeof(*more));
        if (!more)
            return NULL;
        g->routes = more;
        g->route_room = room;
    }
    return &g->routes[g->route_count];
}

/* It has a number among the routes, but no pattern: the listener alone leads to it. */
static bool add_tcp_route(struct mg_generation *g, struct mg_listen *l, const mg_listen_spec *spec)
{
    struct mg_route *r = room_for_route(g);

    if (!r)
        return false;
    *r = (struct mg_route){
        .name = spec->name.len ? mg_arena_copy(g->arena, spec->name) : l->text,
        .pattern = l->text,
        .where = l->where,
        .upstream = spec->upstream,
        .wants = spec->wants,
    };
    l->tcp = (int)g->route_count++;
    return true;
}

int mg_declare_listen(mg_generation *g, const mg_listen_spec *spec)
{
    struct mg_listen *l = &g->listens[g->listen_count];

    if (g->listen_count == LISTENS_MOST)
        return refuse("more than %d listeners", LISTENS_MOST);
    *l = (struct mg_listen){
        .backlog = spec->backlog,
        .http2 = spec->http2,
        .proxy_protocol = spec->proxy_protocol,
        .sni = spec->sni,
        .tcp = -1,
        .tls = spec->tls,
        .limits = spec->limits,
    };
    if (!mg_address_parse(spec->address, &l->address))
        return refuse("\"%.*s\" is not an address to listen at; write one like \"0.0.0.0:8080\", \"[::1]:8080\", "
                      "\":8080\" or \"unix:/run/gate.sock\"",
                      (int)spec->address.len, spec->address.ptr);
    for (unsigned i = 0; i < g->listen_count; i++)
        if (mg_address_equal(&g->listens[i].address, &l->address))
            return refuse("\"%.*s\" is listened at already (%.*s)", (int)spec->address.len, spec->address.ptr,
                          (int)g->listens[i].where.len, g->listens[i].where.ptr);
    l->text = mg_arena_copy(g->arena, spec->address);
    l->where = mg_arena_copy(g->arena, spec->where);
    l->times = mg_times_of(&l->limits);
    if (spec->trusted.len && parse_trusted(g, l, spec->trusted) != MG_OK)
        return MG_MALFORMED;
    if (spec->tcp && !add_tcp_route(g, l, spec))
        return refuse("out of memory");
    g->listen_count++;
    return spec->tcp ? l->tcp : MG_OK;
}

mg_tls *mg_declare_tls(mg_generation *g, const mg_tls_spec *spec)
{
    const char *why = "out of memory";
    struct mg_tls **more = g->tls_count < TLS_MOST ? realloc(g->tls, (g->tls_count + 1) * sizeof(*more)) : NULL;

    if (g->tls_count == TLS_MOST)
        why = "more than 4096 different ones";
    if (more)
        g->tls = more;
    struct mg_tls *tls = more ? mg_tls_new(spec, &why) : NULL;
    if (tls)
        g->tls[g->tls_count++] = tls;
    else
        refuse("tls: %s", why);
    return tls;
}

int mg_declare_certificate(mg_tls *tls, const mg_certificate_spec *spec)
{
    const char *why;

    return mg_tls_add(tls, spec, &why) == MG_OK ? MG_OK : refuse("tls: %s", why);
}

int mg_declare_tls_done(mg_tls *tls)
{
    const char *why;

    return mg_tls_complete(tls, &why) == MG_OK ? MG_OK : refuse("tls: %s", why);
}

int mg_connection_certificate(mg_connection_view *c, const mg_certificate_spec *spec)
{
    const char *why;

    if (c->phase != MG_CONNECTION_HELLO)
        return refuse("a certificate can be chosen in client_hello only");
    struct mg_certificate *chosen = mg_certificate_load(spec, &why);
    if (!chosen)
        return refuse("%s", why);
    mg_certificate_drop(c->certificate);
    c->certificate = chosen;
    return MG_OK;
}

mg_upstream *mg_declare_upstream(mg_generation *g, const mg_upstream_spec *spec)
{
    const char *why = NULL;
    struct mg_upstream **more = realloc(g->upstreams, (g->upstream_count + 1) * sizeof(*more));

    if (!more) {
        refuse("out of memory");
        return NULL;
    }
    g->upstreams = more;
    struct mg_upstream *u = mg_upstream_new(spec, &why);
    if (!u) {
        refuse("%s", why);
        return NULL;
    }
    g->upstreams[g->upstream_count++] = u;
    mg_upstream_watch(u)->news = &g->news;
    if (mg_breaker_open(u))
        return u;
    refuse("the shared memory has no room for one more breaker; raise shared_size");
    return NULL;
}

mg_peer *mg_declare_peer(mg_upstream *u, const char *address, uint32_t len, double weight, const char *zone,
                         uint32_t zlen)
{
    const char *why = NULL;
    struct mg_peer *p = mg_upstream_add_peer(u, (mg_slice){ address, len }, weight, (mg_slice){ zone, zlen }, &why);

    if (!p) {
        refuse("%s", why);
        return NULL;
    }
    p->declared = weight;
    p->place = (unsigned)p->index;
    return p;
}

/* False without memory. */
static bool make_mirror(mg_generation *g, const mg_route_spec *spec, struct mg_mirror **out)
{
    *out = NULL;
    if (!spec->mirror)
        return true;
    struct mg_mirror *m = mg_arena_zeroed(g->arena, sizeof(*m));
    if (m)
        *m = (struct mg_mirror){
            .upstream = spec->mirror,
            .share = spec->mirror_share,
            .max_body = spec->mirror_max_body,
            .max_active = spec->mirror_max_active,
        };
    *out = m;
    return m != NULL;
}

int mg_declare_route(mg_generation *g, const mg_route_spec *spec)
{
    struct mg_route *r = room_for_route(g);
    struct mg_mirror *mirror;
    const char *why = "out of memory";

    if (!r || !make_mirror(g, spec, &mirror) ||
        mg_router_add(g->router, spec->pattern, spec->methods, (int)g->route_count, &why) != MG_OK)
        return refuse("%s", why);
    *r = (struct mg_route){
        .name = mg_arena_copy(g->arena, spec->name.len ? spec->name : spec->pattern),
        .pattern = mg_arena_copy(g->arena, spec->pattern),
        .where = mg_arena_copy(g->arena, spec->where),
        .upstream = spec->upstream,
        .wants = spec->wants,
        .attempts = spec->attempts,
        .own_limits = spec->own_limits,
        .mirror = mirror,
        .limits = spec->limits,
        .times = mg_times_of(&spec->limits),
    };
    return (int)g->route_count++;
}

void mg_declare_use(mg_generation *g, uint32_t wants)
{
    g->use_wants = wants & (1u << MG_PHASE_REQUEST | MG_USE_CONNECT | MG_USE_INIT | MG_USE_EXIT | MG_USE_HELLO);
    g->unrouted.wants = wants & (1u << MG_PHASE_ERROR | 1u << MG_PHASE_RESPONSE | 1u << MG_PHASE_RESPONSE_BODY |
                                 1u << MG_PHASE_LOG);
}

int mg_declare_policy(mg_generation *g, const char *name, uint32_t len, int on_fail)
{
    return mg_hooks_add_policy(&g->hooks, (mg_slice){ name, len }, on_fail);
}

int mg_declare_hook(mg_generation *g, const char *who, uint32_t len, int policy)
{
    return mg_hooks_add(&g->hooks, (mg_slice){ who, len }, policy);
}

bool mg_policy_is_out(const mg_generation *g, int policy)
{
    return mg_hooks_is_out(&g->hooks, policy);
}

void mg_route_want(mg_generation *g, int route, int phase)
{
    if (route >= 0 && (unsigned)route < g->route_count)
        g->routes[route].wants |= 1u << phase;
}

void mg_hook_overran(mg_generation *g, int hook)
{
    const mg_settings *s = &g->settings;
    const struct mg_hook_policy *p = mg_hooks_trip(&g->hooks, hook, (unsigned)s->max_trips, s->trips_window);

    mg_meter_overran();
    if (!p)
        return;
    g->lua.out = g->lua.settled = 1;
    mg_log(MG_LOG_ERROR,
           "policy %s has overrun its budgets %.0f times within %.0f s and is taken out until the next reload: %s",
           p->name, s->max_trips, s->trips_window,
           p->on_fail == MG_ON_FAIL_OPEN ? "its hooks are skipped (on_fail = \"open\")"
                                         : "exchanges of its routes are answered with 503 (on_fail = \"closed\")");
}

void mg_connection_threw(mg_generation *g)
{
    g->tally->exchanges++;
    g->tally->throws++;
}

int mg_declare_done(mg_generation *g)
{
    if (!g->listen_count)
        return refuse("nothing is listened at; add a line like gate.listen \"127.0.0.1:8080\"");
    if (mg_router_compile(g->router) != MG_OK)
        return refuse("out of memory for %u routes", g->route_count);
    if (mg_arena_failed(g->arena))
        return refuse("out of memory");
    return MG_OK;
}

int mg_route_in_order(const mg_generation *g, int n)
{
    return mg_router_in_order(g->router, n);
}

void mg_problem(mg_slice *out)
{
    *out = mg_slice_of(problem);
}

mg_lua_counts *mg_lua_count(mg_generation *g)
{
    return &g->lua;
}

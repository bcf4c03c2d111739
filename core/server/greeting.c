/* greeting.c - what happens to a connection before its codec.
 *
 * A greeting goes from stage to stage and stops where it has to wait: for
 * bytes, or for hooks. Bytes that were read and belong to whoever follows are
 * put back in front of the transport (preface.h). */
#include "greeting.h"

#include <stdlib.h>
#include <string.h>

#include "hello.h"
#include "preface.h"
#include "proxy_header.h"
#include "tls.h"
#include "turned_away.h"

enum { BYTES_FIRST = 1024, BYTES_MOST = MG_PROXY_HEADER_MOST + MG_HELLO_MOST };

enum outcome { GO_ON, WAIT, REFUSE };

struct greeting {
    struct mg_connecting connecting; /* first */
    struct greeting *next, *previous;
    struct mg_timeout timer; /* for bytes that must come; then for a client that leaves while hooks run */
    const struct mg_listen *listen;
    struct mg_transport *transport;
    struct mg_peer_info info;
    mg_greeted *done;
    void *owner;
    struct mg_tcp_destination to;
    unsigned stage;
    bool reading;
    bool introduced; /* Lua knows its view */
    bool asked;      /* the hooks of this stage were begun */
    bool asking;     /* right now: it must not go meanwhile */
    bool answered;   /* and they were done before they said that they wait */
    bool ended;      /* the client had ended its side at the last look */
    char *bytes;     /* that were read, of malloc */
    size_t filled, room;
    char *names; /* what the view's sni and alpn point into */
    char ip[INET6_ADDRSTRLEN], local_ip[INET6_ADDRSTRLEN];
};

static struct greeting *greetings;

/* ---- Its end. ---- */

static void leave(struct greeting *g)
{
    struct mg_generation *generation = g->to.generation;

    mg_timeout_clear(&g->timer);
    mg_task_end(&g->connecting.task);
    if (g->introduced) {
        generation->policy->closed(generation->policy, &g->connecting.view);
        mg_slot_give(&generation->connection_slots, g->connecting.view.slot);
    }
    if (g->previous)
        g->previous->next = g->next;
    else
        greetings = g->next;
    if (g->next)
        g->next->previous = g->previous;
}

static void end(struct greeting *g, struct mg_transport *t)
{
    struct mg_certificate *certificate = g->connecting.view.certificate;

    leave(g);
    if (t && g->filled && !mg_preface_put(t, g->bytes, 0, g->filled)) {
        t->ops->close(t, true);
        t = NULL;
    } else if (!t || !g->filled) {
        free(g->bytes);
    }
    if (!t) {
        mg_certificate_drop(certificate);
        certificate = NULL;
    }
    g->done(g->owner, t, &g->info, &g->to, certificate);
    g->to.generation->exchanges--;
    free(g->names);
    free(g);
}

static void turn_away(struct greeting *g, bool abort)
{
    g->transport->ops->close(g->transport, abort);
    end(g, NULL);
}

/* ---- Reading what stands in front. ---- */

static void run(struct greeting *g);

static enum outcome refuse(const struct greeting *g, const char *why)
{
    mg_turned_away(&g->info, why);
    return REFUSE;
}

static void on_late(struct mg_timeout *t)
{
    struct greeting *g = MG_HOLDER(t, struct greeting, timer);

    refuse(g, "nothing that could be read came within head_timeout");
    turn_away(g, true);
}

static enum outcome await_bytes(struct greeting *g)
{
    if (!g->reading) {
        g->reading = true;
        g->timer.fire = on_late;
        mg_timeout_set(&g->timer, g->listen->times.head);
        g->transport->ops->want_read(g->transport, true);
    }
    return WAIT;
}

static void stop_reading(struct greeting *g)
{
    if (!g->reading)
        return;
    g->reading = false;
    mg_timeout_clear(&g->timer);
    g->transport->ops->want_read(g->transport, false);
}

static bool make_room(struct greeting *g)
{
    size_t room = g->room ? g->room * 2 : BYTES_FIRST;

    if (g->filled < g->room)
        return true;
    char *bytes = room <= BYTES_MOST ? realloc(g->bytes, room) : NULL;
    if (!bytes)
        return false;
    g->bytes = bytes;
    g->room = room;
    return true;
}

static void on_readable(struct mg_transport *t)
{
    struct greeting *g = t->owner;
    size_t n = 0;

    if (!make_room(g)) {
        turn_away(g, true);
        return;
    }
    switch (t->ops->read(t, g->bytes + g->filled, g->room - g->filled, &n)) {
    case MG_IO_DONE:
        g->filled += n;
        run(g);
        return;
    case MG_IO_AGAIN:
        return;
    case MG_IO_CLOSED:
    case MG_IO_ERROR:
        turn_away(g, false); /* as a port scan or a check whether we are there does: nothing to tell */
        return;
    }
}

static const struct mg_transport_events events = { .on_readable = on_readable };

/* ---- Asking hooks. ---- */

/* A client that has ended its sending may still want its answer; it counts as gone when a second look finds it so. */
static void on_look(struct mg_timeout *t)
{
    struct greeting *g = MG_HOLDER(t, struct greeting, timer);

    mg_timeout_set(t, g->listen->times.half_close);
    if (!g->transport->ops->ended(g->transport))
        return;
    if (!g->ended) {
        g->ended = true;
        return;
    }
    g->connecting.view.refused = 1;
    mg_task_gone(&g->connecting.task);
}

static void introduce(struct greeting *g)
{
    mg_connection_view *v = &g->connecting.view;

    g->introduced = true;
    v->ip = (mg_slice){ g->ip, (uint32_t)mg_endpoint_print(&g->info.client, g->ip) };
    v->local_ip = (mg_slice){ g->local_ip, (uint32_t)mg_endpoint_print(&g->info.local, g->local_ip) };
    v->port = g->info.client.port;
    v->local_port = g->info.local.port;
    v->slot = mg_slot_take(&g->to.generation->connection_slots);
}

/* Entered again when the hooks are done. */
static enum outcome ask(struct greeting *g, enum mg_connection_phase phase)
{
    struct mg_policy *policy = g->to.generation->policy;
    mg_connection_view *v = &g->connecting.view;

    if (!g->asked) {
        g->asked = true;
        if (!g->introduced)
            introduce(g);
        v->phase = (uint8_t)phase;
        g->timer.fire = on_look;
        mg_timeout_set(&g->timer, g->listen->times.half_close);
        g->asking = true;
        bool waits = policy->connect(policy, v) == MG_PARK;
        g->asking = false;
        if (waits && !g->answered)
            return WAIT;
        g->answered = false;
    }
    mg_timeout_clear(&g->timer);
    return v->refused ? REFUSE : GO_ON;
}

static void on_hooks_done(struct mg_connecting *c)
{
    struct greeting *g = (struct greeting *)c;

    if (g->asking)
        g->answered = true;
    else
        run(g);
}

/* ---- The stages. ---- */

static bool uses(const struct greeting *g, uint32_t bit)
{
    return g->to.generation->use_wants & bit;
}

static void take_off(struct greeting *g, size_t len)
{
    g->filled -= len;
    memmove(g->bytes, g->bytes + len, g->filled);
}

/* Who connects must be trusted with it, if the script says who is; and whether the client that is named then is a
 * trusted proxy is a question of its own. */
static enum outcome read_proxy_header(struct greeting *g)
{
    struct mg_proxy_header h;
    const char *why = "";

    if (!g->listen->proxy_protocol)
        return GO_ON;
    if (g->listen->trusted_count && !g->info.trusted)
        return refuse(g, "it is not in `trusted`, and only those may send a PROXY header");
    int n = mg_proxy_header_read(g->bytes, g->filled, &h, &why);
    if (n == 0)
        return await_bytes(g);
    if (n < 0)
        return refuse(g, why);
    stop_reading(g);
    take_off(g, (size_t)n);
    if (h.known) {
        g->info.client = mg_endpoint_of(&h.source);
        g->info.local = mg_endpoint_of(&h.destination);
        g->info.trusted = mg_listen_trusts(g->listen, &h.source);
    }
    return GO_ON;
}

static enum outcome ask_connect(struct greeting *g)
{
    return uses(g, MG_USE_CONNECT) ? ask(g, MG_CONNECTION_ACCEPTED) : GO_ON;
}

static bool keep_hello(struct greeting *g, const struct mg_hello *h)
{
    mg_connection_view *v = &g->connecting.view;

    g->names = malloc((size_t)h->sni.len + h->alpn.len + 1);
    if (!g->names)
        return false;
    mg_text_put(mg_text_put(g->names, h->sni), h->alpn);
    v->sni = (mg_slice){ g->names, h->sni.len };
    v->alpn = (mg_slice){ g->names + h->sni.len, h->alpn.len };
    g->to.name = v->sni;
    v->tls12 = h->tls12;
    v->tls13 = h->tls13;
    return true;
}

static enum outcome read_hello(struct greeting *g)
{
    struct mg_hello h;
    const char *why = "";

    if (!g->listen->sni && !(g->listen->tls && uses(g, MG_USE_HELLO)))
        return GO_ON;
    switch (mg_hello_read(g->bytes, g->filled, &h, &why)) {
    case MG_HELLO_PARTIAL:
        return await_bytes(g);
    case MG_HELLO_WHOLE:
        break;
    case MG_HELLO_NONE:
        stop_reading(g);
        return !g->listen->tls ? GO_ON : refuse(g, "it does not begin with a ClientHello of TLS");
    case MG_HELLO_MALFORMED:
        return refuse(g, why);
    }
    stop_reading(g);
    return keep_hello(g, &h) ? GO_ON : REFUSE;
}

static enum outcome ask_client_hello(struct greeting *g)
{
    return g->names && uses(g, MG_USE_HELLO) ? ask(g, MG_CONNECTION_HELLO) : GO_ON;
}

static enum outcome choose(struct greeting *g)
{
    mg_connection_view *v = &g->connecting.view;

    if (g->listen->tcp < 0)
        return GO_ON;
    g->to.route = mg_generation_tcp_route(g->to.generation, &g->listen->address);
    if (!g->to.route)
        return REFUSE; /* the script that is in force now knows it no more */
    g->to.upstream = g->to.route->upstream;
    if (g->to.upstream)
        return GO_ON;
    v->route = (int32_t)(g->to.route - g->to.generation->routes);
    enum outcome o = ask(g, MG_CONNECTION_CHOOSE);
    if (o != GO_ON)
        return o;
    g->to.upstream = v->upstream;
    return g->to.upstream ? GO_ON : REFUSE;
}

static enum outcome (*const stages[])(struct greeting *) = {
    read_proxy_header, ask_connect, read_hello, ask_client_hello, choose,
};
enum { STAGES = sizeof(stages) / sizeof(*stages) };

/* May end g. */
static void run(struct greeting *g)
{
    while (g->stage < STAGES) {
        enum outcome o = stages[g->stage](g);
        if (o == WAIT)
            return;
        if (o == REFUSE) {
            turn_away(g, false);
            return;
        }
        g->stage++;
        g->asked = false;
    }
    end(g, g->transport);
}

/* ---- The way in. ---- */

bool mg_greeting_is_due(const struct mg_listen *l)
{
    uint32_t wants = mg_generation_now->use_wants;

    return l->proxy_protocol || l->tcp >= 0 || wants & MG_USE_CONNECT || (l->tls && wants & MG_USE_HELLO);
}

void mg_greeting_begin(struct mg_transport *t, const struct mg_listen *listen, const struct mg_peer_info *info,
                       mg_greeted *done, void *owner)
{
    struct greeting *g = calloc(1, sizeof(*g));

    if (!g) {
        t->ops->close(t, true);
        done(owner, NULL, info, NULL, NULL);
        return;
    }
    g->listen = listen;
    g->transport = t;
    g->info = *info;
    g->done = done;
    g->owner = owner;
    t->events = &events;
    t->owner = g;
    g->next = greetings;
    if (greetings)
        greetings->previous = g;
    greetings = g;
    g->to.generation = mg_generation_now;
    mg_task_init(&g->connecting.task, mg_generation_now);
    mg_generation_now->exchanges++; /* it must not go while hooks of it are at work */
    g->connecting.done = on_hooks_done;
    g->connecting.view = (mg_connection_view){ .task = &g->connecting.task, .accepted = mg_clock_wall() };
    run(g);
}

static struct greeting *first_asked(const struct mg_generation *of)
{
    struct greeting *g = greetings;

    while (g && (g->to.generation != of || !g->asked || g->asking))
        g = g->next;
    return g;
}

void mg_greeting_lost(const struct mg_generation *lost)
{
    struct greeting *g;

    while ((g = first_asked(lost)))
        turn_away(g, true);
}

void mg_greeting_close(void)
{
    while (greetings)
        turn_away(greetings, true);
}

/* listener.c - accepts connections and starts a codec on each.
 *
 * What the script says of a listener are its terms. A reload gives a listener
 * new ones; a connection keeps those it began with, and holds them.
 *
 * Running out of descriptors or memory must not cost more than the connection
 * that can't be had: accepting pauses, which is told once, and goes on when
 * something is freed. */
#include "listener.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ev.h>

#include "exchange.h"
#include "greeting.h"
#include "h2.h"
#include "handshake.h"
#include "log.h"
#include "meter.h"
#include "tcp.h"
#include "transport.h"

enum { ACCEPTS_A_TURN = 64 };
static const double PAUSE = 0.1; /* seconds until accepting is tried again */
static const double OVER = 10;   /* seconds without trouble after which it is told again */

struct terms {
    unsigned refs; /* connections, and the listener while they are in force */
    struct mg_listener *listener;
    struct mg_listen listen; /* a copy: they outlive the generation */
    struct mg_h1_settings settings;
};

struct mg_listener {
    struct ev_loop *loop;
    struct terms *terms; /* of new connections */
    ev_io accept;
    ev_timer pause;
    unsigned connections;
    char *name; /* as declared */
    struct mg_listener_meter meter;
    bool started, full; /* full: at max_connections */
    bool removed;       /* freed with its last connection */
};

static struct mg_carrier *carriers; /* of all listeners */
static unsigned connections;
static bool draining;

unsigned mg_listener_connections(void)
{
    return connections;
}

static void pause_accepting(struct mg_listener *l)
{
    ev_io_stop(l->loop, &l->accept);
    ev_timer_stop(l->loop, &l->pause);
    ev_timer_set(&l->pause, PAUSE, 0);
    ev_timer_start(l->loop, &l->pause);
}

static void resume_accepting(struct mg_listener *l)
{
    const mg_limits *limits = &l->terms->listen.limits;

    l->full = limits->max_connections && l->connections >= limits->max_connections;
    if (l->started && !l->full && !ev_is_active(&l->accept))
        ev_io_start(l->loop, &l->accept);
}

static void on_pause(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    resume_accepting(w->data);
}

/* ---- Terms. ---- */

static struct terms *terms_new(struct mg_listener *l, const struct mg_listen *listen)
{
    size_t trusted = listen->trusted_count * sizeof(*listen->trusted);
    struct terms *t = malloc(sizeof(*t) + trusted);

    if (!t)
        return NULL;
    t->refs = 1;
    t->listener = l;
    t->listen = *listen;
    t->listen.text = t->listen.where = (mg_slice){ "", 0 };
    t->listen.trusted = (struct mg_network *)(t + 1);
    if (trusted)
        memcpy(t + 1, listen->trusted, trusted);
    if (t->listen.tls)
        mg_tls_hold(t->listen.tls);
    t->settings = (struct mg_h1_settings){ &t->listen.limits, t->listen.times, &draining };
    return t;
}

static void terms_drop(struct terms *t)
{
    if (--t->refs)
        return;
    mg_tls_drop(t->listen.tls);
    free(t);
}

/* ---- One connection. ---- */

static void count_in(struct terms *t)
{
    connections++;
    t->listener->connections++;
    t->refs++;
    mg_meter_opened(&t->listener->meter, mg_slice_of(t->listener->name));
}

static void free_removed(struct mg_listener *l)
{
    if (!l->removed || l->connections)
        return;
    terms_drop(l->terms);
    free(l->name);
    free(l);
}

static void count_out(struct terms *t)
{
    struct mg_listener *l = t->listener;

    connections--;
    l->connections--;
    mg_meter_closed(&l->meter, mg_slice_of(l->name));
    if (l->full)
        resume_accepting(l);
    terms_drop(t);
    free_removed(l);
}

static void on_stream(struct mg_carrier *c, struct mg_stream *s, const struct mg_message *request, bool last)
{
    mg_exchange_open(s, request, last, &((struct terms *)c->owner)->listen.limits);
}

static void on_closed(struct mg_carrier *c)
{
    if (c->previous)
        c->previous->next = c->next;
    else
        carriers = c->next;
    if (c->next)
        c->next->previous = c->previous;
    count_out(c->owner);
}

static const struct mg_carrier_events carrier_events = { .on_stream = on_stream, .on_closed = on_closed };

/* The codec's, or NULL without memory. */
static void adopt(struct terms *terms, struct mg_carrier *c)
{
    if (!c) {
        count_out(terms);
        return;
    }
    c->next = carriers;
    if (carriers)
        carriers->previous = c;
    carriers = c;
    if (draining)
        c->ops->drain(c);
}

/* A client that begins with HTTP/2 in clear text, without asking (RFC 9113 3.3). */
static void on_preface(struct mg_carrier *c, struct mg_transport *t, mg_slice begun)
{
    struct terms *terms = c->owner;

    count_in(terms);
    adopt(terms, mg_h2_serve(t, &terms->settings, &c->info, &carrier_events, terms, begun));
}

static const struct mg_carrier_events either_events = {
    .on_stream = on_stream,
    .on_preface = on_preface,
    .on_closed = on_closed,
};

static void serve_tcp(struct terms *terms, struct mg_transport *t, const struct mg_peer_info *info,
                      const struct mg_tcp_destination *to)
{
    struct mg_carrier *c = mg_tcp_serve(t, &terms->listen.times, info, &carrier_events, terms);

    adopt(terms, c);
    if (c)
        mg_exchange_open_tcp(mg_tcp_stream(c), to, &terms->listen.limits);
}

/* What TLS has hidden goes where the route leads. */
static void serve_tcp_in_tls(struct terms *terms, struct mg_transport *t, const struct mg_peer_info *info)
{
    struct mg_generation *g = mg_generation_now;
    struct mg_route *r = mg_generation_tcp_route(g, &terms->listen.address);
    mg_tls_about about;

    if (!r || !r->upstream) { /* the script that is in force now knows it no more */
        t->ops->close(t, true);
        count_out(terms);
        return;
    }
    mg_tls_session_about(info->tls, &about);
    serve_tcp(terms, t, info, &(struct mg_tcp_destination){ g, r, r->upstream, about.sni });
}

/* With TLS the client has chosen its protocol in the handshake (RFC 9113 3.2). */
static void on_handshake(void *owner, struct mg_transport *t, const struct mg_peer_info *info)
{
    struct terms *terms = owner;

    if (!t)
        count_out(terms);
    else if (terms->listen.tcp >= 0)
        serve_tcp_in_tls(terms, t, info);
    else if (mg_tls_protocol(t) == MG_TLS_HTTP2)
        adopt(terms, mg_h2_serve(t, &terms->settings, info, &carrier_events, terms, (mg_slice){ "", 0 }));
    else
        adopt(terms, mg_h1_serve(t, &terms->settings, info, &carrier_events, terms));
}

static void serve(struct terms *terms, struct mg_transport *t, const struct mg_peer_info *info,
                  struct mg_certificate *certificate)
{
    const struct mg_listen *listen = &terms->listen;

    if (listen->tls) {
        mg_handshake_begin(t, listen, certificate, info, on_handshake, terms);
        return;
    }
    adopt(terms, mg_h1_serve(t, &terms->settings, info, listen->http2 ? &either_events : &carrier_events, terms));
}

static void on_greeted(void *owner, struct mg_transport *t, const struct mg_peer_info *info,
                       const struct mg_tcp_destination *to, struct mg_certificate *certificate)
{
    struct terms *terms = owner;

    if (t && (terms->listen.tcp < 0 || terms->listen.tls)) {
        serve(terms, t, info, certificate);
        return;
    }
    mg_certificate_drop(certificate); /* it was of no use */
    if (t)
        serve_tcp(terms, t, info, to);
    else
        count_out(terms);
}

/* ---- Accepting. ---- */

/* The wildcard address does not say where a connection came in; its socket does. */
static struct mg_endpoint local_end(int fd, const struct mg_listen *listen)
{
    struct mg_address a = listen->address;
    bool any = (a.any.sa_family == AF_INET && a.ip4.sin_addr.s_addr == INADDR_ANY) ||
               (a.any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&a.ip6.sin6_addr));

    if (any) {
        a.len = sizeof(a.path);
        if (getsockname(fd, &a.any, &a.len) != 0)
            a = listen->address;
    }
    return mg_endpoint_of(&a);
}

static void begin(struct terms *terms, int fd, const struct mg_address *a)
{
    bool tcp = a->any.sa_family != AF_UNIX;
    struct mg_peer_info info = {
        .client = mg_endpoint_of(a),
        .local = local_end(fd, &terms->listen),
        .trusted = mg_listen_trusts(&terms->listen, a),
    };
    struct mg_transport *t = mg_transport_accepted(fd, tcp);

    if (!t)
        return;
    mg_meter_accepted(&terms->listener->meter, mg_slice_of(terms->listener->name));
    count_in(terms);
    if (mg_greeting_is_due(&terms->listen))
        mg_greeting_begin(t, &terms->listen, &info, on_greeted, terms);
    else
        serve(terms, t, &info, NULL);
}

/* Connections come and go at the limit, so one that was had is not the end of it. */
static void tell_out(int error)
{
    static double last = -1e9;
    struct rlimit limit = { 0 };
    bool first = mg_clock_now() - last > OVER;

    last = mg_clock_now();
    if (!first)
        return;
    if (error == ENOBUFS || error == ENOMEM) {
        mg_log(MG_LOG_WARN, "out of memory: no connections are accepted until there is some");
        return;
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    mg_log(MG_LOG_WARN,
           "out of file descriptors: no connections are accepted until some are free (the limit is %llu; raise it "
           "with ulimit -n or LimitNOFILE=)",
           (unsigned long long)limit.rlim_cur);
}

/* False when there is nothing more to accept now. */
static bool accept_one(struct mg_listener *l)
{
    struct mg_address a = { .len = sizeof(a.path) };
    int fd = accept4(l->accept.fd, &a.any, &a.len, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0) {
        begin(l->terms, fd, &a);
        return true;
    }
    switch (errno) {
    case ECONNABORTED:
    case EINTR:
        return true;
    case EAGAIN:
        return false;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        tell_out(errno);
        pause_accepting(l);
        return false;
    default:
        pause_accepting(l); /* whatever it is, it must not be asked for without end */
        return false;
    }
}

static void on_accept(struct ev_loop *loop, ev_io *w, int events)
{
    struct mg_listener *l = w->data;
    const mg_limits *limits = &l->terms->listen.limits;

    (void)events;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        if (limits->max_connections && l->connections >= limits->max_connections) {
            l->full = true;
            mg_meter_full(&l->meter, mg_slice_of(l->name));
            ev_io_stop(loop, w);
            return;
        }
        if (!accept_one(l))
            return;
    }
}

/* ---- Listeners. ---- */

struct mg_listener *mg_listener_new(struct ev_loop *loop, int fd, const struct mg_listen *listen)
{
    struct mg_listener *l = calloc(1, sizeof(*l));

    if (!l || !(l->name = strndup(listen->text.ptr, listen->text.len)) || !(l->terms = terms_new(l, listen))) {
        if (l)
            free(l->name);
        free(l);
        return NULL;
    }
    l->loop = loop;
    ev_io_init(&l->accept, on_accept, fd, EV_READ);
    ev_timer_init(&l->pause, on_pause, PAUSE, 0);
    l->accept.data = l->pause.data = l;
    return l;
}

bool mg_listener_settle(struct mg_listener *l, const struct mg_listen *listen)
{
    struct terms *t = terms_new(l, listen);

    if (!t)
        return false;
    terms_drop(l->terms);
    l->terms = t;
    if (l->full)
        resume_accepting(l);
    return true;
}

const struct mg_address *mg_listener_address(const struct mg_listener *l)
{
    return &l->terms->listen.address;
}

void mg_listener_start(struct mg_listener *l)
{
    l->started = true;
    ev_io_start(l->loop, &l->accept);
}

void mg_listener_stop(struct mg_listener *l)
{
    if (!l->started)
        return;
    l->started = false;
    ev_io_stop(l->loop, &l->accept);
    ev_timer_stop(l->loop, &l->pause);
    close(l->accept.fd);
}

void mg_listener_remove(struct mg_listener *l)
{
    /* Who has connected already is not turned away. */
    for (int i = 0; l->started && !l->full && i < ACCEPTS_A_TURN && accept_one(l); i++)
        ;
    mg_listener_stop(l);
    l->removed = true;
    free_removed(l);
}

void mg_listener_drain(void)
{
    draining = true;
    for (struct mg_carrier *c = carriers, *next; c; c = next) {
        next = c->next;
        c->ops->drain(c);
    }
}

void mg_listener_close(void)
{
    for (struct mg_carrier *c = carriers, *next; c; c = next) {
        next = c->next;
        c->ops->close(c);
    }
    mg_handshake_close();
    mg_greeting_close();
}

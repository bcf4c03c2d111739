/* dns.c - the way to the name servers: one channel of c-ares, on the loop. */
#include "dns.h"

#include <stdlib.h>

#include <ares.h>
#include <ev.h>

enum { TRIES = 2, TRY_MS = 2000 };

/* A socket of c-ares. */
struct door {
    ev_io io;
    struct door *next;
};

static struct ev_loop *loop;
static ares_channel channel;
static ev_timer timer;
static struct door *doors;

const char *mg_dns_problem(int status)
{
    switch (status) {
    case ARES_ENOTFOUND:
    case ARES_ENONAME:
        return "no such name";
    case ARES_ENODATA:
        return "the name has no address";
    case ARES_EBADNAME:
        return "not a name";
    case ARES_ENOMEM:
        return "no memory";
    case ARES_ETIMEOUT:
    case ARES_ECONNREFUSED:
        return "the name servers do not answer";
    default:
        return "the name servers can't answer";
    }
}

/* When does c-ares want to be called again? */
void mg_dns_asked(void)
{
    struct timeval tv;

    ev_timer_stop(loop, &timer);
    if (!ares_timeout(channel, NULL, &tv))
        return;
    ev_timer_set(&timer, (double)tv.tv_sec + (double)tv.tv_usec * 1e-6 + 0.001, 0);
    ev_timer_start(loop, &timer);
}

static void on_timer(struct ev_loop *l, ev_timer *w, int events)
{
    (void)l, (void)w, (void)events;
    ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    mg_dns_asked();
}

static void on_door(struct ev_loop *l, ev_io *w, int events)
{
    (void)l;
    int fd = w->fd; /* c-ares may close it, and the door goes with it */
    ares_process_fd(channel, events & EV_READ ? fd : ARES_SOCKET_BAD, events & EV_WRITE ? fd : ARES_SOCKET_BAD);
    mg_dns_asked();
}

/* c-ares says what it waits for; nothing at all when it closes the socket. */
static void on_socket_state(void *data, ares_socket_t fd, int readable, int writable)
{
    (void)data;
    struct door **at = &doors;
    while (*at && (*at)->io.fd != fd)
        at = &(*at)->next;

    struct door *d = *at;
    if (!readable && !writable) {
        if (!d)
            return;
        *at = d->next;
        ev_io_stop(loop, &d->io);
        free(d);
        return;
    }
    if (!d) {
        d = calloc(1, sizeof(*d));
        if (!d)
            return; /* the question runs into its timeout */
        d->next = doors;
        doors = d;
        ev_init(&d->io, on_door);
    }
    ev_io_stop(loop, &d->io);
    ev_io_set(&d->io, fd, (readable ? EV_READ : 0) | (writable ? EV_WRITE : 0));
    ev_io_start(loop, &d->io);
}

struct ares_channeldata *mg_dns_channel(void)
{
    return channel;
}

bool mg_dns_start(struct ev_loop *on, const char *servers)
{
    if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS)
        return false;

    loop = on;
    ev_timer_init(&timer, on_timer, 0, 0);
    char lookups[] = "fb"; /* /etc/hosts, then the servers */
    /* clang-format off */
    struct ares_options options = {
        .timeout = TRY_MS, .tries = TRIES, .lookups = lookups, .sock_state_cb = on_socket_state,
    };
    /* clang-format on */
    int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB;
    if (ares_init_options(&channel, &options, mask) != ARES_SUCCESS) {
        channel = NULL;
        ares_library_cleanup();
        return false;
    }
    if (servers && ares_set_servers_ports_csv(channel, servers) != ARES_SUCCESS) {
        mg_dns_stop();
        return false;
    }
    return true;
}

void mg_dns_stop(void)
{
    ares_destroy(channel);
    channel = NULL;
    ares_library_cleanup();
    ev_timer_stop(loop, &timer);
}

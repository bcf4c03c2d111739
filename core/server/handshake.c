/* handshake.c - TLS handshakes of clients: begun, waited for, given up.
 *
 * Half of the internet's handshakes come from scanners, so failures are told
 * once a second, with how many others there were. */
#include "handshake.h"

#include <stddef.h>
#include <stdlib.h>

#include "log.h"

static const double TOLD = 1; /* seconds between two lines about failures */

struct handshake {
    struct handshake *next, *previous;
    struct mg_transport *transport;
    struct mg_timeout timeout;
    struct mg_peer_info info;
    mg_handshake_done *done;
    void *owner;
};

static struct handshake *handshakes;

static void unlink_handshake(struct handshake *h)
{
    mg_timeout_clear(&h->timeout);
    if (h->previous)
        h->previous->next = h->next;
    else
        handshakes = h->next;
    if (h->next)
        h->next->previous = h->previous;
}

static void end(struct handshake *h, struct mg_transport *t)
{
    mg_handshake_done *done = h->done;
    struct mg_peer_info info = h->info;
    void *owner = h->owner;

    unlink_handshake(h);
    if (!t)
        h->transport->ops->close(h->transport, true);
    free(h);
    done(owner, t, &info);
}

static void tell(const struct handshake *h, const char *why)
{
    static double last = -1e9;
    static unsigned others;
    char ip[INET6_ADDRSTRLEN];
    double now = mg_clock_now();

    if (now - last < TOLD) {
        others++;
        return;
    }
    int len = (int)mg_endpoint_print(&h->info.client, ip);
    if (others)
        mg_log(MG_LOG_INFO, "client %.*s: %s (and %u others since the last such line)", len, ip, why, others);
    else
        mg_log(MG_LOG_INFO, "client %.*s: %s", len, ip, why);
    last = now;
    others = 0;
}

static void on_timeout(struct mg_timeout *t)
{
    struct handshake *h = (struct handshake *)((char *)t - offsetof(struct handshake, timeout));

    tell(h, "the TLS handshake did not end within handshake_timeout");
    end(h, NULL);
}

static void on_shaken(struct mg_transport *t, int error)
{
    struct handshake *h = t->owner;

    if (error) {
        tell(h, mg_tls_problem());
        end(h, NULL);
        return;
    }
    h->info.tls = mg_tls_session_of(t);
    end(h, t);
}

static const struct mg_transport_events events = { .on_connected = on_shaken };

void mg_handshake_begin(struct mg_transport *t, struct mg_tls *tls, struct mg_clock_queue *patience,
                        const struct mg_peer_info *info, mg_handshake_done *done, void *owner)
{
    struct handshake *h = calloc(1, sizeof(*h));

    if (h)
        h->transport = mg_tls_serve(t, tls, &events, h);
    else
        t->ops->close(t, true);
    if (!h || !h->transport) {
        free(h);
        done(owner, NULL, info);
        return;
    }
    h->info = *info;
    h->done = done;
    h->owner = owner;
    h->timeout.fire = on_timeout;
    mg_timeout_set(&h->timeout, patience);
    h->next = handshakes;
    if (handshakes)
        handshakes->previous = h;
    handshakes = h;
}

void mg_handshake_close(void)
{
    while (handshakes)
        end(handshakes, NULL);
}

/* handshake.c - TLS handshakes of clients: begun, waited for, given up. */
#include "handshake.h"

#include <stddef.h>
#include <stdlib.h>

#include "meter.h"
#include "turned_away.h"

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

static void on_timeout(struct mg_timeout *t)
{
    struct handshake *h = MG_HOLDER(t, struct handshake, timeout);

    mg_turned_away(&h->info, "the TLS handshake did not end within handshake_timeout");
    end(h, NULL);
}

static void on_shaken(struct mg_transport *t, int error)
{
    struct handshake *h = t->owner;

    if (error) {
        mg_turned_away(&h->info, mg_tls_problem());
        end(h, NULL);
        return;
    }
    h->info.tls = mg_tls_session_of(t);
    mg_meter_handshake(mg_tls_session_is_resumed(h->info.tls));
    end(h, t);
}

static const struct mg_transport_events events = { .on_connected = on_shaken };

void mg_handshake_begin(struct mg_transport *t, const struct mg_listen *listen, struct mg_certificate *certificate,
                        const struct mg_peer_info *info, mg_handshake_done *done, void *owner)
{
    struct handshake *h = calloc(1, sizeof(*h));

    if (h) {
        h->transport = mg_tls_serve(t, listen->tls, certificate, &events, h);
    } else {
        mg_certificate_drop(certificate);
        t->ops->close(t, true);
    }
    if (!h || !h->transport) {
        free(h);
        done(owner, NULL, info);
        return;
    }
    h->info = *info;
    h->done = done;
    h->owner = owner;
    h->timeout.fire = on_timeout;
    mg_timeout_set(&h->timeout, mg_clock_queue(listen->limits.handshake_timeout));
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

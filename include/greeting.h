/* greeting.h - a client's connection between accept and its codec: who it is from, and whether it may come in.
 *
 * In this order: the PROXY header, the connect phase, the ClientHello, the
 * client_hello phase, and the choice of a TCP route's upstream. A listener that
 * wants none of them is served at once. */
#pragma once

#include "generation.h"
#include "stream.h"
#include "transport.h"

/* Once, from the loop or from mg_greeting_begin(): t, from which nothing seems to have been read, or NULL when the
 * connection was turned away and is closed. `to` is filled in for a TCP route, and valid until this returns.
 * `certificate`, which the receiver takes over, was chosen for it, or is NULL. */
typedef void mg_greeted(void *owner, struct mg_transport *t, const struct mg_peer_info *info,
                        const struct mg_tcp_destination *to, struct mg_certificate *certificate);

/* Is there anything to do before the codec? */
bool mg_greeting_is_due(const struct mg_listen *listen);
/* Takes t over; `listen` must live as long. */
void mg_greeting_begin(struct mg_transport *t, const struct mg_listen *listen, const struct mg_peer_info *info,
                       mg_greeted *done, void *owner);
/* The VM of this generation is lost, or about to be closed: those whose hooks wait in it are turned away. */
void mg_greeting_lost(const struct mg_generation *lost);
/* Ends all of them at once; done() comes for each. */
void mg_greeting_close(void);

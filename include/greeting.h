/* greeting.h - a client's connection between accept and its codec: who it is from, and whether it may come in.
 *
 * In this order: the PROXY header, the connect phase, the ClientHello, the
 * client_hello phase. A listener that wants none of them is served at once. */
#pragma once

#include "generation.h"
#include "stream.h"
#include "transport.h"

/* Once, from the loop or from mg_greeting_begin(): t, from which nothing seems to have been read, or NULL when the
 * connection was turned away and is closed. */
typedef void mg_greeted(void *owner, struct mg_transport *t, const struct mg_peer_info *info);

/* Is there anything to do before the codec? */
bool mg_greeting_is_due(const struct mg_listen *listen);
/* Takes t over; `listen` must live as long. */
void mg_greeting_begin(struct mg_transport *t, const struct mg_listen *listen, const struct mg_peer_info *info,
                       mg_greeted *done, void *owner);
/* Ends all of them at once; done() comes for each. */
void mg_greeting_close(void);

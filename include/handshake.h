/* handshake.h - TLS handshakes of clients, between the connection and its codec. */
#pragma once

#include "generation.h"
#include "stream.h"
#include "tls.h"

/* Once: t with info->tls set, or NULL when the handshake came to nothing; the connection is closed then. */
typedef void mg_handshake_done(void *owner, struct mg_transport *t, const struct mg_peer_info *info);

/* Takes t over, and the certificate, which may be NULL (mg_tls_serve). */
void mg_handshake_begin(struct mg_transport *t, const struct mg_listen *listen, struct mg_certificate *certificate,
                        const struct mg_peer_info *info, mg_handshake_done *done, void *owner);
/* Ends all of them at once; done() comes for each. */
void mg_handshake_close(void);

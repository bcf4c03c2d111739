/* h1.h - HTTP/1.1 over a transport, both sides (RFC 9112).
 *
 * The codec reads heads strictly (head.h), frames bodies (framing.h), keeps
 * connections, and writes every message anew. It decides by itself what ends
 * a connection; whoever holds a stream never learns.
 */
#pragma once

#include "times.h"
#include "stream.h"
#include "transport.h"

struct mg_h1_settings {
    const struct mg_limits *limits; /* max_head_size and what else bounds a message */
    struct mg_times times;          /* of mg_times_of(limits); origin's side: idle is the pool's */
    const bool *draining;           /* client's side: answer with Connection: close; may be NULL */
};

/* Take over an open transport; NULL without memory (the transport is closed then). The settings must live as
 * long as the connection. Begins to read at once; a request's on_stream comes from the loop or from here. */
struct mg_carrier *mg_h1_serve(struct mg_transport *t, const struct mg_h1_settings *settings,
                               const struct mg_peer_info *info, const struct mg_carrier_events *events, void *owner);
struct mg_carrier *mg_h1_dialled(struct mg_transport *t, const struct mg_h1_settings *settings,
                                 const struct mg_carrier_events *events, void *owner);

/* Writes what streams have queued since the last call; the transport's `after`. */
void mg_h1_flush(void);
/* Open streams and connections: for the question what is left open. */
unsigned mg_h1_streams(void);

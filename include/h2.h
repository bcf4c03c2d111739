/* h2.h - HTTP/2 over a transport, both sides (RFC 9113), by nghttp2.
 *
 * nghttp2 reads and writes frames, keeps HPACK and the windows, and refuses
 * what the RFC forbids. What is ours: messages for streams, back-pressure as
 * windows, timeouts, and bounds on what a peer may make us do for nothing.
 */
#pragma once

#include "h1.h"

/* As mg_h1_serve and mg_h1_dialled, with the same settings. `begun` are bytes that were read from t already: a client's
 * connection preface, or nothing. */
struct mg_carrier *mg_h2_serve(struct mg_transport *t, const struct mg_h1_settings *settings,
                               const struct mg_peer_info *info, const struct mg_carrier_events *events, void *owner,
                               mg_slice begun);
/* With `tls`, the transport's, its requests are of the scheme https. */
struct mg_carrier *mg_h2_dialled(struct mg_transport *t, const struct mg_h1_settings *settings,
                                 struct mg_tls_session *tls, const struct mg_carrier_events *events, void *owner);

/* Writes what streams have queued since the last call: before the loop sleeps, so that all that has come in a turn
 * leaves at once. True if there was something to do, which may have led to more elsewhere. */
bool mg_h2_flush(void);
/* Open streams: for the question what is left open. */
unsigned mg_h2_streams(void);
/* Frees what is kept for reuse. */
void mg_h2_trim(void);

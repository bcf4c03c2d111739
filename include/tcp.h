/* tcp.h - the carrier without a protocol: bytes of a connection as a stream.
 *
 * Both messages of its stream are plain bytes and end with their side of the
 * connection. A client's stream has no head; one that is sent to it says
 * whether the tunnel stands (2xx), and closes it otherwise. An origin's stream
 * answers the head of a request, whatever it says, with 200. */
#pragma once

#include "stream.h"
#include "transport.h"

/* Take over an open transport; NULL without memory (the transport is closed then). `times` must live as long: idle
 * bounds how long no byte passes in either direction on the client's side, send how long one does not read. */
struct mg_carrier *mg_tcp_serve(struct mg_transport *t, const struct mg_times *times, const struct mg_peer_info *info,
                                const struct mg_carrier_events *events, void *owner);
/* Its one stream, which is open from the start: its owner and events are set before the loop runs on. */
struct mg_stream *mg_tcp_stream(struct mg_carrier *c);
struct mg_carrier *mg_tcp_dialled(struct mg_transport *t, const struct mg_times *times,
                                  const struct mg_carrier_events *events, void *owner);

/* Writes what streams have queued since the last call; the transport's `after`. */
void mg_tcp_flush(void);
/* Is there anything to flush? Read before each call, so that other connections pay nothing. */
extern bool mg_tcp_at_work;
/* Open streams: for the question what is left open. */
unsigned mg_tcp_streams(void);

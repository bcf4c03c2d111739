/* peers.h - who the peers of upstreams are now, asked and told through the control socket: the worker's part. */
#pragma once

#include <stddef.h>

struct ev_loop;
struct mg_generation;

enum { MG_PEERS_ANSWER_MOST = 128 * 1024 };

/* Does what `order` says, five texts that zero bytes end: the action ("list", "add", "remove", "drain", "undrain",
 * "weight", "reset"), the upstream, the peer, its weight and zone, empty if they were not given. `to` has room for
 * MG_PEERS_ANSWER_MOST bytes and gets a JSON object, {"error":"..."} if it can't be done; how many bytes. */
size_t mg_peers_obey(const struct mg_generation *g, const char *order, size_t len, char *to);

/* Once: from now on also a worker that has no requests knows within a second which peers are gone. */
void mg_peers_start_keeping_up(struct ev_loop *loop);

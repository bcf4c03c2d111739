/* preface.h - bytes that were read from a transport, put back in front of it.
 *
 * Whoever reads from it next gets them first. Until then the transport's
 * operations are exchanged for ours; once the bytes are read nothing is left
 * of that, so it costs a connection nothing later. */
#pragma once

#include "transport.h"

/* Takes `bytes`, which came from malloc; those from `at` to `end` are put back, at least one. False without memory:
 * they are gone then, and the connection is good for nothing. */
bool mg_preface_put(struct mg_transport *t, char *bytes, size_t at, size_t end);

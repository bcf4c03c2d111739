/* websocket_key.h - the key of a WebSocket's handshake over HTTP/1.1, and the answer that shows it was understood. */
#pragma once

#include <stdbool.h>

#include "slice.h"
#include "status.h"

enum { MG_WEBSOCKET_KEY = 24, MG_WEBSOCKET_ACCEPT = 28 };

/* A new key at `to`, which has room for one byte more. */
bool MG_MUST_CHECK mg_websocket_key(char *to);
/* The answer to a key at `to`, which has room for one byte more. False if that is no key. */
bool MG_MUST_CHECK mg_websocket_accept(mg_slice key, char *to);

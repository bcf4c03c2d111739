/* fetch_head.h - the head of a request of the scripts' own: its target and Host at first, what frames it at last. */
#pragma once

#include "message.h"

struct mg_fetch_place {
    mg_slice host; /* a name, an address, or "unix:/path" (port 0) */
    int port, usual;
};

/* MG_MALFORMED if one of these can't stand in a request; MG_NO_MEMORY. */
enum mg_status MG_MUST_CHECK mg_fetch_head_begin(struct mg_message *m, struct mg_arena *arena,
                                                 const struct mg_fetch_place *at, mg_slice method, mg_slice target);
/* What frames the message, and what belongs to the connection, is ours to say; and the fields that nobody has set. */
enum mg_status MG_MUST_CHECK mg_fetch_head_finish(struct mg_message *m, uint32_t body_len);

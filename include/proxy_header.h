/* proxy_header.h - the PROXY protocol, versions 1 and 2: a proxy in front says whom a connection is from. Pure.
 *
 * The header comes first, before anything of the connection's own protocol,
 * and whoever expects it must not go on without it: a client could write one
 * itself. */
#pragma once

#include <stddef.h>

#include "address.h"

enum {
    MG_PROXY_HEADER_MOST = 16 * 1024, /* that is read, with all that a version 2 header has behind its addresses */
    MG_PROXY_HEADER_ROOM = 128,       /* that is written */
};

struct mg_proxy_header {
    bool known; /* false: it names nobody (UNKNOWN, LOCAL): the connection's own ends count */
    struct mg_address source, destination;
};

/* How many bytes the header takes; 0 if more must come; below 0 with `why`. */
int mg_proxy_header_read(const char *data, size_t len, struct mg_proxy_header *h, const char **why);
/* Writes a header of version 1 or 2 to MG_PROXY_HEADER_ROOM bytes; how many. Without a source it names nobody. */
size_t mg_proxy_header_write(int version, const struct mg_endpoint *source, const struct mg_endpoint *destination,
                             char *to);

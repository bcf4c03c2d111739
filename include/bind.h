/* bind.h - the listening sockets, which the master holds. */
#pragma once

#include "address.h"

enum { MG_BINDS_MOST = 250, MG_WHERE_TEXT = 160 }; /* a message takes at most 253 descriptors */

struct mg_bind {
    struct mg_address address;
    int backlog;
    char text[MG_ADDRESS_TEXT]; /* as declared */
    char where[MG_WHERE_TEXT];  /* the script's line */
};

/* A bound, listening, non-blocking descriptor; or -1 with *why, a sentence that is valid until the next call. */
int mg_bind_open(const struct mg_bind *b, const char **why);
/* Is this, of a listening socket that another process has bound, the address that b declares? */
bool mg_bind_is_at(const struct mg_bind *b, const struct mg_address *bound);
/* Closes it, and removes the file of a unix socket. */
void mg_bind_close(const struct mg_bind *b, int fd);
/* Removes a unix socket's file that nobody answers on: a process that died has left it. Other files stay. */
void mg_bind_remove_stale(const struct mg_address *a);

/* sockets.h - the listening sockets of the master, by address. */
#pragma once

#include "bind.h"

/* Binds those of them that are not bound yet: all, or none with *why. */
bool mg_sockets_open(const struct mg_bind *binds, unsigned count, const char **why);
/* Closes all others. */
void mg_sockets_keep(const struct mg_bind *binds, unsigned count);
/* The descriptor bound to this address; -1: none. */
int mg_sockets_find(const struct mg_address *a);
/* In a worker, after the fork: closes the descriptors and leaves the files. */
void mg_sockets_forget(void);

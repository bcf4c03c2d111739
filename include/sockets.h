/* sockets.h - the listening sockets of the master, by address.
 *
 * The file of a unix socket goes with a socket that is ours. One that a service manager has bound keeps its file, and
 * so does one that is handed over from one process to another while both hold it. */
#pragma once

#include "bind.h"

/* Takes those of them that were inherited and binds those that are not bound yet: all, or none with *why. */
bool mg_sockets_open(const struct mg_bind *binds, unsigned count, const char **why);
/* Closes all others. */
void mg_sockets_keep(const struct mg_bind *binds, unsigned count);
/* The descriptor bound to this address; -1: none. */
int mg_sockets_find(const struct mg_address *a);
/* In a worker, after the fork: closes the descriptors and leaves the files. */
void mg_sockets_forget(void);

/* All of them, with their names of inherited.h; how many, at most `most`. */
unsigned mg_sockets_list(int *fds, const char **names, unsigned most);
/* What was handed over is ours alone from now on; or it is the successor's. */
void mg_sockets_settle(void);
void mg_sockets_hand_over(void);

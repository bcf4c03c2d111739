/* inherited.h - descriptors that this process was started with, by the convention of sd_listen_fds(3).
 *
 * They come from a service manager that has bound addresses for us, or from the moongate whose place this one takes:
 * that one names what it hands over. */
#pragma once

#include "bind.h"

#define MG_INHERITED_OURS "moongate.ours"       /* a listening socket; the file of a unix socket is ours to remove */
#define MG_INHERITED_LENT "moongate.lent"       /* one that a service manager has bound */
#define MG_INHERITED_CONTROL "moongate.control" /* the listening control socket */
#define MG_INHERITED_SHARED "moongate.shared"   /* the memory of shared.h */
#define MG_INHERITED_UPGRADE "moongate.upgrade" /* the way back: upgrade.c */

/* Once, at the start. Takes LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES out of the environment. */
void mg_inherited_read(void);
/* The descriptor of this name, the caller's now; -1: none. */
int mg_inherited_take(const char *name);
/* The listening socket that is bound to this address, the caller's now; -1: none. *lent: its file is not ours. */
int mg_inherited_socket(const struct mg_bind *b, bool *lent);
/* Nobody wants the others: they are closed, each with a warning. */
void mg_inherited_drop(void);
/* In a worker, after the fork: closes them. */
void mg_inherited_forget(void);

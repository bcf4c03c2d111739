/* resolve.h - names to addresses, by c-ares, without blocking.
 *
 * Answers are kept for their TTL (at least 1 s, at most an hour). When a
 * server does not answer, the last good answer stays in use, however old, and
 * is asked for again; when it is slow, a known name waits for half a second at
 * most. A failure is remembered for a second. One question is asked for a name
 * at a time, whoever waits for it. /etc/hosts is honoured;
 * "localhost" is the loopback without asking anybody.
 */
#pragma once

#include "address.h"

struct ev_loop;
struct mg_lookup;

/* Once a process, after mg_clock_start(). `servers` is "ip[:port],..." or NULL
 * for the system's; false if they can't be used. */
bool mg_resolve_start(struct ev_loop *loop, const char *servers);
/* Before mg_clock_stop(). Who still waits is not called. */
void mg_resolve_stop(void);

/* Called once unless cancelled. On success problem is NULL and list holds
 * count > 0 addresses, port 0, valid during the call; otherwise problem says
 * why ("no such name", "the name servers do not answer", ...), in a constant text. Never called
 * before mg_resolve() has returned. */
typedef void mg_lookup_done(void *owner, const struct mg_address *list, unsigned count, const char *problem);

/* Asks. When the answer is kept and fresh (or name is a literal address) it is
 * copied to list (up to *count, which becomes how many) and NULL is returned;
 * otherwise *count becomes 0, and what is returned can be cancelled until done
 * was called. With no memory *count becomes 0 and NULL is returned. */
struct mg_lookup *mg_resolve(mg_slice name, struct mg_address *list, unsigned *count, mg_lookup_done *done,
                             void *owner);
void mg_lookup_cancel(struct mg_lookup *l);

/* Looks up of the process that wait: for the question what is left open. */
unsigned mg_resolve_live(void);

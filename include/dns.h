/* dns.h - the way to the name servers: one channel of c-ares, on the loop.
 *
 * For resolve.c and srv.c, which ask through it. */
#pragma once

#include <stdbool.h>

struct ares_channeldata;
struct ev_loop;

/* Once a process. `servers` is "ip[:port],..." or NULL for the system's; false if they can't be used. */
bool mg_dns_start(struct ev_loop *loop, const char *servers);
/* Who waits is answered ARES_EDESTRUCTION. */
void mg_dns_stop(void);
/* NULL: it was not started, as in a simulation. */
struct ares_channeldata *mg_dns_channel(void);
/* After each question that was put to the channel. */
void mg_dns_asked(void);
/* A status of c-ares in words: a constant. */
const char *mg_dns_problem(int status);

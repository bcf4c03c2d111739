/* canary.h - a generation that is tried out: a share of the new exchanges begins in it. */
#pragma once

#include "generation.h"
#include "stream.h"

enum mg_canary_by {
    MG_CANARY_CHANCE,
    MG_CANARY_CLIENT, /* its address */
    MG_CANARY_COOKIE,
    MG_CANARY_HEADER,
};

enum { MG_CANARY_NAME_MOST = 64 };

/* Which exchanges: a share of all by chance, or those of a share of the clients, as the key tells them apart. It is
 * the same in all workers. Who has no key is not tried upon. */
struct mg_canary_terms {
    double share; /* above 0 and below 1; 0: there is no canary */
    enum mg_canary_by by;
    char name[MG_CANARY_NAME_MOST]; /* of the cookie or field */
};

/* Reads "5%" or "0.5", and "client", "cookie:NAME", "header:NAME" or NULL. NULL, or what is wrong. */
const char *mg_canary_read(struct mg_canary_terms *t, const char *share, const char *by);
/* "5 % of the exchanges", "5 % of the clients by cookie:user". */
size_t mg_canary_print(const struct mg_canary_terms *t, char *to, size_t size);

/* The one of this worker; NULL: there is none. */
extern struct mg_generation *mg_canary;

void mg_canary_begin(struct mg_generation *g, const struct mg_canary_terms *t);
void mg_canary_end(void);
/* The generation in which an exchange with this request begins: the canary or the one in force. */
struct mg_generation *mg_canary_choose(const struct mg_message *request, const struct mg_peer_info *info);

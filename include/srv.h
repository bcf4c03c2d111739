/* srv.h - the SRV records of a name (RFC 2782), asked of the name servers that resolve.h asks.
 *
 * Each question goes out; who asks keeps the answer for its TTL. It comes by
 * TCP if it is too long for UDP. Before mg_resolve_stop() all are cancelled or
 * answered. */
#pragma once

#include "status.h"

struct mg_srv_question;

struct mg_srv_answer {
    double ttl; /* seconds, of the record that goes first: at least 1, at most 3600 */
    unsigned count;
    mg_srv records[]; /* the texts of their targets lie behind them */
};

/* Called once unless cancelled, never before mg_srv_ask() has returned. The answer has one record or more, and is the
 * callee's, by free(); NULL: problem says why, in a constant text. */
typedef void mg_srv_done(void *owner, struct mg_srv_answer *answer, const char *problem);

/* NULL without memory, and in a simulation. */
struct mg_srv_question *mg_srv_ask(mg_slice name, mg_srv_done *done, void *owner);
void mg_srv_cancel(struct mg_srv_question *q);
/* Who waits: for the question what is left open. */
unsigned mg_srv_live(void);

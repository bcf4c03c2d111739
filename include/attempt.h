/* attempt.h - one try of an exchange at one peer: pick, connect, send, wait. */
#pragma once

#include "exchange.h"

enum mg_next mg_attempt_balance(struct mg_exchange *x);
enum mg_next mg_attempt_connect(struct mg_exchange *x);
enum mg_next mg_attempt_send(struct mg_exchange *x);
enum mg_next mg_attempt_wait(struct mg_exchange *x);

/* Ends the try, wherever it is: its dial is cancelled, its stream reset, its peer counted off. */
void mg_attempt_drop(struct mg_exchange *x);
/* The same, and no other one follows, unless a new request is made of it. */
void mg_attempt_abandon(struct mg_exchange *x);
/* Its peer is counted off, if it was not yet: as of mg_peer_end(). */
void mg_attempt_release(struct mg_exchange *x, bool failed, double latency);
/* x->series, made if it was not there; NULL without memory. */
struct mg_series *mg_attempt_series(struct mg_exchange *x);
/* A balance hook's choice; MG_ABSENT if that peer may not be picked now. */
enum mg_status mg_attempt_pick(struct mg_exchange *x, struct mg_peer *p);

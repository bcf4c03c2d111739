/* attempt.h - one try of an exchange at one peer: pick, connect, send, and what to do when it fails. */
#pragma once

#include "exchange.h"

enum mg_next mg_attempt_balance(struct mg_exchange *x);
enum mg_next mg_attempt_connect(struct mg_exchange *x);
enum mg_next mg_attempt_send(struct mg_exchange *x);
enum mg_next mg_attempt_wait(struct mg_exchange *x);
enum mg_next mg_attempt_retry(struct mg_exchange *x);

/* Ends the try, wherever it is: its dial is cancelled, its stream reset, its peer counted off. */
void mg_attempt_abandon(struct mg_exchange *x);
/* A balance hook's choice; MG_ABSENT if that peer may not be picked now. */
enum mg_status mg_attempt_pick(struct mg_exchange *x, struct mg_peer *p);

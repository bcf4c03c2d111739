/* forward.h - what an origin may see of a request, and a client of a response. */
#pragma once

#include "exchange.h"

/* Parses target and Host, fills in the view's host, path and query. 0, or the status that refuses it, with
 * x->error_text. */
int mg_forward_identify(struct mg_exchange *x);
/* Takes hop-by-hop fields off the request and says who asked (X-Forwarded-*, Forwarded, Via). */
void mg_forward_request(struct mg_exchange *x);
/* The head of one try at p: x's request with its present method and target. */
void mg_forward_attempt(struct mg_exchange *x, const struct mg_peer *p, struct mg_message *head);
/* The peer's response, for policies and the client: hop-by-hop fields off, Date on. */
void mg_forward_response(struct mg_exchange *x);

/* Has the client asked for a WebSocket, on a route with message hooks? */
bool mg_forward_has_messages(const struct mg_exchange *x);

/* The proxy's own page for a status. */
void mg_forward_default_page(struct mg_exchange *x, unsigned status);
/* What an answer of our own still lacks: Content-Length, Date. */
void mg_forward_complete_answer(struct mg_exchange *x);

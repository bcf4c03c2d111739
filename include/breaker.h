/* breaker.h - an upstream that fails is left alone for a while: its circuit breaker.
 *
 * Closed, all may pass. Open, nobody, until its time is over; then it is half
 * open: a few tries may pass, and as they end it is closed or open again. All
 * workers share it. What stands here is called only for an upstream with a
 * breaker (mg_upstream_request, mg_peer.guarded). The seam's
 * mg_breaker_word and mg_upstream_judge are here. */
#pragma once

#include "peer.h"

/* Makes its shared part, if it is to have a breaker. False: the shared memory is full. */
bool mg_breaker_open(struct mg_upstream *u);

/* May a request go there? Otherwise *why says why not, until the next call. */
bool mg_breaker_admit(struct mg_upstream *u, const char **why);
/* May one that has failed be tried again? */
bool mg_breaker_is_closed(const struct mg_upstream *u);
/* May one more wait for a peer? */
bool mg_breaker_may_wait(struct mg_upstream *u, const char **why);
void mg_breaker_waits(struct mg_upstream *u, bool begins);

enum mg_outcome { MG_OUTCOME_UNKNOWN, MG_OUTCOME_GOOD, MG_OUTCOME_FAILED };
/* A try at one of its peers begins and ends. */
void mg_breaker_began(struct mg_upstream *u);
void mg_breaker_ended(struct mg_upstream *u, enum mg_outcome outcome);

/* What its window shows; one worker calls it for all. */
void mg_breaker_judge(struct mg_upstream *u, double now);
/* What the worker of this slot had in flight has ended with it. */
void mg_breaker_forget_slot(unsigned slot);

/* ledger.h - what a simulated run came to: each request's outcome, and the servers' load over time. */
#pragma once

#include "simulation.h"

/* For the plan, with servers of its own numbers. False without memory. */
bool mg_ledger_open(mg_simulation *s);
void mg_ledger_close(mg_simulation *s);
/* One more server than the plan has. False: no more are told apart, or there is no memory. */
bool mg_ledger_add_backend(mg_simulation *s);

/* At `now`, counted from the beginning of the plan as all of them: a try begins at a server. */
void mg_ledger_sent(uint32_t backend, double now);
/* A server has so many requests from now on. */
void mg_ledger_load(uint32_t backend, uint32_t count, double now);
/* It works at so many of them. */
void mg_ledger_work(uint32_t backend, uint32_t count, double now);
/* Request `number` has had its answer. */
void mg_ledger_answered(uint32_t number, mg_outcome outcome, double now);
/* The run is over. */
void mg_ledger_settle(double now);

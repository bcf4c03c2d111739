/* crowd.h - simulated clients: they bring the plan's requests to the engine and take its answers. */
#pragma once

#include "backend.h"
#include "simulation.h"

/* False without memory, or with *problem: an address that is none. */
bool mg_crowd_open(mg_simulation *s, double begin, const char **problem);
/* The request of this number comes, to the generation in force. */
void mg_crowd_ask(uint32_t number);
/* Requests that are over are let go of, from outside of the engine. */
void mg_crowd_settle(void);
/* How many wait for their answers. */
uint32_t mg_crowd_open_count(void);
/* Those leave. */
void mg_crowd_leave(void);
void mg_crowd_close(void);

/* fetch.h - HTTP requests of the scripts' own. The seam's mg_fetch_* are implemented here.
 *
 * A fetch is a stream from dial.c whose other side is Lua. It belongs to a
 * task and is reset with it. Its body is taken in only as fast as Lua pulls. */
#pragma once

#include "task.h"

struct mg_generation;

void mg_fetch_end(struct mg_generation *g, struct mg_task *t);
unsigned mg_fetch_live(void);

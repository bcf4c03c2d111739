/* status_report.h - the answers to the commands "status" and "generations": what the master knows, and what each
 * worker has open. */
#pragma once

#include "children.h"

void mg_status_start(struct ev_loop *loop);
/* Commands of the control socket: ask the workers, and answer once they have. */
const char *mg_status_ask(unsigned ticket);
const char *mg_status_ask_generations(unsigned ticket);
/* A worker's answer. */
void mg_status_on_report(struct mg_child *c, const struct mg_letter *l);
/* A worker has ended, which may have been asked. */
void mg_status_on_end(void);

/* status_report.h - the answer to the command "status": what the master knows, and what each worker has open. */
#pragma once

#include "children.h"

void mg_status_start(struct ev_loop *loop);
/* A command of the control socket: asks the workers, and answers once they have. */
const char *mg_status_ask(unsigned ticket);
/* A worker's answer. */
void mg_status_on_report(struct mg_child *c, const struct mg_letter *l);
/* A worker has ended, which may have been asked. */
void mg_status_on_end(void);

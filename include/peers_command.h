/* peers_command.h - the command "peers" of the control socket (control.h): the master passes it on to a worker. */
#pragma once

#include "children.h"

/* Once, before all others. */
void mg_peers_start(struct ev_loop *loop);
/* NULL: the answer follows; or why it can't be. */
const char *mg_peers_ask(unsigned ticket);
/* A worker's answer; and a worker has ended. */
void mg_peers_on_answer(const struct mg_letter *l);
void mg_peers_on_end(const struct mg_child *c);

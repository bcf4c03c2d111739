/* listeners.h - the listeners of a worker, by address. */
#pragma once

#include "channel.h"
#include "listener.h"

/* Once, before all others. */
void mg_listeners_start(struct ev_loop *loop);
/* Those that g declares, and no others: known ones go on with what it says of them, new ones get the descriptors of
 * the letter, MG_WORD_COMMIT or MG_WORD_BACK. False: no memory or no descriptor is left. */
bool mg_listeners_take(const struct mg_generation *g, const struct mg_letter *l);
/* Accepts nothing more. */
void mg_listeners_stop(void);
void mg_listeners_remove(void);

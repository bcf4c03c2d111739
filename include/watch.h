/* watch.h - tells when files have been written anew.
 *
 * Changes that come in a burst are told once, when it is over. */
#pragma once

#include <stdbool.h>

struct ev_loop;

void mg_watch_start(struct ev_loop *loop, void (*on_changed)(void));
/* These from now on, one a line; NULL: those of before. With `broadly` any other Lua file beside them counts, too. */
void mg_watch_files(const char *list, bool broadly);
/* In a worker, after the fork. */
void mg_watch_forget(void);
void mg_watch_stop(void);

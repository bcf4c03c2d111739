/* folder.h - tells what is written, renamed or linked in folders, by inotify. */
#pragma once

#include "slice.h"

struct ev_loop;
struct mg_folder;

/* Before all others: this loop tells. Nothing is opened yet. */
void mg_folder_start(struct ev_loop *loop);
void mg_folder_stop(void);
/* In a worker, after the fork: all of them are gone, and the loop was another one's. */
void mg_folder_forget(void);

/* `changed` is told the name of what is whole now: written and closed, or put there by a rename or a link; NULL:
 * anything may have happened, also to the folder itself. It may not close or open any. NULL with errno. */
struct mg_folder *mg_folder_open(mg_slice path, void (*changed)(void *owner, const char *name), void *owner);
void mg_folder_close(struct mg_folder *f);

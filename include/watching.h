/* watching.h - files that scripts watch: what enter.c needs beside the seam's mg_file_watch_*. */
#pragma once

struct mg_task;

/* How many there are. */
extern unsigned mg_file_watches;
/* Closes what this task watches. */
void mg_file_watch_end(const struct mg_task *t);

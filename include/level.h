/* level.h - how much the error log says, in the master and all workers: as it was told on the control socket, else as
 * the command line says, else as the script in force does.
 *
 * What was told stands until it is told "default": over reloads, and in workers that are started later. The process
 * that takes our place in an upgrade does not know of it. */
#pragma once

#include <stdbool.h>

/* Once, before any worker is started; `given`: mg_log_level is the command line's. */
void mg_level_start(bool given);
/* Another script is in force. */
void mg_level_follow(void);
/* The command "log-level" (control.h). */
const char *mg_level_ask(unsigned ticket);

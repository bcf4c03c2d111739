/* sink.h - where the access log's lines go: buffered, whole, and never waited for.
 *
 * There is one in a worker. What can't be written is dropped and counted. */
#pragma once

#include "slice.h"

enum { MG_SINK_LINE_MOST = 64 * 1024 - 1 };

/* Opens a path, "stderr", "off" or "syslog:/dev/log"; what is put waits for at most `flush` seconds, 0: not at all.
 * False with errno. */
bool mg_sink_open(mg_slice where, double flush);
/* False if it is "off": no line needs to be made. */
bool mg_sink_is_open(void);
/* Takes a line with its line end, at most MG_SINK_LINE_MOST bytes. */
void mg_sink_put(mg_slice line);
/* Writes what waits. */
void mg_sink_flush(void);
/* Opens the same file again (after it was renamed). */
void mg_sink_reopen(void);
void mg_sink_close(void);
/* Lines that could not be written: the disk is full, the socket takes no more. */
unsigned long mg_sink_dropped(void);

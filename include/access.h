/* access.h - the access log: a line an exchange, written when there are enough or a while has passed. */
#pragma once

#include "seam.h"

struct mg_exchange;

/* Opens what settings.access_log names: a path, "stderr", "off", "syslog:/dev/log". NULL, or what is wrong, as a sentence.
 * The settings' texts must live as long. */
const char *mg_access_open(const mg_settings *settings);
/* Only looks at what the settings say of the log: as mg_access_open, without opening. */
const char *mg_access_check(const mg_settings *settings);
/* At LOG, when the log hooks are done. */
void mg_access_log(const struct mg_exchange *x);
/* Writes what waits. */
void mg_access_flush(void);
/* Opens the same file again (after it was renamed). */
void mg_access_reopen(void);
void mg_access_close(void);
/* Lines that could not be written: the disk is full, the socket takes no more. */
unsigned long mg_access_dropped(void);

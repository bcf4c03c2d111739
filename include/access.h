/* access.h - the access log: a line an exchange, in the format and with the fields that the settings say. */
#pragma once

#include "seam.h"

struct mg_exchange;

/* Opens what settings.access_log names (sink.h, which also closes it). NULL, or what is wrong, as a sentence. */
const char *mg_access_open(const mg_settings *settings);
/* Only looks at what the settings say of the log: as mg_access_open, without opening. */
const char *mg_access_check(const mg_settings *settings);
/* At LOG, when the log hooks are done. */
void mg_access_log(const struct mg_exchange *x);

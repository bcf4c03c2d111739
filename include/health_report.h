/* health_report.h - what `moongate status` says of an upstream. */
#pragma once

#include <stddef.h>

#include "peer.h"

/* An object of JSON; how many bytes, 0 if there is no room. */
size_t mg_health_report(struct mg_upstream *u, char *to, size_t size);

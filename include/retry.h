/* retry.h - a try has failed: another one, or what the client is told. */
#pragma once

#include "exchange.h"

/* The step RETRY. */
enum mg_next mg_retry(struct mg_exchange *x);

/* report.h - what a worker has open, as a JSON object. */
#pragma once

#include <stddef.h>

struct mg_generation;

enum { MG_REPORT_MOST = 32768 };

/* Of worker `number`, with `now` in force or loading, and what is retired. `to` has room for MG_REPORT_MOST bytes; how
 * many it has got. */
size_t mg_report(char *to, size_t size, int number, const struct mg_generation *now);

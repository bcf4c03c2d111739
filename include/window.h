/* window.h - what has happened within the last seconds, of numbers that only grow.
 *
 * It lies in shared memory; one process at a time looks. A window moves by an eighth of itself, so it covers the last
 * seven eighths of its seconds at least. */
#pragma once

#include <stdint.h>

enum { MG_WINDOW_SLICES = 8 };

struct mg_window_count {
    uint64_t ended, failed;
};

struct mg_window {
    double turned; /* when the last slice began; 0: never looked at */
    uint32_t at;   /* the oldest */
    struct mg_window_count slices[MG_WINDOW_SLICES];
};

/* What was before is forgotten. */
void mg_window_begin(struct mg_window *w, double now, struct mg_window_count total);
/* How much of total has come within the window of so many seconds. */
struct mg_window_count mg_window_look(struct mg_window *w, double now, double seconds, struct mg_window_count total);

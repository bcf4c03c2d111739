/* window.c - what has happened within the last seconds, of numbers that only grow. */
#include "window.h"

void mg_window_begin(struct mg_window *w, double now, struct mg_window_count total)
{
    w->turned = now;
    w->at = 0;
    for (unsigned i = 0; i < MG_WINDOW_SLICES; i++)
        w->slices[i] = total;
}

/* Numbers of several processes are read one after another: one may seem to have fallen. */
static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

struct mg_window_count mg_window_look(struct mg_window *w, double now, double seconds, struct mg_window_count total)
{
    double slice = seconds / MG_WINDOW_SLICES;

    if (!(w->turned > 0) || now - w->turned >= seconds)
        mg_window_begin(w, now, total);
    while (now - w->turned >= slice) {
        w->slices[w->at % MG_WINDOW_SLICES] = total;
        w->at = (w->at + 1) % MG_WINDOW_SLICES;
        w->turned += slice;
    }
    struct mg_window_count oldest = w->slices[w->at % MG_WINDOW_SLICES];
    return (struct mg_window_count){ grown(total.ended, oldest.ended), grown(total.failed, oldest.failed) };
}

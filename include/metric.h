/* metric.h - numbers that all workers count together, under a name and labels: what a scrape of the gateway shows.
 *
 * A series has cells, doubles of its own in shared memory: one of a counter or a gauge; of a histogram one a bucket,
 * not cumulative, the last without a bound, and then the sum. Each worker has a row of cells and is alone to write
 * there, so that counting is an addition; a reader adds up the rows. A worker that takes the place of one that died
 * goes on with its row. A gauge has the same cell in all workers. Series are never freed, and stand over reloads and
 * upgrades.
 */
#pragma once

#include <stdbool.h>

#include "status.h"

enum {
    MG_METRIC_BOUNDS_MOST = 64,
    MG_METRIC_LABELS_MOST = 8,
    MG_METRIC_CELLS_MOST = 65536, /* of a row; what comes then is counted nowhere, and that is told */
};
/* Beside the seam's kinds: a gauge with a cell for each worker, and 0 of those that have died. */
enum { MG_METRIC_LEVEL = 3 };

/* An exchange that lies in a bucket: behind the sum a histogram with exemplars has one for each. */
struct mg_exemplar {
    uint64_t turn;   /* odd while it is written */
    uint64_t id[2];  /* of the trace; or 0 and the id of the request */
    uint64_t traced; /* which of the two */
    double value, time;
};

/* A worker begins: levels of the one before it in its slot are 0. */
void mg_metric_begin(void);

/* The metric of this name, made when first asked for: a number from 0. MG_MALFORMED: it stands with another kind, other
 * labels or bounds; MG_FULL. */
int mg_metric_make(const mg_metric_spec *spec, bool exemplars);
/* The cells of the series with these values of the labels, to be kept. Never NULL: when there is no room left they are
 * those of the series "other", or of nobody. */
double *mg_metric_cells(int metric, const mg_slice *values);

static inline void mg_metric_count(double *cell, double n)
{
    *cell += n;
}
/* Gives the bucket. */
static inline unsigned mg_metric_observe(double *cells, const double *bounds, unsigned bound_count, double value)
{
    unsigned i = 0;

    while (i < bound_count && value > bounds[i])
        i++;
    cells[i] += 1;
    cells[bound_count + 1] += value;
    return i;
}

/* For readers: the nth metric, and its nth series. False past the end. The texts end with a zero byte. */
struct mg_metric_about {
    const char *name, *help;
    int kind;
    const double *bounds;
    unsigned bound_count;
    bool exemplars;
    uint32_t first; /* series */
};
struct mg_metric_sum {
    const char *labels; /* a="x",b="y" */
    double cells[MG_METRIC_BOUNDS_MOST + 2];
    struct mg_exemplar exemplars[MG_METRIC_BOUNDS_MOST + 1]; /* the latest; of turn 0: none */
    uint32_t next;
};
bool mg_metric_nth(unsigned n, struct mg_metric_about *out);
/* Adds up the series of this number, of first or next; false: it is 0, behind the last. */
bool mg_metric_sum(const struct mg_metric_about *m, uint32_t series, struct mg_metric_sum *out);
/* How many label sets found no room under their own name. */
double mg_metric_crowded_out(void);

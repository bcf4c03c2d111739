/* metric.c - numbers that all workers count together, under a name and labels.
 *
 * The directory lies in shared memory behind a lock and only grows. Whoever dies
 * in the middle of making a series leaves it whole or not there: it is counted
 * last, and the buckets are made anew. */
#include "metric.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "shared.h"
#include "text.h"

enum {
    METRICS_MOST = 512,
    SERIES_MOST = 16384,
    BUCKETS = 4096,
    BOUNDS_MOST = 4096,
    TEXT_MOST = 2 << 20,
    LABELS_TEXT_MOST = 4096, /* bytes of a series' labels, escaped */
    VALUE_MOST = 256,        /* bytes of a label's value that count */
    EXEMPLAR_CELLS = sizeof(struct mg_exemplar) / sizeof(double),
};

struct metric {
    uint32_t name, help, labels; /* where their texts begin */
    uint32_t bounds, bound_count;
    uint32_t most, count; /* series; most 0: no bound */
    uint32_t first, last; /* series, from 1 */
    uint32_t other;       /* the series of those that are too many; 0: none so far */
    uint8_t kind;
    bool exemplars;
};

struct series {
    uint32_t metric, labels, cell;
    uint32_t next, next_in_bucket; /* from 1; 0 ends */
};

struct directory {
    pthread_mutex_t lock;
    uint32_t metrics, series, cells, bounds, text; /* used */
    uint64_t crowded_out;
    struct metric metric[METRICS_MOST];
    struct series serie[SERIES_MOST];
    uint32_t bucket[BUCKETS];
    double bound[BOUNDS_MOST];
    char texts[TEXT_MOST];
};

static struct directory *directory;
static double *rows[MG_SLOTS_MAX];
static double *gauges;
/* Where those count who have no room, and `moongate check`, which has no workers. */
static double nowhere[MG_METRIC_BOUNDS_MOST + 2 + (MG_METRIC_BOUNDS_MOST + 1) * EXEMPLAR_CELLS];

static bool make_directory(void *place, size_t size)
{
    struct directory *d = place;

    (void)size;
    d->text = 1; /* 0 stands for none */
    return mg_shared_lock_init(&d->lock);
}

static double *row_at(const char *name)
{
    return mg_shared_place(mg_slice_of(name), MG_METRIC_CELLS_MOST * sizeof(double));
}

static double *row_of(unsigned slot)
{
    char name[32];

    snprintf(name, sizeof(name), "metrics:%u", slot);
    if (!rows[slot])
        rows[slot] = row_at(name);
    return rows[slot];
}

static bool start(void)
{
    void *place;

    if (directory)
        return true;
    if (mg_shared_worker_number() < 0 || !row_of(mg_shared_slot()) || !(gauges = row_at("metrics:gauges")))
        return false;
    if (mg_shared_make(MG_LIT("metrics"), sizeof(*directory), make_directory, &place) == MG_OK)
        directory = place;
    return directory;
}

/* ---- The directory. ---- */

static uint32_t bucket_of(uint32_t metric, mg_slice labels)
{
    uint32_t hash = 2166136261u + metric; /* FNV-1a: how many there are is bounded, whoever chooses them */

    for (uint32_t i = 0; i < labels.len; i++)
        hash = (hash ^ (unsigned char)labels.ptr[i]) * 16777619u;
    return (hash ^ hash >> 16) % BUCKETS;
}

static mg_slice text_at(uint32_t at)
{
    return mg_slice_of(directory->texts + at);
}

static void into_bucket(uint32_t number)
{
    struct series *s = &directory->serie[number - 1];
    uint32_t *bucket = &directory->bucket[bucket_of(s->metric, text_at(s->labels))];

    s->next_in_bucket = *bucket;
    *bucket = number;
}

static void lock(void)
{
    if (pthread_mutex_lock(&directory->lock) != EOWNERDEAD)
        return;
    memset(directory->bucket, 0, sizeof(directory->bucket));
    for (uint32_t i = 1; i <= directory->series; i++)
        into_bucket(i);
    pthread_mutex_consistent(&directory->lock);
}

static void unlock(void)
{
    pthread_mutex_unlock(&directory->lock);
}

/* Where the copy of a text begins; 0: no room. */
static uint32_t keep(mg_slice text)
{
    uint32_t at = directory->text;

    if (text.len >= TEXT_MOST - at)
        return 0;
    if (text.len)
        memcpy(directory->texts + at, text.ptr, text.len);
    directory->texts[at + text.len] = '\0';
    directory->text = at + text.len + 1;
    return at;
}

static struct metric *find_metric(mg_slice name)
{
    for (uint32_t i = 0; i < directory->metrics; i++)
        if (mg_text_equal(text_at(directory->metric[i].name), name))
            return &directory->metric[i];
    return NULL;
}

static bool is_same(const struct metric *m, const mg_metric_spec *spec)
{
    return m->kind == spec->kind && m->bound_count == spec->bound_count &&
           mg_text_equal(text_at(m->labels), spec->labels) &&
           (!m->bound_count ||
            memcmp(directory->bound + m->bounds, spec->bounds, m->bound_count * sizeof(double)) == 0);
}

static struct metric *add_metric(const mg_metric_spec *spec, bool exemplars)
{
    if (directory->metrics == METRICS_MOST || spec->bound_count > BOUNDS_MOST - directory->bounds)
        return NULL;
    struct metric m = {
        .name = keep(spec->name),
        .help = keep(spec->help),
        .labels = keep(spec->labels),
        .bounds = directory->bounds,
        .bound_count = spec->bound_count,
        .most = spec->most,
        .kind = (uint8_t)spec->kind,
        .exemplars = exemplars,
    };
    if (!m.name || !m.help || !m.labels)
        return NULL;
    if (m.bound_count)
        memcpy(directory->bound + m.bounds, spec->bounds, m.bound_count * sizeof(double));
    directory->bounds += m.bound_count;
    directory->metric[directory->metrics] = m;
    __atomic_store_n(&directory->metrics, directory->metrics + 1, __ATOMIC_RELEASE);
    return &directory->metric[directory->metrics - 1];
}

int mg_metric_make(const mg_metric_spec *spec, bool exemplars)
{
    if (!start())
        return MG_FULL;
    lock();
    struct metric *m = find_metric(spec->name);
    int number = MG_FULL;
    if (m && !is_same(m, spec))
        number = MG_MALFORMED;
    else if (m || (m = add_metric(spec, exemplars)))
        number = (int)(m - directory->metric);
    if (number >= 0)
        m->most = spec->most;
    unlock();
    return number;
}

/* ---- Series. ---- */

static uint32_t cells_of(const struct metric *m)
{
    if (m->kind != MG_METRIC_HISTOGRAM)
        return 1;
    return m->bound_count + 2 + (m->exemplars ? (m->bound_count + 1) * EXEMPLAR_CELLS : 0);
}

/* The text of a value between quotes: backslash, quote and line feed are escaped, and what is no UTF-8 becomes "?". */
static char *put_value(char *to, mg_slice value)
{
    uint32_t len = value.len < VALUE_MOST ? value.len : VALUE_MOST;

    for (uint32_t i = 0; i < len;) {
        char c = value.ptr[i];
        size_t run = (unsigned char)c >= 0x80 ? mg_text_utf8(value.ptr + i, len - i) : 1;
        if (c == '\\' || c == '"' || c == '\n')
            *to++ = '\\';
        if (run <= 1)
            *to++ = (char)(c == '\n' ? 'n' : run == 0 ? '?' : c);
        else
            to = mempcpy(to, value.ptr + i, run);
        i += run ? (uint32_t)run : 1;
    }
    return to;
}

/* a="x",b="y" of the names and the values; `values` NULL: all are "other". */
static mg_slice write_labels(const struct metric *m, const mg_slice *values, char *to)
{
    mg_slice rest = text_at(m->labels), name;
    char *at = to;

    for (unsigned i = 0; mg_text_next_item(&rest, &name); i++) {
        if (i)
            *at++ = ',';
        at = mg_text_put(at, name);
        at = mg_text_put(at, MG_LIT("=\""));
        at = put_value(at, values ? values[i] : MG_LIT("other"));
        *at++ = '"';
    }
    return (mg_slice){ to, (uint32_t)(at - to) };
}

static uint32_t find_series(uint32_t metric, mg_slice labels)
{
    uint32_t number = directory->bucket[bucket_of(metric, labels)];

    while (number) {
        const struct series *s = &directory->serie[number - 1];
        if (s->metric == metric && mg_text_equal(text_at(s->labels), labels))
            return number;
        number = s->next_in_bucket;
    }
    return 0;
}

/* 0: there is no room. */
static uint32_t add_series(struct metric *m, mg_slice labels)
{
    uint32_t number = directory->series + 1, cells = cells_of(m);

    if (number > SERIES_MOST || cells > MG_METRIC_CELLS_MOST - directory->cells)
        return 0;
    struct series s = { .metric = (uint32_t)(m - directory->metric), .labels = keep(labels), .cell = directory->cells };
    if (!s.labels)
        return 0;
    directory->serie[number - 1] = s;
    directory->cells += cells;
    __atomic_store_n(&directory->series, number, __ATOMIC_RELEASE);
    into_bucket(number);
    __atomic_store_n(m->last ? &directory->serie[m->last - 1].next : &m->first, number, __ATOMIC_RELEASE);
    m->last = number;
    m->count++;
    return number;
}

/* The series of all that have no room; told once, by the worker that meets it first. */
static uint32_t crowd_out(struct metric *m)
{
    static uint8_t told[METRICS_MOST];
    char labels[LABELS_TEXT_MOST];
    uint8_t *known = &told[m - directory->metric];

    directory->crowded_out++;
    if (!*known)
        mg_log(
            MG_LOG_WARN,
            "metric %s: %u sets of labels are there, and that is all it may have: more are counted as \"other\"; use "
            "labels with fewer values, or raise the metric's option `series`",
            directory->texts + m->name, m->count);
    *known = 1;
    if (!m->other)
        m->other = add_series(m, write_labels(m, NULL, labels));
    return m->other;
}

static double *cells_at(const struct metric *m, uint32_t number)
{
    double *row = m->kind == MG_METRIC_GAUGE ? gauges : row_of(mg_shared_slot());

    return number ? row + directory->serie[number - 1].cell : nowhere;
}

double *mg_metric_cells(int metric, const mg_slice *values)
{
    char text[LABELS_TEXT_MOST];

    if (metric < 0 || !directory)
        return nowhere;
    struct metric *m = &directory->metric[metric];
    mg_slice labels = write_labels(m, values, text);
    lock();
    uint32_t number = find_series((uint32_t)metric, labels);
    if (!number && (!m->most || m->count < m->most))
        number = add_series(m, labels);
    if (!number)
        number = crowd_out(m);
    unlock();
    return cells_at(m, number);
}

void mg_metric_begin(void)
{
    if (!start())
        return;
    double *row = row_of(mg_shared_slot());
    lock();
    for (uint32_t i = 0; i < directory->series; i++)
        if (directory->metric[directory->serie[i].metric].kind == MG_METRIC_LEVEL)
            row[directory->serie[i].cell] = 0;
    unlock();
}

/* ---- Reading. ---- */

bool mg_metric_nth(unsigned n, struct mg_metric_about *out)
{
    if (!directory || n >= __atomic_load_n(&directory->metrics, __ATOMIC_ACQUIRE))
        return false;
    const struct metric *m = &directory->metric[n];
    *out = (struct mg_metric_about){
        .name = directory->texts + m->name,
        .help = directory->texts + m->help,
        .kind = m->kind,
        .bounds = directory->bound + m->bounds,
        .bound_count = m->bound_count,
        .exemplars = m->exemplars,
        .first = __atomic_load_n(&m->first, __ATOMIC_ACQUIRE),
    };
    return true;
}

/* What a worker counts of exemplars may be half written: then the one before it stands. */
static void take_exemplar(struct mg_exemplar *to, const struct mg_exemplar *from)
{
    uint64_t turn = __atomic_load_n(&from->turn, __ATOMIC_ACQUIRE);

    if (!turn || turn & 1 || from->time <= to->time)
        return;
    struct mg_exemplar read = *from;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(&from->turn, __ATOMIC_RELAXED) == turn)
        *to = read;
}

static double read_cell(const double *cell)
{
    double value;

    __atomic_load(cell, &value, __ATOMIC_RELAXED);
    return value;
}

static void add_row(const struct mg_metric_about *m, const double *cells, struct mg_metric_sum *out)
{
    unsigned count = m->kind == MG_METRIC_HISTOGRAM ? m->bound_count + 2 : 1;

    for (unsigned i = 0; i < count; i++)
        out->cells[i] += read_cell(cells + i);
    for (unsigned i = 0; m->exemplars && i <= m->bound_count; i++)
        take_exemplar(&out->exemplars[i], (const struct mg_exemplar *)(cells + count) + i);
}

bool mg_metric_sum(const struct mg_metric_about *m, uint32_t series, struct mg_metric_sum *out)
{
    if (!series)
        return false;
    const struct series *s = &directory->serie[series - 1];
    memset(out, 0, sizeof(*out));
    out->labels = directory->texts + s->labels;
    out->next = __atomic_load_n(&s->next, __ATOMIC_ACQUIRE);
    if (m->kind == MG_METRIC_GAUGE) {
        add_row(m, gauges + s->cell, out);
        return true;
    }
    for (unsigned slot = 0; slot < mg_shared_slots(); slot++)
        if (row_of(slot) && (m->kind != MG_METRIC_LEVEL || mg_shared_slot_lives(slot, mg_shared_slot_turn(slot))))
            add_row(m, rows[slot] + s->cell, out);
    return true;
}

double mg_metric_crowded_out(void)
{
    return directory ? (double)directory->crowded_out : 0;
}

/* ---- The seam's side. ---- */

int mg_metric_declare(const mg_metric_spec *spec)
{
    return mg_metric_make(spec, false);
}

double *mg_metric_series(int metric, const mg_slice *values)
{
    return mg_metric_cells(metric, values);
}

void mg_metric_add(double *cell, double n)
{
    double old, new;

    __atomic_load(cell, &old, __ATOMIC_RELAXED);
    do
        new = old + n;
    while (!__atomic_compare_exchange(cell, &old, &new, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

/* watching.c - files that scripts watch.
 *
 * A file is watched in its folder, and so is each symbolic link on the way to
 * it: Kubernetes writes a whole new folder and turns a link to it. What was
 * found on the way is walked anew after each change. */
#include "watching.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "folder.h"
#include "log.h"
#include "task.h"
#include "text.h"

enum {
    SPOTS_MOST = 16,
    LINKS_MOST = 40, /* as Linux has it */
};
static const double SOON = 1e-6; /* the next turn of the loop */

/* A name on the way. */
struct spot {
    struct mg_folder *folder;
    struct mg_file_watch *watch;
    char name[NAME_MAX + 1];
};

struct mg_file_watch {
    struct mg_wait wait;
    struct mg_file_watch *next, *previous;
    const struct mg_task *owner;
    struct mg_timeout soon; /* something has changed on the way */
    struct mg_alarm *late;  /* whoever waits has waited long enough */
    bool changed;           /* since it was asked last */
    unsigned count;
    struct spot *spots;
    char path[];
};

unsigned mg_file_watches;
static struct mg_file_watch *first;

/* ---- The way to the file. ---- */

static void on_change(void *owner, const char *name)
{
    struct spot *s = owner;

    if (!name || strcmp(name, s->name) == 0)
        mg_timeout_set(&s->watch->soon, mg_clock_queue(SOON));
}

/* False if it can't be watched. */
static bool add_spot(struct mg_file_watch *w, const char *folder, const char *name)
{
    if (w->count == SPOTS_MOST)
        return false;
    struct spot *s = &w->spots[w->count];
    snprintf(s->name, sizeof(s->name), "%s", name);
    s->watch = w;
    s->folder = mg_folder_open(mg_slice_of(folder), on_change, s);
    w->count += s->folder != NULL;
    return s->folder;
}

struct way {
    char at[PATH_MAX];   /* a folder, with a slash behind it, or empty */
    char rest[PATH_MAX]; /* of the path, from there */
    char full[PATH_MAX], target[PATH_MAX];
    char name[NAME_MAX + 1];
};

/* The next name of the rest; false at its end, or if it is too long. */
static bool next_name(struct way *y)
{
    size_t skip = strspn(y->rest, "/"), len = strcspn(y->rest + skip, "/");

    if (!len || len > NAME_MAX)
        return false;
    memcpy(y->name, y->rest + skip, len);
    y->name[len] = '\0';
    memmove(y->rest, y->rest + skip + len, strlen(y->rest + skip + len) + 1);
    size_t n = (size_t)snprintf(y->full, sizeof(y->full), "%s%s", y->at, y->name);
    return n + 1 < sizeof(y->full);
}

/* Where the link leads stands before the rest. */
static bool follow(struct way *y)
{
    ssize_t n = readlink(y->full, y->target, sizeof(y->target) - 1);
    size_t rest = strlen(y->rest);

    if (n <= 0 || (size_t)n + rest + 1 > sizeof(y->rest))
        return false;
    memmove(y->rest + n, y->rest, rest + 1);
    memcpy(y->rest, y->target, (size_t)n);
    if (y->rest[0] == '/')
        snprintf(y->at, sizeof(y->at), "/");
    return true;
}

static bool is_link(struct way *y)
{
    return readlink(y->full, y->target, sizeof(y->target)) >= 0;
}

/* The file, or what is missing. If that has come before it was watched, all is walked anew. */
static bool add_last(struct mg_file_watch *w, const struct way *y)
{
    bool missing = access(y->full, F_OK) != 0;

    if (!add_spot(w, y->at, y->name))
        return false;
    if (missing && access(y->full, F_OK) == 0)
        mg_timeout_set(&w->soon, mg_clock_queue(SOON));
    return true;
}

/* Watches each link, and the file; or what is missing. False if something of it can't be watched. */
static bool walk(struct mg_file_watch *w)
{
    struct way y;
    unsigned links = 0;

    snprintf(y.rest, sizeof(y.rest), "%s", w->path);
    snprintf(y.at, sizeof(y.at), "%s", w->path[0] == '/' ? "/" : "");
    while (next_name(&y)) {
        if (is_link(&y)) {
            if (++links > LINKS_MOST || !add_spot(w, y.at, y.name) || !follow(&y))
                return false;
            continue;
        }
        if (!y.rest[strspn(y.rest, "/")] || access(y.full, F_OK) != 0)
            return add_last(w, &y);
        memcpy(y.at, y.full, sizeof(y.at));
        size_t len = strlen(y.at);
        y.at[len] = '/';
        y.at[len + 1] = '\0';
    }
    return false;
}

static void close_spots(struct spot *spots, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        mg_folder_close(spots[i].folder);
    free(spots);
}

/* The new ones before the old ones go, so that the kernel keeps what stays. */
static bool walk_anew(struct mg_file_watch *w)
{
    struct spot *before = w->spots;
    unsigned count = w->count;

    w->count = 0;
    w->spots = calloc(SPOTS_MOST, sizeof(*w->spots));
    bool watched = w->spots && walk(w);
    close_spots(before, count);
    return watched;
}

/* ---- Waiting for a change. ---- */

static void stop_waiting(struct mg_file_watch *w)
{
    if (w->late)
        mg_alarm_free(w->late);
    w->late = NULL;
}

static void on_soon(struct mg_timeout *t)
{
    struct mg_file_watch *w = MG_HOLDER(t, struct mg_file_watch, soon);

    (void)walk_anew(w);
    w->changed = true;
    if (!mg_wait_pending(&w->wait))
        return;
    w->changed = false;
    stop_waiting(w);
    mg_task_answer(&w->wait, MG_OK);
}

static void on_late(void *owner)
{
    struct mg_file_watch *w = owner;

    w->late = NULL;
    mg_task_answer(&w->wait, MG_TIMEOUT);
}

static void cancel(struct mg_wait *wait)
{
    stop_waiting(MG_HOLDER(wait, struct mg_file_watch, wait));
}

int mg_file_watch_wait(mg_file_watch *w, mg_task *t, double seconds)
{
    if (w->changed) {
        w->changed = false;
        return MG_OK;
    }
    if (mg_wait_pending(&w->wait))
        return MG_BUSY;
    int ticket = mg_task_wait(t, &w->wait, cancel);
    if (ticket < 0)
        return ticket;
    w->late = mg_alarm_new(seconds > 0 ? seconds : 0, on_late, w);
    if (w->late)
        return ticket;
    mg_task_cancel(t, ticket);
    return MG_NO_MEMORY;
}

/* ---- Life. ---- */

int mg_file_watch_open(mg_task *t, const char *path, uint32_t len, mg_file_watch **out)
{
    *out = NULL;
    if (!len || len >= PATH_MAX || memchr(path, '\0', len))
        return MG_MALFORMED;
    struct mg_file_watch *w = calloc(1, sizeof(*w) + len + 1);
    if (!w)
        return MG_NO_MEMORY;
    memcpy(w->path, path, len);
    w->owner = t;
    w->soon.fire = on_soon;
    if (!walk_anew(w))
        mg_log(MG_LOG_WARN, "%s can't be watched: %s", w->path, strerror(errno));
    w->next = first;
    if (first)
        first->previous = w;
    first = w;
    mg_file_watches++;
    *out = w;
    return MG_OK;
}

void mg_file_watch_close(mg_file_watch *w)
{
    stop_waiting(w);
    if (mg_wait_pending(&w->wait))
        mg_task_cancel(w->wait.task, w->wait.ticket);
    mg_timeout_clear(&w->soon);
    close_spots(w->spots, w->count);
    *(w->previous ? &w->previous->next : &first) = w->next;
    if (w->next)
        w->next->previous = w->previous;
    mg_file_watches--;
    free(w);
}

void mg_file_watch_end(const struct mg_task *t)
{
    for (struct mg_file_watch *w = first, *next; w; w = next) {
        next = w->next;
        if (w->owner == t)
            mg_file_watch_close(w);
    }
}

/* watch.c - tells when files have been written anew, by inotify. */
#include "watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <ev.h>

#include "log.h"

enum { FILES_MOST = 1024 };
static const double QUIET = 0.1; /* seconds without a change that end a burst */

struct file {
    int folder; /* inotify's number of it */
    char *name; /* in it */
};

static struct file files[FILES_MOST];
static unsigned count;
static bool any_lua;
static struct ev_loop *loop;
static ev_io io = { .fd = -1 };
static ev_timer quiet;
static void (*changed)(void);

static bool ends_in_lua(const char *name)
{
    size_t n = strlen(name);

    return n > 4 && strcmp(name + n - 4, ".lua") == 0;
}

static bool counts(const struct inotify_event *e)
{
    if (!e->len)
        return false;
    for (unsigned i = 0; i < count; i++)
        if (files[i].folder == e->wd && strcmp(files[i].name, e->name) == 0)
            return true;
    return any_lua && ends_in_lua(e->name);
}

static void on_events(struct ev_loop *l, ev_io *w, int revents)
{
    char buffer[8192] __attribute__((aligned(__alignof__(struct inotify_event))));
    bool any = false;
    ssize_t n;

    (void)revents;
    while ((n = read(w->fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *e = (const struct inotify_event *)(buffer + at);
            any = any || (e->mask & IN_Q_OVERFLOW) || counts(e);
            at += (ssize_t)(sizeof(*e) + e->len);
        }
    }
    if (any)
        ev_timer_again(l, &quiet);
}

static void on_quiet(struct ev_loop *l, ev_timer *t, int revents)
{
    (void)revents;
    ev_timer_stop(l, t);
    changed();
}

bool mg_watch_start(struct ev_loop *on, void (*on_changed)(void))
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

    if (fd < 0)
        return false;
    loop = on;
    changed = on_changed;
    ev_init(&quiet, on_quiet);
    quiet.repeat = QUIET;
    ev_io_init(&io, on_events, fd, EV_READ);
    ev_io_start(loop, &io);
    return true;
}

static bool is_used(const struct file *list, unsigned n, int folder)
{
    for (unsigned i = 0; i < n; i++)
        if (list[i].folder == folder)
            return true;
    return false;
}

static void add(const char *path, size_t len)
{
    char folder[4096];
    const char *slash = memrchr(path, '/', len);
    const char *name = slash ? slash + 1 : path;
    size_t folder_len = (size_t)(name - path);

    if (count == FILES_MOST || !len || folder_len >= sizeof(folder))
        return;
    memcpy(folder, path, folder_len);
    folder[folder_len] = '\0';
    struct file f = {
        .folder = inotify_add_watch(io.fd, folder_len ? folder : ".", IN_CLOSE_WRITE | IN_MOVED_TO),
        .name = strndup(name, len - folder_len),
    };
    if (f.folder < 0 || !f.name) {
        mg_log(MG_LOG_WARN, "--watch: %.*s can't be watched", (int)len, path);
        free(f.name);
        return;
    }
    files[count++] = f;
}

void mg_watch_files(const char *list, bool broadly)
{
    struct file before[FILES_MOST];
    unsigned before_count = count;

    any_lua = broadly;
    if (io.fd < 0 || !list)
        return;
    memcpy(before, files, before_count * sizeof(*files));
    count = 0;
    while (*list) {
        size_t len = strcspn(list, "\n");
        add(list, len);
        list += len + (list[len] == '\n');
    }
    for (unsigned i = 0; i < before_count; i++) {
        /* Several files may lie in one folder: it is let go with the last of them. */
        if (!is_used(files, count, before[i].folder) && !is_used(before, i, before[i].folder))
            inotify_rm_watch(io.fd, before[i].folder);
        free(before[i].name);
    }
}

void mg_watch_forget(void)
{
    while (count)
        free(files[--count].name);
    if (io.fd >= 0)
        close(io.fd);
    io.fd = -1;
}

void mg_watch_stop(void)
{
    if (io.fd >= 0) {
        ev_io_stop(loop, &io);
        ev_timer_stop(loop, &quiet);
    }
    mg_watch_forget();
}

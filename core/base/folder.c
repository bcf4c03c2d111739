/* folder.c - tells what is written, renamed or linked in folders, by inotify.
 *
 * Folders are watched, not files, since whoever takes care puts a new file in
 * the place of the old one. The kernel has one number for a folder, however
 * often it is asked for. */
#include "folder.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ev.h>

static const uint32_t WANTED = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
static const uint32_t ANYTHING = IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT;

struct mg_folder {
    struct mg_folder *next, *previous;
    int number; /* inotify's */
    void (*changed)(void *owner, const char *name);
    void *owner;
    char path[];
};

static struct ev_loop *loop;
static ev_io io = { .fd = -1 };
static struct mg_folder *first;

/* What has just been created is whole if it is no file, or a file of before under one more name. Another one's writer
 * will close it. */
static bool is_whole(const struct mg_folder *f, const struct inotify_event *e)
{
    char path[PATH_MAX];
    struct stat st;

    if (!(e->mask & IN_CREATE))
        return true;
    int n = snprintf(path, sizeof(path), "%s/%s", f->path, e->name);
    return n > 0 && (size_t)n < sizeof(path) && lstat(path, &st) == 0 && (!S_ISREG(st.st_mode) || st.st_nlink > 1);
}

static void tell(const struct inotify_event *e)
{
    bool all = e->mask & IN_Q_OVERFLOW;

    for (struct mg_folder *f = first; f; f = f->next) {
        if (!all && f->number != e->wd)
            continue;
        if (e->mask & ANYTHING)
            f->changed(f->owner, NULL);
        else if (e->len && is_whole(f, e))
            f->changed(f->owner, e->name);
    }
}

static void on_events(struct ev_loop *l, ev_io *w, int revents)
{
    char buffer[8192] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n;

    (void)l;
    (void)revents;
    while ((n = read(w->fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *e = (const struct inotify_event *)(buffer + at);
            tell(e);
            at += (ssize_t)(sizeof(*e) + e->len);
        }
    }
}

static bool open_door(void)
{
    int fd;

    errno = ENOSYS;
    if (io.fd >= 0 || !loop)
        return loop;
    fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0)
        return false;
    ev_io_init(&io, on_events, fd, EV_READ);
    ev_io_start(loop, &io);
    return true;
}

struct mg_folder *mg_folder_open(mg_slice path, void (*changed)(void *owner, const char *name), void *owner)
{
    struct mg_folder *f = open_door() ? calloc(1, sizeof(*f) + path.len + 2) : NULL;

    if (!f)
        return NULL;
    if (path.len)
        memcpy(f->path, path.ptr, path.len);
    else
        f->path[0] = '.';
    f->changed = changed;
    f->owner = owner;
    f->number = inotify_add_watch(io.fd, f->path, WANTED);
    if (f->number < 0) {
        int error = errno;
        free(f);
        errno = error;
        return NULL;
    }
    f->next = first;
    if (first)
        first->previous = f;
    first = f;
    return f;
}

static bool is_used(int number)
{
    for (const struct mg_folder *f = first; f; f = f->next)
        if (f->number == number)
            return true;
    return false;
}

static void unlink_folder(struct mg_folder *f)
{
    *(f->previous ? &f->previous->next : &first) = f->next;
    if (f->next)
        f->next->previous = f->previous;
}

void mg_folder_close(struct mg_folder *f)
{
    unlink_folder(f);
    if (!is_used(f->number))
        inotify_rm_watch(io.fd, f->number);
    free(f);
}

void mg_folder_start(struct ev_loop *on)
{
    loop = on;
}

void mg_folder_forget(void)
{
    while (first) {
        struct mg_folder *f = first;
        unlink_folder(f);
        free(f);
    }
    if (io.fd >= 0)
        close(io.fd);
    io.fd = -1;
    loop = NULL;
}

void mg_folder_stop(void)
{
    if (io.fd >= 0)
        ev_io_stop(loop, &io);
    mg_folder_forget();
}

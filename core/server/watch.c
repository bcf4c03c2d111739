/* watch.c - tells when files have been written anew. */
#include "watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "folder.h"
#include "log.h"

enum { FILES_MOST = 1024 };
static const double QUIET = 0.1; /* seconds without a change that end a burst */

struct file {
    struct mg_folder *folder;
    char *name; /* in it */
};

static struct file files[FILES_MOST];
static unsigned count;
static bool any_lua;
static struct ev_loop *loop; /* NULL: nothing is watched */
static ev_timer quiet;
static void (*changed)(void);

static bool ends_in_lua(const char *name)
{
    size_t n = strlen(name);

    return n > 4 && strcmp(name + n - 4, ".lua") == 0;
}

static void on_change(void *owner, const char *name)
{
    if (!name || strcmp(name, owner) == 0 || (any_lua && ends_in_lua(name)))
        ev_timer_again(loop, &quiet);
}

static void on_quiet(struct ev_loop *l, ev_timer *t, int revents)
{
    (void)revents;
    ev_timer_stop(l, t);
    changed();
}

void mg_watch_start(struct ev_loop *on, void (*on_changed)(void))
{
    loop = on;
    changed = on_changed;
    ev_init(&quiet, on_quiet);
    quiet.repeat = QUIET;
    mg_folder_start(on);
}

static void add(const char *path, size_t len)
{
    const char *slash = memrchr(path, '/', len);
    const char *name = slash ? slash + 1 : path;
    mg_slice folder = { path, (uint32_t)(name - path) };

    if (count == FILES_MOST || !len)
        return;
    struct file f = { .name = strndup(name, len - folder.len) };
    f.folder = f.name ? mg_folder_open(folder, on_change, f.name) : NULL;
    if (!f.folder) {
        mg_log(MG_LOG_WARN, "--watch: %.*s can't be watched: %s", (int)len, path, strerror(errno));
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
    if (!loop || !list)
        return;
    memcpy(before, files, before_count * sizeof(*files));
    count = 0;
    while (*list) {
        size_t len = strcspn(list, "\n");
        add(list, len);
        list += len + (list[len] == '\n');
    }
    for (unsigned i = 0; i < before_count; i++) {
        mg_folder_close(before[i].folder);
        free(before[i].name);
    }
}

static void free_names(void)
{
    while (count)
        free(files[--count].name);
    loop = NULL;
}

void mg_watch_forget(void)
{
    free_names();
    mg_folder_forget();
}

void mg_watch_stop(void)
{
    if (!loop)
        return;
    ev_timer_stop(loop, &quiet);
    free_names();
    mg_folder_stop();
}

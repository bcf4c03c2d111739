/* launch.c - how this process was started, and the same once more.
 *
 * The path is kept as it was called, not as the kernel resolved it: whoever
 * installs a new version puts another file, or another link, in that place. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIRST = 3, NAMES_MOST = 32 * 1024 };
static const char SELF[] = "/proc/self/exe";

static char *binary, *folder, **arguments;

static bool is_this_binary(const char *path)
{
    struct stat a, b;

    return stat(path, &a) == 0 && stat(SELF, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* NULL without memory. */
static char *join(const char *directory, size_t len, const char *name)
{
    char *path = NULL;

    return asprintf(&path, "%.*s/%s", (int)len, directory, name) < 0 ? NULL : path;
}

/* As a shell has found it. NULL: not there. */
static char *search(const char *name)
{
    const char *list = getenv("PATH");

    while (list) {
        size_t len = strcspn(list, ":");
        char *path = len ? join(list, len, name) : join(folder, strlen(folder), name);
        if (path && is_this_binary(path))
            return path;
        free(path);
        list = list[len] ? list + len + 1 : NULL;
    }
    return NULL;
}

static char *called_as(const char *name)
{
    char *path = !strchr(name, '/') ? search(name) : name[0] == '/' ? strdup(name) : join(folder, strlen(folder), name);

    if (path && is_this_binary(path))
        return path;
    free(path);
    return realpath(SELF, NULL);
}

bool mg_launch_remember(int argc, char **argv)
{
    folder = getcwd(NULL, 0);
    arguments = calloc((size_t)argc + 1, sizeof(*arguments));
    if (!folder || !arguments)
        return false;
    for (int i = 0; i < argc; i++)
        arguments[i] = argv[i];
    binary = called_as(argv[0]);
    return binary;
}

const char *mg_launch_path(void)
{
    return binary;
}

static bool set_number(const char *name, long number)
{
    char text[24];

    snprintf(text, sizeof(text), "%ld", number);
    return setenv(name, text, 1) == 0;
}

static bool set_environment(const char *const *names, unsigned count)
{
    static char list[NAMES_MOST];
    size_t n = 0;

    for (unsigned i = 0; i < count && n < sizeof(list); i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? ":" : "", names[i]);
    return n < sizeof(list) && set_number("LISTEN_PID", getpid()) && set_number("LISTEN_FDS", (long)count) &&
           setenv("LISTEN_FDNAMES", list, 1) == 0;
}

/* First out of the way, then each to its place; what it lies on there is closed by the execution anyway. */
static bool place(int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if ((fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, FIRST + (int)count)) < 0)
            return false;
    for (unsigned i = 0; i < count; i++)
        if (dup2(fds[i], FIRST + (int)i) < 0)
            return false;
    return true;
}

const char *mg_launch(int *fds, const char *const *names, unsigned count)
{
    static char why[4096];
    const char *what = folder;

    if (chdir(folder) == 0) {
        what = "descriptors or environment";
        if (place(fds, count) && set_environment(names, count)) {
            what = binary;
            execv(binary, arguments);
        }
    }
    snprintf(why, sizeof(why), "%s: %s", what, strerror(errno));
    return why;
}

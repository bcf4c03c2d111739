/* file.c - files for scripts: opened beneath a folder, read in pieces.
 *
 * The kernel itself sees to it that no path leads out of the folder (openat2),
 * so there is no check that another process could get ahead of. A file belongs
 * to its generation, as a key does (key.c). */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "generation.h"

enum { PIECE_MOST = 256 * 1024 };

struct mg_file {
    struct mg_file *next, *previous;
    const struct mg_generation *generation;
    int descriptor;
};

static struct mg_file *files; /* of all generations */

static int status_of(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
    case EINVAL:
        return MG_ABSENT;
    case EMFILE:
    case ENFILE:
        return MG_FULL;
    case ENOMEM:
        return MG_NO_MEMORY;
    default:
        return MG_REFUSED; /* EXDEV: it leads out of the folder; EACCES; ELOOP */
    }
}

/* Whatever it is, opening it does not wait: a FIFO would. */
static int open_beneath(const char *root, const char *path)
{
    struct open_how how = {
        .flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    int folder = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (folder < 0)
        return -1;
    int fd = (int)syscall(SYS_openat2, folder, *path ? path : ".", &how, sizeof(how));
    int error = errno;
    close(folder);
    errno = error;
    return fd;
}

/* A copy that ends with a zero byte, which can't stand in the middle; false: it does, or the text is too long. */
static bool read_path(char to[PATH_MAX], const char *ptr, uint32_t len)
{
    if (len >= PATH_MAX || memchr(ptr, '\0', len))
        return false;
    memcpy(to, ptr, len);
    to[len] = '\0';
    return true;
}

static void describe(const struct stat *s, mg_file_about *out)
{
    out->size = (double)s->st_size;
    out->modified = (double)s->st_mtim.tv_sec;
    out->folder = S_ISDIR(s->st_mode);
    snprintf(out->tag, sizeof(out->tag), "%llx-%llx",
             (unsigned long long)s->st_mtim.tv_sec * 1000000000 + (unsigned long long)s->st_mtim.tv_nsec,
             (unsigned long long)s->st_size);
}

static struct mg_file *keep(mg_generation *g, int fd)
{
    struct mg_file *f = calloc(1, sizeof(*f));

    if (!f)
        return NULL;
    f->generation = g;
    f->descriptor = fd;
    f->next = files;
    if (files)
        files->previous = f;
    files = f;
    return f;
}

int mg_file_open(mg_generation *g, mg_slice root, mg_slice path, mg_file_about *about, mg_file **out)
{
    char folder[PATH_MAX], name[PATH_MAX];
    struct stat s;

    *out = NULL;
    if (!read_path(folder, root.ptr, root.len) || !read_path(name, path.ptr, path.len))
        return MG_ABSENT;
    int fd = open_beneath(folder, name);
    if (fd < 0)
        return status_of(errno);
    int status = fstat(fd, &s) != 0 || !(S_ISREG(s.st_mode) || S_ISDIR(s.st_mode)) ? MG_REFUSED : MG_OK;
    if (status == MG_OK)
        describe(&s, about);
    if (status == MG_OK && S_ISREG(s.st_mode) && !(*out = keep(g, fd)))
        status = MG_NO_MEMORY;
    if (!*out)
        close(fd);
    return status;
}

int mg_file_read(mg_file *f, double at, uint32_t most, mg_slice *out)
{
    static char piece[PIECE_MOST];
    ssize_t n;

    do
        n = pread(f->descriptor, piece, most < PIECE_MOST ? most : PIECE_MOST, (off_t)at);
    while (n < 0 && errno == EINTR);
    *out = (mg_slice){ piece, n > 0 ? (uint32_t)n : 0 };
    return n < 0 ? MG_CUT : MG_OK;
}

void mg_file_close(mg_file *f)
{
    if (f->previous)
        f->previous->next = f->next;
    else
        files = f->next;
    if (f->next)
        f->next->previous = f->previous;
    close(f->descriptor);
    free(f);
}

void mg_files_end(const struct mg_generation *g)
{
    for (struct mg_file *f = files, *next; f; f = next) {
        next = f->next;
        if (f->generation == g)
            mg_file_close(f);
    }
}
